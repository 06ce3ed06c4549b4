//! What the kernel has of the programs, compared with the plan.

use super::{
    Hook, Programs,
    attach::{EbpfError, NETNS, place},
    link, maps, pins,
};
use std::{fs, io, os::fd::AsFd, os::unix::fs::MetadataExt, path::Path};

/// How what is there differs from the plan: one sentence each, none when it is the same.
///
/// # Errors
/// When it is not known where to look.
pub fn differences(planned: &Programs) -> Result<Vec<String>, EbpfError> {
    let (cgroup, folder) = place(&planned.place)?;
    let namespace = fs::metadata(NETNS).map(|found| found.ino());
    let targets = (cgroup.id().unwrap_or_default(), namespace.unwrap_or_default());
    let mut differences: Vec<_> =
        planned.hooks.iter().filter_map(|hook| link_difference(*hook, folder, targets)).collect();
    for hook in Hook::ALL.iter().filter(|hook| !planned.hooks.contains(hook)) {
        if folder.join(pins::link(*hook)).exists() {
            differences.push(format!("program {} is attached and not planned", hook.attach_type_and_name().1));
        }
    }
    differences.extend(maps::differences(folder, planned));
    Ok(differences)
}

fn link_difference(hook: Hook, folder: &Path, (cgroup, namespace): (u64, u64)) -> Option<String> {
    let (attach_type, name) = hook.attach_type_and_name();
    let found = link::open(&folder.join(pins::link(hook))).and_then(|link| link::link_info(link.as_fd()));
    let program = link::open(&folder.join(pins::program(hook))).and_then(|program| link::program_id(program.as_fd()));
    let found = match found {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some(format!("program {name} is not attached: its link is gone"));
        }
        Err(error) => return Some(format!("the link of program {name} cannot be read: {error}")),
    };
    let wanted = if hook == Hook::SkLookup { namespace } else { cgroup };
    if found.target == 0 || found.target != wanted {
        return Some(format!("program {name} is attached to {}, not to {wanted} of this pod", found.target));
    }
    if found.attach_type != attach_type || program.ok() != Some(found.program) {
        return Some(format!("another program is attached in the place of {name}"));
    }
    None
}

//! The folder of a pod's pins in a bpffs.

use super::Hook;
use std::{fs, io, path::Path};

/// Makes the folder, for root alone.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make(pins: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(pins)
}

/// Whether this file system keeps pins (statfs(2)).
///
/// # Errors
/// When it is not there.
pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(crate::socket::file_system(path)? == BPF_FS_MAGIC)
}

/// Removes the folder and all that is in it: programs are detached with their links.
///
/// # Errors
/// When a file cannot be removed; no error when there is none.
pub(super) fn remove(pins: &Path) -> io::Result<()> {
    match fs::remove_dir_all(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes the links and programs of the hooks that are not planned any more.
///
/// # Errors
/// When a file cannot be removed.
pub(super) fn remove_others(pins: &Path, planned: &[Hook]) -> io::Result<()> {
    for hook in Hook::ALL.into_iter().filter(|hook| !planned.contains(hook)) {
        for name in [link(hook), program(hook)] {
            match fs::remove_file(pins.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The file of a hook's link.
pub(super) fn link(hook: Hook) -> String {
    format!("link_{}", hook.attach_type_and_name().1)
}

/// The file of a hook's program.
pub(super) fn program(hook: Hook) -> String {
    format!("prog_{}", hook.attach_type_and_name().1)
}

/// linux/magic.h
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

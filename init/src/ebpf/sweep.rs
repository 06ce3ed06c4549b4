//! Finds the pins that outlived their pod: nobody removes them when a cgroup and a network namespace go.

use super::{link, pins, place::FOLDER};
use crate::{
    cgroup::{self, CgroupError},
    config::is_uid,
};
use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// The folders of pods' pins in this bpffs, with the UID or other name that each has.
///
/// # Errors
/// When the bpffs cannot be read. That nothing of ours is in it is none.
pub fn folders(bpffs: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(bpffs.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let (Ok(name), true) = (entry.file_name().into_string(), entry.file_type()?.is_dir()) {
            folders.push((name, entry.path()));
        }
    }
    Ok(folders)
}

/// The folder of one pod's pins, whether or not it exists.
pub fn folder(bpffs: &Path, pod_uid: &str) -> PathBuf {
    bpffs.join(FOLDER).join(pod_uid)
}

/// Removes a folder of pins; what is attached by it is detached.
///
/// # Errors
/// When a file cannot be removed; no error when there is none.
pub fn remove(folder: &Path) -> io::Result<()> {
    pins::remove(folder)
}

/// Whether nothing of a pod is left but these pins: the kernel says so of every link. Where there is no link yet, or any more,
/// the pod's cgroup must be gone.
///
/// # Errors
/// When the kernel does not tell. A folder that is gone is dead.
pub fn is_dead(name: &str, folder: &Path) -> io::Result<bool> {
    let mut links = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_link = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(LINK_PREFIX));
        if is_link {
            links += 1;
            let opened = link::open(&path)?;
            if link::link_info(opened.as_fd())?.target != 0 {
                return Ok(false);
            }
        }
    }
    // A pod without a UID may be about to be captured at this moment.
    let is_pods = is_uid(name) && !name.starts_with(WITHOUT_UID);
    Ok(links > 0 || (is_pods && matches!(cgroup::find(None, Some(name)), Err(CgroupError::NoPod { .. }))))
}

/// How the folders of pods begin whose UID is not known.
const WITHOUT_UID: &str = "cgroup-";
/// How the names of links begin ([`super::pins::link`]).
const LINK_PREFIX: &str = "link_";

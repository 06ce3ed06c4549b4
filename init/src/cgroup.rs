//! Finds the cgroup of the pod: the directory under which every container of it has one (cgroups(7), version 2).
//!
//! The host's cgroup2 may be mounted anywhere and beside version 1, and this process may see only a part of it.

mod search;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The cgroup of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Its directory.
    pub path: PathBuf,
    /// The host has version 1 as well, so that nobody but us may have made this directory, or will remove it.
    pub is_hybrid: bool,
}

impl Cgroup {
    /// Its number, which the kernel gives to programs, too: the directory's inode.
    ///
    /// # Errors
    /// When it is gone.
    pub fn id(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }
}

/// Why the pod's cgroup is not known.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 is mounted here.
    #[error(
        "no cgroup2 file system is mounted here, and eBPF programs are attached to a pod's cgroup; mount the node's \
         /sys/fs/cgroup into this container (hostPath), or use --mode tproxy"
    )]
    NotMounted,
    /// The directory given is none of cgroup2.
    #[error("--cgroup: {} is not a directory of cgroup2 (cgroups(7)); give the pod's, whose subdirectories are its containers", .0.display())]
    NotCgroup(PathBuf),
    /// The pod's number leads nowhere.
    #[error(
        "no cgroup of pod {uid} is under {}; is this the node's /sys/fs/cgroup? Give the pod's directory by --cgroup", list(.mounts)
    )]
    NoPod {
        /// The pod's UID.
        uid: String,
        /// Where it was looked for.
        mounts: Vec<PathBuf>,
    },
    /// Our own cgroup is not below one of the mounts.
    #[error(
        "the cgroup of this container is not under {}: only a part of the node's cgroups is mounted. Mount the node's \
         /sys/fs/cgroup (hostPath), or give --pod-uid (metadata.uid of the downward API), or --cgroup", list(.0)
    )]
    NotBelow(Vec<PathBuf>),
    /// There is no cgroup above ours but the whole machine's.
    #[error(
        "this process is not in a container's cgroup: above its own there is only {}, the whole machine. Give --pod-uid or --cgroup", .0.display()
    )]
    WholeMachine(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The cgroup of the pod: the directory given, else that of the pod with this UID, else the one above our own.
///
/// # Errors
/// When there is no such cgroup, or it cannot be told.
pub fn find(given: Option<&Path>, pod_uid: Option<&str>) -> Result<Cgroup, CgroupError> {
    if let Some(path) = given {
        let real = fs::canonicalize(path).map_err(|source| CgroupError::Read { path: path.to_owned(), source })?;
        let found = Cgroup { path: real, is_hybrid: false };
        return if is_cgroup(&found.path) { Ok(found) } else { Err(CgroupError::NotCgroup(path.to_owned())) };
    }
    let mounts = search::mounts(Path::new("/proc/thread-self/mountinfo"))?;
    if mounts.v2.is_empty() {
        return Err(CgroupError::NotMounted);
    }
    let path = match pod_uid {
        Some(uid) => search::by_uid(&mounts, uid)
            .ok_or_else(|| CgroupError::NoPod { uid: uid.to_owned(), mounts: mounts.v2.clone() })?,
        None => above_ours(&mounts)?,
    };
    Ok(Cgroup { path, is_hybrid: !mounts.v1.is_empty() })
}

/// Where cgroup2 is mounted, the node's whole tree or a part of it.
///
/// # Errors
/// When it is not.
pub fn roots() -> Result<Vec<PathBuf>, CgroupError> {
    let roots = search::mounts(Path::new("/proc/thread-self/mountinfo"))?.v2;
    if roots.is_empty() { Err(CgroupError::NotMounted) } else { Ok(roots) }
}

fn above_ours(mounts: &search::Mounts) -> Result<PathBuf, CgroupError> {
    let ours = search::ours(mounts)?.ok_or_else(|| CgroupError::NotBelow(mounts.v2.clone()))?;
    match ours.parent() {
        Some(parent) if is_cgroup(parent) && !mounts.v2.iter().any(|mount| mount == parent) => Ok(parent.to_owned()),
        _ => Err(CgroupError::WholeMachine(ours)),
    }
}

/// Every cgroup but the root of all has this file (cgroups(7)); so has no directory of version 1.
fn is_cgroup(path: &Path) -> bool {
    path.join("cgroup.type").is_file()
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

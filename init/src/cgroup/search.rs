//! Where cgroups are mounted (proc_pid_mountinfo(5)), and which of their directories are a pod's or our own.

use super::CgroupError;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Where cgroups are mounted, in the order of mounting.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// Version 2.
    pub(super) v2: Vec<PathBuf>,
    /// The hierarchies of version 1, on hybrid hosts.
    pub(super) v1: Vec<PathBuf>,
}

/// The mounts that this file lists.
///
/// # Errors
/// When it cannot be read.
pub(super) fn mounts(file: &Path) -> Result<Mounts, CgroupError> {
    let text = fs::read_to_string(file).map_err(|source| CgroupError::Read { path: file.to_owned(), source })?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Mounts {
    let mut mounts = Mounts::default();
    for line in text.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(at) = before.split(' ').nth(4).map(|path| PathBuf::from(unescape(path))) else { continue };
        match after.split(' ').next() {
            Some("cgroup2") => mounts.v2.push(at),
            Some("cgroup") => mounts.v1.push(at),
            _ => {}
        }
    }
    mounts
}

/// The directory of the pod with this UID, as the kubelet names it: `pod<uid>`, or with systemd's driver `…pod<uid>.slice` with
/// `_` for `-`. On a hybrid host the kubelet makes it in the hierarchies of version 1 only; the runtime makes the same in version
/// 2 when the first container starts, so what is found here may have to be made.
pub(super) fn by_uid(mounts: &Mounts, uid: &str) -> Option<PathBuf> {
    let names = [format!("pod{uid}"), format!("pod{}.slice", uid.replace('-', "_"))];
    let is_pod = |name: &str| name == names[0] || name.ends_with(&names[1]);
    if let Some(found) = mounts.v2.iter().find_map(|mount| below(mount, DEPTH_MAX, &|name, _| is_pod(name))) {
        return Some(found);
    }
    let (mount, old) = mounts
        .v1
        .iter()
        .find_map(|mount| below(mount, DEPTH_MAX, &|name, _| is_pod(name)).map(|found| (mount, found)))?;
    Some(mounts.v2.first()?.join(old.strip_prefix(mount).ok()?))
}

/// The directory of the cgroup that this thread is in.
///
/// In a cgroup namespace of its own it is the root of a mount made in there; the node's mount has the same directory deeper
/// down.
///
/// # Errors
/// When /proc is not mounted.
pub(super) fn ours(mounts: &Mounts) -> Result<Option<PathBuf>, CgroupError> {
    let file = Path::new("/proc/thread-self/cgroup");
    let text = fs::read_to_string(file).map_err(|source| CgroupError::Read { path: file.to_owned(), source })?;
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::")) else { return Ok(None) };
    let relative = path.trim_start_matches('/');
    let candidates = mounts.v2.iter().map(|mount| mount.join(relative));
    let Some(id) = candidates.clone().find_map(|path| fs::metadata(path).ok()).map(|found| found.ino()) else {
        return Ok(None);
    };
    let is_same = |metadata: &fs::Metadata| metadata.ino() == id;
    let deeper = mounts.v2.iter().find_map(|mount| below(mount, DEPTH_MAX, &|_, metadata| is_same(metadata)));
    Ok(deeper.or_else(|| candidates.into_iter().find(|path| path.exists())))
}

/// The first directory below `from` that is wanted, at most so many levels down; upper levels first.
fn below(from: &Path, levels: usize, wanted: &dyn Fn(&str, &fs::Metadata) -> bool) -> Option<PathBuf> {
    let folders: Vec<_> = fs::read_dir(from)
        .ok()?
        .flatten()
        // A directory of cgroups has some seventy files, and only its subdirectories are worth a stat(2).
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .collect();
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if let Some((path, _)) = folders.iter().find(|(path, metadata)| wanted(&name(path), metadata)) {
        return Some(path.clone());
    }
    if levels <= 1 {
        return None;
    }
    folders.iter().find_map(|(path, _)| below(path, levels - 1, wanted))
}

/// `\040` is a space (proc_pid_mountinfo(5)).
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (from, to)| path.replace(from, to))
}

/// Kubelets nest three or four levels; kind's and nested runtimes' a few more.
const DEPTH_MAX: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found() {
        let text = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
                    31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    32 30 0:28 / /sys/fs/cgroup/cpu\\040x rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
                    a broken line";
        let expected = Mounts { v2: vec!["/sys/fs/cgroup/unified".into()], v1: vec!["/sys/fs/cgroup/cpu x".into()] };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn a_pod_is_found_by_its_uid_with_both_drivers() {
        let root = std::env::temp_dir().join(format!("heddle-search-{}", std::process::id()));
        let (cgroupfs, systemd) =
            (root.join("kubepods/burstable/pod12-34"), root.join("k.slice/kubepods-pod56_78.slice"));
        for path in [&cgroupfs, &systemd] {
            fs::create_dir_all(path).expect("a temporary folder");
        }
        let mounts = Mounts { v2: vec![root.clone()], v1: vec![] };
        let found = ["12-34", "56-78", "90"].map(|uid| by_uid(&mounts, uid));
        fs::remove_dir_all(&root).expect("it was just made");
        assert_eq!(found, [Some(cgroupfs), Some(systemd), None]);
    }

    #[test]
    fn on_a_hybrid_host_the_directory_of_version_1_tells_that_of_version_2() {
        let root = std::env::temp_dir().join(format!("heddle-hybrid-{}", std::process::id()));
        let mounts = Mounts { v2: vec![root.join("v2")], v1: vec![root.join("cpu")] };
        fs::create_dir_all(root.join("cpu/kubepods/pod9")).expect("a temporary folder");
        fs::create_dir_all(root.join("v2")).expect("a temporary folder");
        let found = by_uid(&mounts, "9");
        fs::remove_dir_all(&root).expect("it was just made");
        assert_eq!(found, Some(root.join("v2/kubepods/pod9")));
    }
}

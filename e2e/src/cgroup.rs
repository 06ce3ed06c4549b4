//! A pod's control groups: one directory for the pod and one below it for each container, as a kubelet makes them.
//!
//! ```text
//!   <cgroup2 mount>/<our own cgroup>/<mesh>/kubepods/pod<uid>/{init,proxy,app}
//! ```
//! All of them are `threaded` (cgroups(7), "Thread mode"), so that a thread of this process can work in a container:
//! a socket belongs to the cgroup of the thread that makes it, and so do the hooks that it meets.

use crate::wait::{self, PATIENCE};
use anyhow::{Context, Result, bail};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The cgroup of a pod. Dropping it removes it, with those of its containers, once they are empty.
#[derive(Debug)]
pub struct PodCgroup {
    path: PathBuf,
}

/// The cgroup of one container: where its programs, threads and sockets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    path: PathBuf,
}

impl PodCgroup {
    /// Makes it with the containers that every pod has.
    ///
    /// # Errors
    /// Without cgroup2 or the right to, and where the kernel allows no threaded cgroups below our own.
    pub(crate) fn create(mesh: &str, uid: &str) -> Result<Self> {
        let mut path = own()?;
        for part in [mesh, KUBEPODS, &format!("pod{uid}")] {
            path.push(part);
            make_threaded(&path)?;
        }
        let pod = Self { path };
        for container in [INIT, PROXY, APP] {
            pod.container(container).make()?;
        }
        Ok(pod)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container of this name, or one nested in another (`app/nested`). It must be made, unless it is one of those that
    /// every pod has.
    pub fn container(&self, name: &str) -> Container {
        Container { path: self.path.join(name) }
    }
}

impl Drop for PodCgroup {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            eprintln!("cannot remove the cgroup {}: {error:#}", self.path.display());
        }
        // What all pods of a mesh share goes with the last of them.
        for shared in self.path.ancestors().skip(1).take(2) {
            let _ = fs::remove_dir(shared);
        }
    }
}

impl Container {
    /// One that a mesh which was left running has.
    pub fn existing(mesh: &str, uid: &str, name: &str) -> Result<Option<Self>> {
        let path = |mesh: PathBuf| mesh.join(KUBEPODS).join(format!("pod{uid}")).join(name);
        Ok(find(|found| found == mesh)?.into_iter().map(path).find(|path| path.is_dir()).map(|path| Self { path }))
    }

    /// Makes it.
    ///
    /// # Errors
    /// As [`PodCgroup::create`], or when the container that it is nested in is not there.
    pub fn make(&self) -> Result<()> {
        make_threaded(&self.path)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, once it is empty, with what is nested in it.
    ///
    /// # Errors
    /// When a thread in it does not end.
    pub fn remove(&self) -> Result<()> {
        remove_tree(&self.path)
    }

    /// Moves the calling thread into it, for good: a thread made for it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn enter(&self) -> io::Result<()> {
        fs::write(self.path.join(THREADS), "0")
    }

    /// The file that a program writes its process id to, to be in it.
    pub(crate) fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

/// Removes the cgroups of the meshes that `is_ours` says yes to by name, wherever they are; kills what is left in them.
///
/// # Errors
/// When something in them does not end.
pub(crate) fn sweep(is_ours: impl Fn(&str) -> bool) -> Result<()> {
    find(is_ours)?.iter().try_for_each(|mesh| remove_tree(mesh))
}

/// The directories of this name in the whole hierarchy: a mesh may have been made from another cgroup than ours.
fn find(wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![mount()?.point]);
    while let Some(folder) = folders.pop() {
        for child in children(&folder) {
            let is_wanted = child.file_name().and_then(|name| name.to_str()).is_some_and(&wanted);
            if is_wanted { &mut found } else { &mut folders }.push(child);
        }
    }
    Ok(found)
}

/// Removes a directory, the deepest first, and waits until each is empty. Programs in it are killed, threads of ours end by
/// themselves.
fn remove_tree(path: &Path) -> Result<()> {
    for child in children(path) {
        remove_tree(&child)?;
    }
    wait::until_true(&format!("an empty cgroup {}", path.display()), PATIENCE, || match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            kill_others(path);
            Ok(false)
        }
        Err(error) => Err(error.into()),
    })
}

/// Kills the programs in a cgroup. `cgroup.kill` would do it, but not in a threaded one.
fn kill_others(path: &Path) {
    let threads = fs::read_to_string(path.join(THREADS)).unwrap_or_default();
    for thread in threads.lines().filter_map(|line| line.parse::<i32>().ok()) {
        if !Path::new("/proc/self/task").join(thread.to_string()).exists() {
            // SAFETY: kill(2) has no memory effects; a thread's id stands for its process, found in a cgroup of ours.
            unsafe { libc::kill(thread, libc::SIGKILL) };
        }
    }
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = path.read_dir().into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Makes a threaded directory, unless it is there.
fn make_threaded(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("making the cgroup {}", path.display()));
        }
        _ => {}
    }
    let kind = path.join("cgroup.type");
    if fs::read_to_string(&kind).is_ok_and(|kind| kind.trim() == "threaded") {
        return Ok(());
    }
    let Err(error) = fs::write(&kind, "threaded") else { return Ok(()) };
    // Of no use, and in nobody's way when it cannot be removed.
    let _ = fs::remove_dir(path);
    if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
        bail!(
            "the kernel allows no threaded cgroup at {}: the cgroup that this program runs in has domain controllers enabled in \
             cgroup.subtree_control, or domain children with processes in them (cgroups(7), \"Thread mode\"); run it in a \
             cgroup of its own, such as `systemd-run --scope` makes",
            path.display()
        );
    }
    Err(error).with_context(|| format!("writing {}", kind.display()))
}

/// The directory of our own cgroup.
fn own() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).context("/proc/self/cgroup names no cgroup2")?;
    let mount = mount()?;
    // A container may have a part of the hierarchy mounted: the path of /proc/self/cgroup starts with what is left out.
    let below = Path::new(own).strip_prefix(&mount.root).with_context(|| {
        format!(
            "our cgroup {own} is not below {}, the part of cgroup2 mounted at {}",
            mount.root,
            mount.point.display()
        )
    })?;
    Ok(mount.point.join(below))
}

/// Where cgroup2 is, and which part of it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    point: PathBuf,
}

fn mount() -> Result<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    text.lines().find_map(mount_of).context(
        "no cgroup2 is mounted here; pods need one (`mount -t cgroup2 none /sys/fs/cgroup`, or /sys/fs/cgroup/unified beside cgroup v1)",
    )
}

/// A line of mountinfo, when it is of cgroup2 (proc_pid_mountinfo(5): root and mount point are fields 4 and 5, the type
/// comes after a lone `-`).
fn mount_of(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    (after.split(' ').next() == Some("cgroup2")).then_some(())?;
    let mut fields = before.split(' ').skip(3);
    Some(Mount { root: fields.next()?.to_owned(), point: fields.next()?.into() })
}

/// The container that init runs in.
pub const INIT: &str = "init";
/// The container that the proxy runs in.
pub const PROXY: &str = "proxy";
/// The container that applications run in, and threads of the harness that play one.
pub const APP: &str = "app";
const KUBEPODS: &str = "kubepods";
const THREADS: &str = "cgroup.threads";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_of_cgroup2_counts() {
        let hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
        let expected = Mount { root: "/".to_owned(), point: "/sys/fs/cgroup/unified".into() };
        assert_eq!(mount_of(hybrid), Some(expected));
        assert_eq!(mount_of("35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"), None);
        assert_eq!(mount_of("broken"), None);
    }
}

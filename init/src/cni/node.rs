//! Whether this node has what capture needs, found out by doing it where nobody is harmed.

use super::configuration::Own;
use crate::{
    capture::{self, CaptureError},
    cgroup::{self, CgroupError},
    config::{Args, Config, Guard, Mode},
    netns::{self, NetnsError},
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Why pods cannot be captured here.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No network namespace could be made to try it in.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Nothing can be tried in there.
    #[error("cannot bring up lo in a network namespace; that needs CAP_NET_ADMIN")]
    Loopback(#[source] io::Error),
    /// There are no cgroups for eBPF programs.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No cgroup could be made to try it in.
    #[error("cannot make a cgroup {path} to try it in", path = .0.display())]
    Scratch(PathBuf, #[source] io::Error),
    /// What was tried failed.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Captures in a network namespace, and for eBPF programs a cgroup, without anything in them, and undoes it: then the kernel has
/// what is needed, and this program the rights.
///
/// # Errors
/// What the node lacks for the configured mode.
pub fn can_capture(own: &Own) -> Result<(), NodeError> {
    let mut args = own.capture.args(None, &own.bpffs);
    let config = Config::new(&args).map_err(CaptureError::from)?;
    if config.mode == Mode::Tproxy && config.guard == Guard::Off {
        return netns::in_new(|| try_and_undo(&args))?;
    }
    let path = cgroup::roots()?.remove(0).join(SCRATCH);
    let scratch = Scratch::new(&path).map_err(|source| NodeError::Scratch(path, source))?;
    args = Args { cgroup: Some(scratch.path.clone()), pod_uid: Some(SCRATCH.to_owned()), ..args };
    netns::in_new(|| try_and_undo(&args))?
}

fn try_and_undo(args: &Args) -> Result<(), NodeError> {
    netns::raise_loopback().map_err(NodeError::Loopback)?;
    let plan = capture::plan(args)?;
    let tried = capture::apply(&plan);
    // Also what an earlier try left that was killed.
    let undone = capture::undo(&plan);
    tried?;
    Ok(undone?)
}

/// A cgroup that goes with this value. Only one process at a time has it.
struct Scratch {
    path: PathBuf,
    /// Keeps the lock: on this program's file, which every call on this node shares.
    _lock: File,
}

impl Scratch {
    fn new(path: &Path) -> io::Result<Self> {
        let lock = File::open("/proc/self/exe")?;
        lock.lock()?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self { path: path.to_owned(), _lock: lock }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next call takes it over where it stays.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The name of the cgroup, and of its pins. No pod has such a UID.
const SCRATCH: &str = "heddle-status";

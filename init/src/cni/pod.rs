//! A recorded pod's capture, put in force, read back and undone from outside of the pod.

use super::record::{Record, RecordError, Records};
use crate::{
    capture::{self, CaptureError},
    config::{Args, Config, Guard, Mode},
    ebpf::{
        Place,
        attach::{self, EbpfError},
    },
    netns::{self, NetnsError, NetworkNamespace},
    plan::Plan,
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a pod could not be captured, checked or released.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Its network namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Its network namespace is that of this program, which is the node's: capturing that would cut the node off.
    #[error("{path} is the network namespace of heddle-init itself; pods on the node's network are not captured", path = .0.display())]
    OwnNetns(PathBuf),
    /// Another pod has its network namespace.
    #[error("{path} is another network namespace than when the pod was captured", path = .0.display())]
    OtherNetns(PathBuf),
    /// Its loopback interface is down and stays so.
    #[error("cannot bring up lo in the pod")]
    Loopback(#[source] io::Error),
    /// Its cgroup cannot be told.
    #[error("K8S_POD_UID is not in CNI_ARGS, and the eBPF programs of a pod are attached to the cgroup of that UID")]
    NoUid,
    /// What was done in there failed.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The pins of a pod whose network namespace is gone cannot be removed.
    #[error(transparent)]
    Unpin(#[from] EbpfError),
    /// Whether it shares something with another pod is unknown.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Opens the network namespace of a pod that is to be captured.
///
/// # Errors
/// When it cannot be used, and when it is the one that this program is in.
pub fn open_netns(path: &Path) -> Result<NetworkNamespace, PodError> {
    let netns = NetworkNamespace::open(path)?;
    if netns.is_own() { Err(PodError::OwnNetns(path.to_owned())) } else { Ok(netns) }
}

/// Puts capture in force and reads it back.
///
/// # Errors
/// The step that failed; then nothing has changed.
pub fn capture(record: &Record) -> Result<(), PodError> {
    let args = record.args();
    let config = Config::new(&args).map_err(CaptureError::from)?;
    // Without it the engine would take the cgroup above its own, which here is the runtime's.
    if record.pod.uid.is_none() && (config.mode == Mode::Ebpf || config.guard != Guard::Off) {
        return Err(PodError::NoUid);
    }
    let netns = netns_of(record)?;
    // The routes of capture need it, and a runtime may make the loopback network at the same time as the pod's.
    netns.enter(netns::raise_loopback)?.map_err(PodError::Loopback)?;
    act_in(&netns, &args, capture::apply)
}

/// The cgroup that a captured pod's programs are attached to; none when it has none.
pub fn cgroup_of(record: &Record) -> Option<PathBuf> {
    let config = Config::new(&record.args()).ok()?;
    let cgroup = Place::find(&config).cgroup.ok()?;
    Some(cgroup.path)
}

/// How what is in force differs from what the record says: one sentence each, none when it is the same.
///
/// # Errors
/// When that cannot be told.
pub fn differences(record: &Record) -> Result<Vec<String>, PodError> {
    within(record, &record.args(), capture::differences)
}

/// Takes away what capture put in place, as far as it is still there.
///
/// # Errors
/// What could not be removed.
pub fn release(records: &Records, record: &Record) -> Result<(), PodError> {
    // Its cgroup is looked for again, so that one that was made for it goes, too.
    let mut args = Args { cgroup: None, ..record.args() };
    // The programs of a pod belong to its newest sandbox; of an older one only rules can be left.
    let is_outlived = records.has_another_of_pod(record)?;
    if is_outlived {
        args = Args { mode: TPROXY.to_owned(), guard: None, pod_uid: None, ..args };
    }
    match within(record, &args, capture::undo) {
        // What was in there went with it.
        Err(PodError::Netns(NetnsError::Open { .. } | NetnsError::SomethingElse { .. }) | PodError::OtherNetns(_)) => {
            if !is_outlived {
                let config = Config::new(&args).map_err(CaptureError::from)?;
                attach::undo(&Place::find(&config))?;
            }
            Ok(())
        }
        done => done,
    }
}

fn within<T: Send>(
    record: &Record,
    args: &Args,
    act: impl FnOnce(&Plan) -> Result<T, CaptureError> + Send,
) -> Result<T, PodError> {
    act_in(&netns_of(record)?, args, act)
}

fn act_in<T: Send>(
    netns: &NetworkNamespace,
    args: &Args,
    act: impl FnOnce(&Plan) -> Result<T, CaptureError> + Send,
) -> Result<T, PodError> {
    Ok(netns.enter(|| act(&capture::plan(args)?))??)
}

fn netns_of(record: &Record) -> Result<NetworkNamespace, PodError> {
    let netns = open_netns(&record.netns)?;
    if netns.inode() == record.netns_inode { Ok(netns) } else { Err(PodError::OtherNetns(record.netns.clone())) }
}

const TPROXY: &str = "tproxy";

//! Loads, attaches and pins, and takes it all away again.

use super::{Hook, Place, Programs, link, maps, object::Object, pins};
use crate::{cgroup::Cgroup, netlink::message::Done};
use heddle_init_abi::ebpf::VERSION;
use std::{
    error::Error,
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Why the programs are not in place.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// It is not known where they belong.
    #[error("{0}")]
    Place(String),
    /// The cgroup cannot be opened or made.
    #[error("cannot open the pod's cgroup {}", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no bpffs.
    #[error(
        "{} is not a bpffs, in which programs live on; mount the node's /sys/fs/bpf there (hostPath, or `mount -t bpf bpf /sys/fs/bpf`), \
         or name another by --bpffs", .0.display()
    )]
    NotBpffs(PathBuf),
    /// The folder of the pins cannot be used.
    #[error("cannot use the folder of pins {}", path.display())]
    Pins {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another version made the pins.
    #[error(
        "{} was made by another version of heddle-init (records of version {found}, not {VERSION}); its pod must be restarted, \
         or `heddle-init undo` run first", path.display()
    )]
    Version {
        /// The folder.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The kernel does not take a map or program.
    #[error(
        "the kernel does not take {what}; it must be 6.1 or newer, with CONFIG_CGROUP_BPF, and this process needs CAP_BPF and CAP_NET_ADMIN"
    )]
    Load {
        /// What.
        what: String,
        /// What it said, with the verifier's log.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The object in this binary lacks something.
    #[error("the compiled eBPF object has no `{0}`; build heddle-init again")]
    Object(String),
    /// A map cannot be used.
    #[error("cannot use map {name}")]
    Map {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: aya::maps::MapError,
    },
    /// A program cannot be attached.
    #[error("cannot attach {hook} to {to}")]
    Attach {
        /// The hook's name.
        hook: &'static str,
        /// To what.
        to: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Puts the programs in place, beside whatever others are there. May be repeated: a link that is there gets the new program in
/// one step, and the maps keep what the proxy and the kernel know of open connections.
///
/// # Errors
/// What was not possible; links that this call made are gone then.
pub fn apply(planned: &Programs) -> Result<Done, EbpfError> {
    let (cgroup, folder) = place(&planned.place)?;
    let is_new = !folder.exists();
    let result = attach(planned, cgroup, folder);
    if result.is_err() && is_new {
        // What is left is told by the error that comes first.
        let _ = pins::remove(folder);
    }
    // What was there before stays when a later step fails: it guards, or captures as it did.
    result.map(|()| if is_new { Done::Now } else { Done::Before })
}

/// Takes programs and maps away, whether or not they are there.
///
/// # Errors
/// What could not be removed.
pub fn undo(place: &Place) -> Result<(), EbpfError> {
    let Ok(folder) = &place.pins else { return Ok(()) };
    pins::remove(folder).map_err(|source| EbpfError::Pins { path: folder.clone(), source })?;
    if let Ok(cgroup) = &place.cgroup
        && cgroup.is_hybrid
    {
        // Nobody else removes it there; it fails while anything of the pod is left.
        let _ = fs::remove_dir(&cgroup.path);
    }
    Ok(())
}

pub(super) fn place(place: &Place) -> Result<(&Cgroup, &Path), EbpfError> {
    let cgroup = place.cgroup.as_ref().map_err(|why| EbpfError::Place(why.clone()))?;
    let folder = place.pins.as_ref().map_err(|why| EbpfError::Place(why.clone()))?;
    Ok((cgroup, folder))
}

fn attach(planned: &Programs, cgroup: &Cgroup, folder: &Path) -> Result<(), EbpfError> {
    let unusable = |source| EbpfError::Pins { path: folder.to_owned(), source };
    // The folder of this pod, in that of all pods, in the bpffs.
    let bpffs = folder.ancestors().nth(2).unwrap_or(folder);
    if !pins::is_bpffs(bpffs).map_err(unusable)? {
        return Err(EbpfError::NotBpffs(bpffs.to_owned()));
    }
    if let Some(found) = maps::version(folder).filter(|found| ![0, VERSION].contains(found)) {
        return Err(EbpfError::Version { path: folder.to_owned(), found });
    }
    let directory = open_cgroup(cgroup)?;
    let namespace = File::open(NETNS).map_err(unusable)?;
    pins::make(folder).map_err(unusable)?;
    let mut object = Object::load(folder, &planned.hooks)?;
    maps::fill(object.maps(), planned)?;
    let mut made = Vec::new();
    for hook in &planned.hooks {
        let target = if *hook == Hook::SkLookup { &namespace } else { &directory };
        let program = object.program(*hook)?;
        if let Err(source) = hang(*hook, program, target, folder, &mut made) {
            made.iter().for_each(|path| {
                // What is left is told by the error that comes first.
                let _ = fs::remove_file(path);
            });
            let to = if *hook == Hook::SkLookup { NETNS.to_owned() } else { cgroup.path.display().to_string() };
            return Err(EbpfError::Attach { hook: hook.attach_type_and_name().1, to, source });
        }
    }
    pins::remove_others(folder, &planned.hooks).map_err(unusable)
}

/// Makes or updates the link of one hook, and its pins.
fn hang(hook: Hook, program: BorrowedFd<'_>, target: &File, folder: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    let (link_at, program_at) = (folder.join(pins::link(hook)), folder.join(pins::program(hook)));
    let wanted = target.metadata()?.ino();
    match link::open(&link_at) {
        Ok(found) if is_alive(&link::link_info(found.as_fd())?, wanted) => link::update(found.as_fd(), program)?,
        found => {
            if found.is_ok() {
                // Its cgroup or network namespace is gone: an earlier sandbox of the same pod.
                fs::remove_file(&link_at)?;
            }
            let fresh = link::create(program, target.as_fd(), hook)?;
            link::pin(fresh.as_fd(), &link_at)?;
            made.push(link_at);
        }
    }
    match fs::remove_file(&program_at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => link::pin(program, &program_at),
    }
}

fn is_alive(found: &link::LinkInfo, wanted: u64) -> bool {
    found.target == wanted
}

fn open_cgroup(cgroup: &Cgroup) -> Result<File, EbpfError> {
    let failed = |source| EbpfError::Cgroup { path: cgroup.path.clone(), source };
    fs::create_dir_all(&cgroup.path).map_err(failed)?;
    File::open(&cgroup.path).map_err(failed)
}

/// The network namespace of this thread.
pub(super) const NETNS: &str = "/proc/thread-self/ns/net";

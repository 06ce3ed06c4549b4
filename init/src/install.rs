//! `heddle-init install`: the plugin's binary and its place in the node's network configuration, put there atomically,
//! kept there, and taken away.

pub mod conflist;
pub mod folder;
pub mod options;

use crate::{
    cni::record::{RecordError, Records},
    cni_cache,
    durable::{self, WriteError},
    report::chain,
    wait::{WaitError, Waiter},
};
use conflist::PLUGIN;
use folder::{Change, FolderError};
use options::{NodeArgs, Places};
use std::{
    fmt, fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Why the plugin is not in place, or not away.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The node's list.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The binary cannot be written.
    #[error(transparent)]
    Binary(#[from] WriteError),
    /// Our own binary cannot be read.
    #[error("cannot read this program at {OWN_BINARY}; is /proc mounted?")]
    OwnBinary(#[source] io::Error),
    /// The binary cannot be removed.
    #[error("cannot remove {path}", path = path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Whether captured pods are left is unknown.
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// Keeps binary and plugin in place.
pub struct Installer {
    places: Places,
    plugin: String,
    /// What was installed last: length, modification time and inode tell whether it is still that.
    binary: Option<(u64, i64, i64, u64)>,
}

impl Installer {
    /// For this place in the list (`plugin`, JSON) and these folders.
    pub fn new(places: &Places, plugin: String) -> Self {
        Self { places: places.clone(), plugin, binary: None }
    }

    /// Puts the binary where it is not, then the plugin; the sentences say what was changed.
    ///
    /// # Errors
    /// The first fault; what is in place then works or is as it was.
    pub fn put_in_place(&mut self) -> Result<Vec<String>, InstallError> {
        let mut done = Vec::new();
        // The list must not name what is not there.
        if self.put_binary()? {
            done.push(format!("put {} in place", self.places.binary().display()));
        }
        let changes = folder::put_in(&self.places.cni_conf, self.places.conflist.as_deref(), &self.plugin)?;
        done.extend(changes.iter().map(ToString::to_string));
        Ok(done)
    }

    fn put_binary(&mut self) -> Result<bool, InstallError> {
        let path = self.places.binary();
        let stamp = stamp(&path);
        if stamp.is_some() && stamp == self.binary {
            return Ok(false);
        }
        let ours = fs::read(OWN_BINARY).map_err(InstallError::OwnBinary)?;
        let is_same = fs::read(&path).is_ok_and(|there| there == ours) && is_executable(&path);
        if !is_same {
            durable::write(&path, &ours, 0o755)?;
        }
        self.binary = self::stamp(&path);
        Ok(!is_same)
    }
}

impl Places {
    fn binary(&self) -> PathBuf {
        self.cni_bin.join(PLUGIN)
    }
}

/// Is woken by what others do to binary and lists from now on.
///
/// # Errors
/// When one of the folders is not there.
pub fn watch(waiter: &mut Waiter, places: &Places) -> Result<(), WaitError> {
    waiter.watch(&places.cni_conf)?;
    waiter.watch(&places.cni_bin)
}

/// Stays, keeps everything in place and tells what it changed, until a signal comes.
pub fn keep_in_place(installer: &mut Installer, waiter: &Waiter) {
    let mut last = String::new();
    loop {
        let changed = attempt(installer, &mut last);
        // Somebody who writes whenever we do would otherwise keep a core busy.
        if (changed && !waiter.pause(AFTER_CHANGE)) || !waiter.changed_or(LOOK_AGAIN) {
            return;
        }
    }
}

/// Puts everything in place and tells what it changed, or why it could not, unless that was told `last`. Whether something
/// changed.
pub fn attempt(installer: &mut Installer, last: &mut String) -> bool {
    match installer.put_in_place() {
        Ok(done) => {
            done.iter().for_each(|done| println!("heddle-init: {done}"));
            if done.is_empty() && !last.is_empty() {
                println!("heddle-init: everything is in place");
            }
            last.clear();
            !done.is_empty()
        }
        Err(error) => {
            let error = chain(&error);
            if error != *last {
                eprintln!("heddle-init: {error}; waiting for a change");
                *last = error;
            }
            false
        }
    }
}

/// Takes the plugin out of the node's lists, then the binary away; the sentences say what was done.
///
/// # Errors
/// The first fault.
pub fn remove(places: &Places, node: &NodeArgs) -> Result<Vec<String>, InstallError> {
    let mut done: Vec<_> = folder::take_out(&places.cni_conf)?.iter().map(ToString::to_string).collect();
    let path = places.binary();
    let captured = Records::new(&node.state_directory).containers()?.len();
    let cache = &places.cni_cache;
    let started =
        cni_cache::with_our_plugin(cache).map_err(|source| FolderError::Read { path: cache.clone(), source })?;
    // CRI-O ends a pod by the list that it was started with, and fails when a plugin of that is not there.
    if captured.max(started) > 0 {
        done.push(format!(
            "kept {}: {started} pods of this node were started with it and {captured} are captured by it, and the runtime \
             calls it when they end; repeat this then",
            path.display()
        ));
        return Ok(done);
    }
    match fs::remove_file(&path) {
        Ok(()) => done.push(format!("removed {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(InstallError::Remove { path, source }),
    }
    Ok(done)
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutIn(path) => write!(f, "put {PLUGIN} into {}", path.display()),
            Self::Wrapped(path) => write!(f, "made a list of {}, with {PLUGIN} in it", path.display()),
            Self::TakenOut(path) => write!(f, "took {PLUGIN} out of {}", path.display()),
        }
    }
}

fn stamp(path: &Path) -> Option<(u64, i64, i64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino()))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == 0o755)
}

/// This program, wherever it is.
const OWN_BINARY: &str = "/proc/self/exe";
/// Longest time without a look, for changes that inotify does not tell (other mounts over the folder).
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Shortest time between two changes of ours.
pub(crate) const AFTER_CHANGE: Duration = Duration::from_millis(500);

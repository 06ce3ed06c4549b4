//! The state folder: keys and certificates that must be the same after a restart.
//!
//! Invariant: a file appears whole or not at all, a key is never readable by others, and what is there is never replaced.
//! Two processes that start together end up with the same keys.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A folder that outlives the process.
#[derive(Debug, Clone)]
pub struct StateFolder {
    path: PathBuf,
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// The owner alone (0600).
    Owner,
    /// Everybody (0644).
    Everybody,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or a file cannot be read or written.
    #[error("{path}: {source}; give the controller a folder that it may write with --state")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could have read a key.
    #[error("{path} has mode {mode:04o}, so others can read the key; chmod it to 0600, or delete it to make a new one")]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl StateFolder {
    /// The folder at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
        made.map_err(|source| StateError::Io { path: path.clone(), source })?;
        Ok(Self { path })
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What the file holds; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read, or it is a key that others can read, too.
    pub fn read(&self, name: &str, readers: Readers) -> Result<Option<String>, StateError> {
        let path = self.path(name);
        let io = |source| StateError::Io { path: path.clone(), source };
        let mode = match fs::metadata(&path) {
            Ok(metadata) => metadata.permissions().mode() & 0o7777,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        if readers == Readers::Owner && mode & 0o077 != 0 {
            return Err(StateError::Exposed { path, mode });
        }
        fs::read_to_string(&path).map(Some).map_err(io)
    }

    /// Puts a file there unless there is one, and gives back what is there now.
    ///
    /// # Errors
    /// It cannot be written, or read back.
    pub fn create(&self, name: &str, readers: Readers, text: &str) -> Result<String, StateError> {
        let path = self.path(name);
        let io = |source| StateError::Io { path: path.clone(), source };
        let temporary = self.path(&format!(".{name}.{}", std::process::id()));
        let written = write_new(&temporary, readers, text).and_then(|()| {
            // A link, not a rename: it fails where somebody else was first.
            match fs::hard_link(&temporary, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        });
        let _ = fs::remove_file(&temporary);
        written.and_then(|()| File::open(&self.path)?.sync_all()).map_err(io)?;
        self.read(name, readers)?.ok_or_else(|| io(io::ErrorKind::NotFound.into()))
    }
}

fn write_new(path: &Path, readers: Readers, text: &str) -> io::Result<()> {
    // Left over from a process of the same number that was killed while it wrote.
    let _ = fs::remove_file(path);
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::Everybody => 0o644,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The process's umask took bits away from what `open` was given.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

//! Files that are either the old ones or the new ones, whatever happens in between.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Why a file was not replaced. What was there before is there still.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}", path = path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// Replaces or makes a file with these permissions, and waits until the disk has it.
///
/// # Errors
/// What the kernel says; then nothing has changed.
pub fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), WriteError> {
    write_if(path, contents, mode, || true).map(|_| ())
}

/// As [`write()`], if this is still so at the last moment; whether it was.
///
/// # Errors
/// What the kernel says; then nothing has changed.
pub fn write_if(path: &Path, contents: &[u8], mode: u32, still: impl FnOnce() -> bool) -> Result<bool, WriteError> {
    let failed = |source| WriteError { path: path.to_owned(), source };
    let temporary = temporary(path).ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidFilename)))?;
    let written = fill(&temporary, contents, mode).and_then(|()| {
        let is_so = still();
        if is_so {
            fs::rename(&temporary, path).and_then(|()| sync_folder(path))?
        }
        Ok(is_so)
    });
    if !matches!(written, Ok(true)) {
        // It may not even exist; the first fault is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

/// Waits until the disk has what happened to the names in the folder of this file.
///
/// # Errors
/// What the kernel says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Where a file is prepared: in the same folder, hidden, with a suffix that no runtime or plugin takes for its own.
fn temporary(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!("{}{}{TEMPORARY_SUFFIX}", temporary_prefix(name), std::process::id())))
}

/// How the names begin under which a file of this name is prepared. One may be left by a process that was killed.
pub fn temporary_prefix(name: &str) -> String {
    format!(".{name}.")
}

fn fill(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(contents)?;
    // Whatever umask this process has.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// How they end.
pub const TEMPORARY_SUFFIX: &str = ".heddle-tmp";

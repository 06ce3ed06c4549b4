//! The folder of network configurations: which of them the runtime takes, and our plugin in that one alone.

use super::conflist::{self, ConflistError};
use crate::durable::{self, WriteError};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// What happened to one file.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Our plugin, or another configuration of it, was put in.
    PutIn(PathBuf),
    /// It was a single plugin's, and is a list with ours now. The original is kept beside it.
    Wrapped(PathBuf),
    /// Our plugin was taken out.
    TakenOut(PathBuf),
}

/// Why the folder is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It or a file in it cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file cannot be replaced.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file cannot be renamed or removed.
    #[error("cannot move or remove {path}", path = path.display())]
    Move {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A network configuration that cannot be used.
    #[error("cannot put heddle-init into {path}", path = path.display())]
    Conflist {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConflistError,
    },
    /// A network configuration from which our plugin cannot be taken.
    #[error("cannot take heddle-init out of {path}", path = path.display())]
    TakeOut {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConflistError,
    },
    /// There is none yet.
    #[error("no network configuration is in {folder} yet{}; the node's CNI writes one when it starts", named(.name.as_deref()), folder = folder.display())]
    None {
        /// The folder.
        folder: PathBuf,
        /// The one that was asked for.
        name: Option<String>,
    },
    /// Somebody else writes the same file at this moment.
    #[error("{path} changed while heddle-init was put into it; try again", path = path.display())]
    Raced {
        /// The file.
        path: PathBuf,
    },
}

/// Puts our plugin into the configuration that the runtime takes (or the one of this name), and out of all others.
///
/// # Errors
/// The first fault. Every file is then either as it was or as it should be.
pub fn put_in(folder: &Path, name: Option<&str>, plugin: &str) -> Result<Vec<Change>, FolderError> {
    let files = configurations(folder)?;
    let chosen = match name {
        Some(name) => files.iter().find(|path| {
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            // A single plugin's of this name became a list.
            file == name || file.strip_suffix(LIST) == Some(name)
        }),
        None => files.iter().find(|path| !fs::read_to_string(path).is_ok_and(|text| conflist::is_loopback(&text))),
    };
    let Some(chosen) = chosen else {
        return Err(FolderError::None { folder: folder.to_owned(), name: name.map(str::to_owned) });
    };
    let mut changes: Vec<_> = if is_list(chosen) { put_into(chosen, plugin)? } else { wrap(chosen, plugin)? };
    // The wrapper of the chosen one is what the runtime takes from now on.
    let wrapper = wrapper_of(chosen);
    for other in files.iter().filter(|path| *path != chosen && **path != wrapper) {
        changes.extend(take_out_of(other)?);
    }
    Ok(changes)
}

/// Takes our plugin out of every configuration.
///
/// # Errors
/// The first fault.
pub fn take_out(folder: &Path) -> Result<Vec<Change>, FolderError> {
    let mut changes = Vec::new();
    for path in configurations(folder)? {
        changes.extend(take_out_of(&path)?);
    }
    Ok(changes)
}

/// Every network configuration, in the order of libcni, of which a runtime takes the first.
fn configurations(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let failed = |source| FolderError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let kind = path.extension().and_then(|kind| kind.to_str());
        if matches!(kind, Some("conf" | "conflist" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn put_into(path: &Path, plugin: &str) -> Result<Vec<Change>, FolderError> {
    let text = read(path)?;
    let changed =
        conflist::with(&text, plugin).map_err(|source| FolderError::Conflist { path: path.to_owned(), source })?;
    Ok(if replace(path, &text, &changed)? { vec![Change::PutIn(path.to_owned())] } else { Vec::new() })
}

/// The list is there before the original goes, so that the node is never without.
fn wrap(path: &Path, plugin: &str) -> Result<Vec<Change>, FolderError> {
    let text = read(path)?;
    let list =
        conflist::wrap(&text, plugin).map_err(|source| FolderError::Conflist { path: path.to_owned(), source })?;
    durable::write(&wrapper_of(path), list.as_bytes(), mode(path)?)?;
    rename(path, &saved_of(path))?;
    Ok(vec![Change::Wrapped(path.to_owned())])
}

fn take_out_of(path: &Path) -> Result<Option<Change>, FolderError> {
    let text = read(path)?;
    // What cannot be read as a list has nothing of ours in it.
    let Ok((plugins, ours @ 1..)) = conflist::count(&text) else { return Ok(None) };
    let original = path.to_str().and_then(|path| path.strip_suffix(LIST)).map(PathBuf::from);
    let saved = original.as_ref().map(|original| saved_of(original)).filter(|saved| saved.exists());
    if let (Some(original), Some(saved)) = (original, saved) {
        if plugins == ours + 1 {
            // The other CNI may have written a new one meanwhile, which counts.
            if original.exists() {
                remove(&saved)?
            } else {
                rename(&saved, &original)?
            }
            remove(path)?;
            return Ok(Some(Change::TakenOut(path.to_owned())));
        }
        // Somebody else put a plugin into our list: it stays a list.
        remove(&saved)?;
    }
    let changed = conflist::without(&text).map_err(|source| FolderError::TakeOut { path: path.to_owned(), source })?;
    Ok(replace(path, &text, &changed)?.then(|| Change::TakenOut(path.to_owned())))
}

/// Whether the file had to be changed.
fn replace(path: &Path, old: &str, new: &str) -> Result<bool, FolderError> {
    if old == new {
        return Ok(false);
    }
    // A link stays a link.
    let real = fs::canonicalize(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
    let is_same = || fs::read(&real).is_ok_and(|now| now == old.as_bytes());
    if durable::write_if(&real, new.as_bytes(), mode(&real)?, is_same)? {
        Ok(true)
    } else {
        Err(FolderError::Raced { path: path.to_owned() })
    }
}

fn read(path: &Path) -> Result<String, FolderError> {
    fs::read_to_string(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })
}

fn mode(path: &Path) -> Result<u32, FolderError> {
    let metadata = fs::metadata(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
    Ok(metadata.permissions().mode() & 0o7777)
}

fn rename(from: &Path, to: &Path) -> Result<(), FolderError> {
    let renamed = fs::rename(from, to).and_then(|()| durable::sync_folder(to));
    renamed.map_err(|source| FolderError::Move { path: from.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), FolderError> {
    fs::remove_file(path).map_err(|source| FolderError::Move { path: path.to_owned(), source })
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "conflist")
}

/// The list that takes the place of a single plugin's configuration: right behind it in the order, so that it is the first
/// when that one is gone.
fn wrapper_of(single: &Path) -> PathBuf {
    with_suffix(single, LIST)
}

/// Where that one is kept meanwhile; no runtime reads files that end so.
fn saved_of(single: &Path) -> PathBuf {
    with_suffix(single, ".heddle-saved")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn named(name: Option<&str>) -> String {
    name.map(|name| format!(" that is called {name}")).unwrap_or_default()
}

const LIST: &str = ".conflist";

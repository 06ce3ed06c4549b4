//! Manifests in a folder: what every file says now, or said when it could last be read.
//!
//! Invariant: trouble with the folder takes nothing away. A file that cannot be read keeps its last good version; a folder
//! that cannot be read, or that became empty, keeps everything. Only a file that is gone, beside others, takes its objects
//! with it.

use super::document::{self, Contents};
use crate::{
    condition::{Condition, Place, Severity},
    manifest::Manifest,
};
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A folder and what is known of its files.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    files: BTreeMap<Arc<Path>, File>,
    trouble: Option<Condition>,
    readable: bool,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    text_hash: u64,
    good: Contents,
    /// What is wrong with the file as it is now; empty when it is `good`.
    trouble: Vec<Condition>,
    ever_good: bool,
}

/// Tells a changed file from an unchanged one without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// The manifests of a folder at one moment.
#[derive(Debug, Clone, Default)]
pub struct Manifests {
    /// Every object, by file and line.
    pub objects: Vec<Arc<Manifest>>,
    /// What is wrong with the files themselves.
    pub conditions: Vec<Condition>,
    /// How many files there are.
    pub files: usize,
    /// Whether every folder could be listed.
    pub readable: bool,
    /// How many documents cannot be read and may be policies, so that it is not known what they close.
    pub policies_lost: usize,
}

impl Folder {
    /// A folder that has not been read yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), files: BTreeMap::new(), trouble: None, readable: false }
    }

    /// Reads what changed; files in `touched` are read even when they look the same. Says whether anything is different.
    pub fn refresh(&mut self, touched: &HashSet<PathBuf>) -> bool {
        let mut paths = Vec::new();
        let mut unreadable = Vec::new();
        walk(&self.root, 0, &mut paths, &mut unreadable);
        let readable = unreadable.is_empty();
        let trouble = self.folder_trouble(&paths, unreadable);
        let mut different = trouble != self.trouble || readable != self.readable;
        self.readable = readable;
        if trouble.is_none() {
            let present: HashSet<&Path> = paths.iter().map(|path| &**path).collect();
            let files_before = self.files.len();
            self.files.retain(|path, _| present.contains(&**path));
            different |= self.files.len() != files_before;
        }
        self.trouble = trouble;
        for path in paths {
            let forced = touched.contains(&*path);
            different |= self.refresh_file(path, forced);
        }
        different
    }

    /// What the files say.
    pub fn manifests(&self) -> Manifests {
        let files = self.files.values();
        let own = self.trouble.iter().cloned();
        let conditions = files.clone().flat_map(|file| file.good.conditions.iter().chain(&file.trouble).cloned());
        Manifests {
            objects: files.clone().flat_map(|file| file.good.objects.iter().cloned()).collect(),
            conditions: own.chain(conditions).collect(),
            files: self.files.len(),
            readable: self.readable,
            policies_lost: files.map(|file| file.good.policies_lost).sum(),
        }
    }

    /// Why the list of files cannot be trusted, if it cannot.
    fn folder_trouble(&self, paths: &[Arc<Path>], unreadable: Vec<(PathBuf, io::Error)>) -> Option<Condition> {
        let (path, problem, remedy) = match unreadable.into_iter().next() {
            Some((path, error)) => {
                (path, format!("cannot be read: {error}"), "give the controller the right to read it")
            }
            None if paths.is_empty() => (
                self.root.clone(),
                "holds no *.yaml or *.yml file".to_owned(),
                "put manifests there, or name another folder",
            ),
            None => return None,
        };
        Some(Condition {
            severity: Severity::Mistake,
            place: Place { file: path.into(), line: 0 },
            object: String::new(),
            field: String::new(),
            problem: match self.files.is_empty() {
                true => problem,
                false => format!("{problem}; what it held before stays in force"),
            },
            remedy: remedy.to_owned(),
        })
    }

    fn refresh_file(&mut self, path: Arc<Path>, forced: bool) -> bool {
        let stamp = fs::metadata(&path).map(|metadata| Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        });
        let known = self.files.get(&path);
        if let (Ok(stamp), Some(known), false) = (&stamp, known, forced)
            && known.stamp == *stamp
        {
            return false;
        }
        let read = stamp.and_then(|stamp| Ok((stamp, read_bounded(&path, stamp.bytes)?)));
        let (stamp, bytes) = match read {
            Ok(read) => read,
            // Gone between the listing and now: the next round will say so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => return self.keep(path, unreadable_file(error)),
        };
        let text_hash = hash(&bytes);
        if let Some(known) = self.files.get_mut(&path)
            && known.text_hash == text_hash
        {
            known.stamp = stamp;
            return false;
        }
        let contents = match std::str::from_utf8(&bytes) {
            Ok(text) => document::read(&path, text),
            Err(_) => document::not_text(&path),
        };
        self.take(path, stamp, text_hash, contents, bytes.is_empty());
        true
    }

    /// Takes over what was read, or keeps the last good version beside the trouble.
    fn take(&mut self, path: Arc<Path>, stamp: Stamp, text_hash: u64, contents: Contents, empty: bool) {
        let Some(known) = self.files.get_mut(&path).filter(|known| known.ever_good) else {
            let ever_good = contents.is_sound();
            self.files.insert(path, File { stamp, text_hash, good: contents, trouble: Vec::new(), ever_good });
            return;
        };
        known.stamp = stamp;
        known.text_hash = text_hash;
        // A writer that truncates first leaves an empty file behind for a moment; one that wants the objects gone deletes it.
        let emptied = empty && !known.good.objects.is_empty();
        if contents.is_sound() && !emptied {
            known.good = contents;
            known.trouble.clear();
            return;
        }
        known.trouble = contents.conditions;
        if emptied {
            known.trouble.push(file_mistake(&path, "the file is empty", "delete it to remove its objects"));
        }
        known.trouble.push(file_mistake(
            &path,
            "the last good version of this file stays in force",
            "correct the mistakes above, or delete the file",
        ));
    }

    /// Keeps a file that cannot be read as it was; a new one is noted, so that it is tried again.
    fn keep(&mut self, path: Arc<Path>, condition: impl Fn(&Path) -> Condition) -> bool {
        let trouble = vec![condition(&path)];
        let unread = Stamp { inode: 0, bytes: 0, changed: (0, 0) };
        match self.files.get_mut(&path) {
            Some(known) if known.trouble == trouble => false,
            Some(known) => {
                known.stamp = unread;
                known.text_hash = 0;
                known.trouble = trouble;
                true
            }
            None => {
                let good = Contents { policies_lost: 1, ..Contents::default() };
                self.files.insert(path, File { stamp: unread, text_hash: 0, good, trouble, ever_good: false });
                true
            }
        }
    }
}

/// All manifests below a folder, in order, and the folders that could not be read. Hidden entries are skipped: a mounted
/// ConfigMap keeps its versions in such folders and shows the current one by links.
fn walk(folder: &Path, depth: usize, paths: &mut Vec<Arc<Path>>, unreadable: &mut Vec<(PathBuf, io::Error)>) {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries: Vec<PathBuf> = match entries {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
        Err(error) => return unreadable.push((folder.to_owned(), error)),
    };
    entries.sort();
    for path in entries {
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || paths.len() >= FILES_MAX {
            continue;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth < DEPTH_MAX => walk(&path, depth + 1, paths, unreadable),
            Ok(metadata) if metadata.is_file() && is_manifest(&path) => paths.push(path.into()),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Whether a file is read, by its ending.
pub fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

fn read_bounded(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    match bytes <= FILE_BYTES_MAX {
        true => fs::read(path),
        false => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{bytes} bytes, at most {FILE_BYTES_MAX} are read; split the file"),
        )),
    }
}

fn unreadable_file(error: io::Error) -> impl Fn(&Path) -> Condition {
    let problem = format!("cannot be read: {error}");
    move |path| {
        file_mistake(
            path,
            &problem,
            "give the controller the right to read it; until then its last good version counts",
        )
    }
}

fn file_mistake(path: &Path, problem: &str, remedy: &str) -> Condition {
    Condition {
        severity: Severity::Mistake,
        place: Place { file: path.into(), line: 0 },
        object: String::new(),
        field: String::new(),
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Most files of a folder.
const FILES_MAX: usize = 100_000;

/// Deepest folder below the root, which also ends a loop of links.
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests;

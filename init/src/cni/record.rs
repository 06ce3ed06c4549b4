//! What is kept of each captured pod, so that it can be checked, repaired and undone without its runtime.
//!
//! One file a pod, `<container id>.json`. Whoever changes what is in force in a recorded pod holds a lock on its file, so
//! that a repair never comes between `DEL` and what it removes.

use super::{environment::is_container_id, settings::Settings};
use crate::{
    config::Args,
    durable::{self, WriteError},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// A captured pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`SCHEMA`], when this program wrote it.
    pub schema: u32,
    /// Of the pod's sandbox.
    pub container_id: String,
    /// The interfaces by which runtimes attached it. It is released with the last.
    pub interfaces: BTreeSet<String>,
    /// The network that it is attached to.
    pub network: String,
    /// Where its network namespace is.
    pub netns: PathBuf,
    /// The number of its network namespace; another number at the same path is another pod.
    pub netns_inode: u64,
    /// Whose it is.
    pub pod: Pod,
    /// How it is captured.
    pub capture: Settings,
    /// Where its programs are pinned.
    pub bpffs: PathBuf,
    /// The cgroup that they are attached to, which saves looking for it at every check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
}

/// A pod, as Kubernetes names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace; empty outside of Kubernetes.
    pub namespace: String,
    /// Its name; empty outside of Kubernetes.
    pub name: String,
    /// Its uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

/// A record that nobody else changes while this value lives.
#[derive(Debug)]
pub struct Held {
    /// What it says.
    pub record: Record,
    path: PathBuf,
    /// Keeps the lock.
    _file: File,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It, or the folder, cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not what this program writes.
    #[error("{path} is not a record of a captured pod ({why}); remove it when that pod is gone", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// It cannot be removed.
    #[error("cannot remove {path}", path = path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Record {
    /// The options that `heddle-init apply` would be given for this pod.
    pub fn args(&self) -> Args {
        let args = self.capture.args(self.pod.uid.as_deref(), &self.bpffs);
        // One that is gone may be back elsewhere.
        Args { cgroup: self.cgroup.clone().filter(|path| path.is_dir()), ..args }
    }
}

impl Records {
    /// The records in this folder, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Waits until nobody else holds the record of this container, and holds it; none when there is none.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn hold(&self, container_id: &str) -> Result<Option<Held>, RecordError> {
        let path = self.path(container_id);
        let failed = |source| RecordError::Read { path: path.clone(), source };
        loop {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error)),
            };
            file.lock().map_err(failed)?;
            // While we waited it may have been removed or replaced; then the lock is on nothing.
            let locked = file.metadata().map_err(failed)?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == locked) {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                let record =
                    parse(&text, container_id).map_err(|why| RecordError::Parse { path: path.clone(), why })?;
                return Ok(Some(Held { record, path, _file: file }));
            }
        }
    }

    /// Writes a record, readable by root alone, atomically.
    ///
    /// # Errors
    /// When it cannot be written; then the former one, if any, is still there.
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.container_id);
        let make = || DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        make().map_err(|source| WriteError { path: self.folder.clone(), source })?;
        let text =
            serde_json::to_vec(record).map_err(|error| WriteError { path: path.clone(), source: error.into() })?;
        Ok(durable::write(&path, &text, 0o600)?)
    }

    /// The containers that have a record.
    ///
    /// # Errors
    /// When the folder cannot be read. That it does not exist is none.
    pub fn containers(&self) -> Result<Vec<String>, RecordError> {
        let failed = |source| RecordError::Read { path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut containers = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(id) = name.strip_suffix(SUFFIX).filter(|id| is_container_id(id)) {
                containers.push(id.to_owned());
            }
        }
        containers.sort();
        Ok(containers)
    }

    /// Whether another container than this record's belongs to the same pod: a newer sandbox, say.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn has_another_of_pod(&self, record: &Record) -> Result<bool, RecordError> {
        let Some(uid) = &record.pod.uid else { return Ok(false) };
        for container in self.containers()?.into_iter().filter(|container| *container != record.container_id) {
            if self.read(&container)?.is_some_and(|other| other.pod.uid.as_ref() == Some(uid)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A record as it is at this moment; none when there is none.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn read(&self, container_id: &str) -> Result<Option<Record>, RecordError> {
        let path = self.path(container_id);
        match fs::read_to_string(&path) {
            Ok(text) => parse(&text, container_id).map(Some).map_err(|why| RecordError::Parse { path, why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RecordError::Read { path, source }),
        }
    }

    /// Removes what a process that was killed left half-written for this container.
    pub fn remove_unfinished(&self, container_id: &str) {
        let prefix = durable::temporary_prefix(&format!("{container_id}{SUFFIX}"));
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        for name in names.filter(|name| {
            name.to_str().is_some_and(|name| name.starts_with(&prefix) && name.ends_with(durable::TEMPORARY_SUFFIX))
        }) {
            // Nobody reads it, so that it stays is no fault worth telling.
            let _ = fs::remove_file(self.folder.join(name));
        }
    }

    fn path(&self, container_id: &str) -> PathBuf {
        self.folder.join(format!("{container_id}{SUFFIX}"))
    }
}

impl Held {
    /// Removes the record.
    ///
    /// # Errors
    /// When the folder does not let go of it.
    pub fn remove(self) -> Result<(), RecordError> {
        fs::remove_file(&self.path).map_err(|source| RecordError::Remove { path: self.path.clone(), source })
    }
}

fn parse(text: &str, container_id: &str) -> Result<Record, String> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let Schema { schema } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if schema != SCHEMA {
        return Err(format!("its schema is {schema}, and this version of heddle-init knows {SCHEMA}"));
    }
    let record: Record = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if record.container_id == container_id {
        Ok(record)
    } else {
        Err(format!("it is about container {}", record.container_id))
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pod { namespace, name, .. } = &self.pod;
        if name.is_empty() { write!(f, "container {}", self.container_id) } else { write!(f, "pod {namespace}/{name}") }
    }
}

/// The form of the records. A change that an older program would misread gets the next number.
pub const SCHEMA: u32 = 1;
const SUFFIX: &str = ".json";

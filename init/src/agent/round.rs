//! One look at everything: late pods, then captured ones, then what is left of dead ones.

use super::{late, options::AgentArgs};
use crate::{
    cni::{
        pod::{self, PodError},
        record::{Held, Record, Records},
        settings::Settings,
    },
    cni_cache::Entry,
    ebpf::sweep,
    netns::NetnsError,
    report::chain,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
};

/// What lasts from one look to the next.
pub(super) struct Round {
    pub(super) records: Records,
    pub(super) settings: Settings,
    pub(super) bpffs: PathBuf,
    pub(super) cache: PathBuf,
    /// Files of the cache that need no further look.
    pub(super) settled: BTreeSet<Entry>,
    /// Containers that had a record: one that has none any more is being removed.
    pub(super) seen: BTreeSet<String>,
    /// The last fault of each thing, so that it is told once.
    told: BTreeMap<String, String>,
    pub(super) counters: Counters,
}

/// What was done since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) repaired: u64,
    pub(super) captured_late: u64,
    pub(super) swept: u64,
    pub(super) failed: u64,
}

impl Round {
    pub(super) fn new(args: &AgentArgs, settings: Settings) -> Self {
        Self {
            records: Records::new(&args.node.state_directory),
            settings,
            bpffs: args.node.capture.bpffs.clone(),
            cache: args.places.cni_cache.clone(),
            settled: BTreeSet::new(),
            seen: BTreeSet::new(),
            told: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Looks at everything once.
    pub(super) fn run(&mut self) {
        let containers = match self.records.containers() {
            Ok(containers) => containers,
            Err(error) => return self.failed("records", &chain(&error)),
        };
        self.succeeded("records");
        self.seen.extend(containers.iter().cloned());
        late::capture(self, &containers);
        let mut bpffs: BTreeSet<_> = [self.bpffs.clone()].into();
        let mut uids = BTreeSet::new();
        for container in containers {
            match self.records.hold(&container) {
                Ok(Some(held)) => {
                    bpffs.insert(held.record.bpffs.clone());
                    uids.extend(held.record.pod.uid.clone());
                    self.look_at(held);
                }
                // Removed since.
                Ok(None) => {}
                Err(error) => self.failed(&container, &chain(&error)),
            }
        }
        for bpffs in bpffs {
            self.sweep_pins(&bpffs, &uids);
        }
    }

    /// While this is held, nobody removes what is repaired here.
    fn look_at(&mut self, held: Held) {
        let record = &held.record;
        match pod::differences(record) {
            Ok(differences) if differences.is_empty() => self.succeeded(&record.container_id),
            Ok(differences) => self.repair(record, &differences.join("; ")),
            Err(error) if is_gone(record, &error) => self.bury(held),
            Err(error) => self.failed(&record.container_id, &format!("{record}: cannot be checked: {}", chain(&error))),
        }
    }

    fn repair(&mut self, record: &Record, missing: &str) {
        match pod::capture(record) {
            Ok(()) => {
                self.counters.repaired += 1;
                println!("heddle-init: {record}: repaired, because {missing}; {}", self.counters);
                self.succeeded(&record.container_id);
            }
            Err(error) => {
                let error = format!("{record}: cannot be repaired ({missing}): {}", chain(&error));
                self.failed(&record.container_id, &error);
            }
        }
    }

    /// The record of a pod that ended without `DEL`, and its pins, where the kernel agrees that they are dead.
    fn bury(&mut self, held: Held) {
        let (id, name) = (held.record.container_id.clone(), held.record.to_string());
        let removed = match held.record.pod.uid.as_deref().map(|uid| (uid, sweep::folder(&held.record.bpffs, uid))) {
            Some((uid, folder)) => match dead_or_gone(uid, &folder) {
                Ok(true) => {
                    let outlived = self.records.has_another_of_pod(&held.record).map_err(|error| chain(&error));
                    outlived.and_then(|is_outlived| {
                        if is_outlived { Ok(()) } else { sweep::remove(&folder).map_err(|error| chain(&error)) }
                    })
                }
                Ok(false) => Err(format!("its network namespace is gone, but {} is attached", folder.display())),
                Err(error) => Err(error.to_string()),
            },
            None => Ok(()),
        };
        match removed.and_then(|()| held.remove().map_err(|error| chain(&error))) {
            Ok(()) => {
                self.counters.swept += 1;
                println!("heddle-init: {name}: is gone, its record and pins were removed; {}", self.counters);
                self.succeeded(&id);
            }
            Err(error) => self.failed(&id, &format!("{name}: cannot be swept: {error}")),
        }
    }

    /// Pins of pods that no record tells of: captured by an init container, or by a plugin whose record is lost.
    fn sweep_pins(&mut self, bpffs: &Path, recorded: &BTreeSet<String>) {
        let folders = match sweep::folders(bpffs) {
            Ok(folders) => folders,
            Err(error) => return self.failed("pins", &format!("cannot list {}: {error}", bpffs.display())),
        };
        self.succeeded("pins");
        for (name, folder) in folders.into_iter().filter(|(name, _)| !recorded.contains(name)) {
            let swept = match sweep::is_dead(&name, &folder) {
                Ok(true) => sweep::remove(&folder).map(|()| true),
                other => other,
            };
            match swept {
                Ok(true) => {
                    self.counters.swept += 1;
                    println!("heddle-init: removed the pins of a dead pod, {}; {}", folder.display(), self.counters);
                }
                Ok(false) => self.succeeded(&name),
                // Somebody else removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.succeeded(&name),
                Err(error) => self.failed(&name, &format!("cannot sweep {}: {error}", folder.display())),
            }
        }
    }

    /// Tells a fault, unless it was the last one told of this thing.
    pub(super) fn failed(&mut self, what: &str, fault: &str) {
        if self.told.get(what).is_none_or(|told| told != fault) {
            self.counters.failed += 1;
            eprintln!("heddle-init: {fault}; {}", self.counters);
            self.told.insert(what.to_owned(), fault.to_owned());
        }
    }

    pub(super) fn succeeded(&mut self, what: &str) {
        self.told.remove(what);
    }
}

/// Whether the error says that the pod ended. An ordinary file in place of a namespace does not: so looks one that is not
/// mounted through to this container.
fn is_gone(record: &Record, error: &PodError) -> bool {
    match error {
        PodError::OtherNetns(_) => true,
        PodError::Netns(NetnsError::Open { source, .. }) => {
            source.kind() == io::ErrorKind::NotFound && record.netns.parent().is_some_and(Path::is_dir)
        }
        _ => false,
    }
}

fn dead_or_gone(uid: &str, folder: &Path) -> io::Result<bool> {
    match sweep::is_dead(uid, folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        other => other,
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repaired, captured_late, swept, failed } = self;
        write!(f, "since start: repaired {repaired}, captured late {captured_late}, swept {swept}, failed {failed}")
    }
}

//! What one client must be sent of one type: pure bookkeeping of names, versions and absences.
//!
//! Rules: Envoy's xDS protocol, incremental variant; names and aliases as Istio's control plane treats them.

use super::snapshot::{Resource, Snapshot};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Which part of the mesh a subscription is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum View {
    /// Workloads and services.
    Addresses,
    /// The policies that apply to one workload.
    PoliciesOf {
        /// Unique name of the workload.
        uid: String,
        /// Its namespace.
        namespace: String,
    },
    /// All policies: what a proxy that serves a whole node needs.
    AllPolicies,
}

/// One client's subscription to one type.
#[derive(Debug)]
pub(super) struct Subscription {
    view: View,
    started: bool,
    wildcard: bool,
    /// Names and aliases that were asked for.
    names: BTreeSet<String>,
    /// What the client holds, by primary name.
    held: HashMap<String, Held>,
    /// Asked names that the client knows to stand for nothing.
    absent: HashSet<String>,
    first_answer_due: bool,
}

#[derive(Debug)]
struct Held {
    version: String,
    /// It was sent on this stream, and not declared by the client.
    sent: bool,
}

/// What to send.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) removed: Vec<String>,
}

impl Subscription {
    pub(super) fn new(view: View) -> Self {
        Self {
            view,
            started: false,
            wildcard: false,
            names: BTreeSet::new(),
            held: HashMap::new(),
            absent: HashSet::new(),
            first_answer_due: false,
        }
    }

    /// Takes a request's names. Says whether it changed what is wanted, so that it must be looked at.
    ///
    /// `initial` is what the client holds from an earlier stream; it counts only in the first request of a type.
    pub(super) fn request(
        &mut self,
        subscribe: &[String],
        unsubscribe: &[String],
        initial: &BTreeMap<String, String>,
        snapshot: &Snapshot,
    ) -> bool {
        let first = !std::mem::replace(&mut self.started, true);
        if first {
            // Nothing asked for means everything; in later requests it means nothing new.
            self.wildcard = subscribe.is_empty();
            self.first_answer_due = self.wildcard || (is_wildcard(subscribe) && !is_wildcard(unsubscribe));
            for (name, version) in initial {
                self.names.insert(name.clone());
                if !version.is_empty() {
                    self.held.insert(name.clone(), Held { version: version.clone(), sent: false });
                }
            }
        }
        for name in subscribe {
            if name == WILDCARD {
                self.wildcard = true;
                continue;
            }
            if self.names.len() < NAMES_MAX {
                self.names.insert(name.clone());
            }
            // Whoever asks again has lost it, or never had it.
            self.absent.remove(name);
            for resource in snapshot.lookup(name) {
                if self.held.get(&resource.name).is_some_and(|held| held.sent) {
                    self.held.remove(&resource.name);
                }
            }
        }
        for name in unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            }
            self.names.remove(name);
            self.absent.remove(name);
        }
        first || !subscribe.is_empty() || !unsubscribe.is_empty()
    }

    /// Whether anything was asked for yet.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// What the client must be sent to be at `snapshot`, or `None`. Counts as sent from now on.
    ///
    /// Without `removals`, what is gone stays due: the caller sends it when nothing refers to it any more.
    pub(super) fn delta(&mut self, snapshot: &Snapshot, removals: bool) -> Option<Delta> {
        if !self.started {
            return None;
        }
        let mut delta = Delta::default();
        let mut wanted: HashSet<&str> = HashSet::new();
        let mut missing: Vec<&String> = Vec::new();
        let mut want = |resource: &'_ Arc<Resource>, held: &mut HashMap<String, Held>| {
            let known = held.get(&resource.name).is_some_and(|held| held.version == resource.version);
            if !known {
                held.insert(resource.name.clone(), Held { version: resource.version.clone(), sent: true });
                delta.resources.push(resource.clone());
            }
        };
        let all: Box<dyn Iterator<Item = &Arc<Resource>>> = match (&self.view, self.wildcard) {
            (_, false) => Box::new(std::iter::empty()),
            (View::Addresses, true) => Box::new(snapshot.addresses()),
            (View::PoliciesOf { uid, namespace }, true) => Box::new(snapshot.policies_of(uid, namespace)),
            (View::AllPolicies, true) => Box::new(snapshot.policies()),
        };
        for resource in all {
            wanted.insert(&resource.name);
            want(resource, &mut self.held);
        }
        if self.view == View::Addresses {
            for name in &self.names {
                let mut found = false;
                for resource in snapshot.lookup(name) {
                    found = true;
                    if wanted.insert(&resource.name) {
                        want(resource, &mut self.held);
                    }
                }
                match found {
                    true => drop(self.absent.remove(name)),
                    false => missing.push(name),
                }
            }
        }
        if removals {
            let gone = self.held.keys().filter(|name| !wanted.contains(name.as_str()));
            delta.removed.extend(gone.cloned());
            delta.removed.sort();
            delta.removed.iter().for_each(|name| drop(self.held.remove(name)));
            for name in missing {
                if self.absent.insert(name.clone()) && !delta.removed.contains(name) {
                    delta.removed.push(name.clone());
                }
            }
        }
        let due = std::mem::take(&mut self.first_answer_due);
        (due || delta != Delta::default()).then_some(delta)
    }
}

fn is_wildcard(names: &[String]) -> bool {
    names.iter().any(|name| name == WILDCARD)
}

const WILDCARD: &str = heddle_proto::names::WILDCARD;

/// Names that one client may follow. A proxy asks for what its pod talks to; more is answered once and not followed.
const NAMES_MAX: usize = 100_000;

#[cfg(test)]
mod tests;

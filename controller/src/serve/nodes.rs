//! Who is connected, and which revision each has been sent and has acknowledged.

use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The connected nodes.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    nodes: BTreeMap<u64, NodeStatus>,
}

/// One stream, as `/status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// The node's id, as it gave it.
    pub id: String,
    /// Namespace of its token.
    pub namespace: String,
    /// Service account of its token.
    pub service_account: String,
    /// By type, such as `istio.workload.Address`.
    pub types: BTreeMap<String, TypeStatus>,
}

/// How far a stream is with one type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TypeStatus {
    /// The revision that the node was last brought to.
    pub sent: u64,
    /// The revision that it has taken over.
    pub acked: u64,
    /// The last response that it refused.
    pub rejected: Option<Rejection>,
}

/// A refused response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Its revision.
    pub revision: u64,
    /// What the node said.
    pub reason: String,
}

impl Nodes {
    /// Lists a node until what is returned is dropped.
    pub fn join(&self, status: NodeStatus) -> Joined {
        let mut inner = self.lock();
        inner.last += 1;
        let key = inner.last;
        inner.nodes.insert(key, status);
        Joined { nodes: self.clone(), key }
    }

    /// The nodes now, in the order of their coming.
    pub fn list(&self) -> Vec<NodeStatus> {
        self.lock().nodes.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listed node.
#[derive(Debug)]
pub struct Joined {
    nodes: Nodes,
    key: u64,
}

impl Joined {
    /// Says how far the node is with a type.
    pub fn update(&self, type_name: &str, status: &TypeStatus) {
        if let Some(node) = self.nodes.lock().nodes.get_mut(&self.key) {
            node.types.insert(type_name.to_owned(), status.clone());
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.nodes.lock().nodes.remove(&self.key);
    }
}

//! The objects by kind and name.

use crate::{
    condition::{Condition, Severity},
    manifest::{AuthorizationPolicy, Kind, Manifest, MeshPolicy, Object, Origin},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// One object with its origin.
#[derive(Debug)]
pub(super) struct Item<'a, T> {
    pub(super) origin: &'a Origin,
    pub(super) object: &'a T,
}

impl<T> Clone for Item<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Item<'_, T> {}

impl<'a, T> Item<'a, T> {
    pub(super) fn namespace(&self) -> &'a str {
        &self.origin.namespace
    }

    pub(super) fn name(&self) -> &'a str {
        &self.origin.name
    }
}

/// Namespace and name.
pub(super) type Key<'a> = (&'a str, &'a str);

/// The objects by kind, each map ordered by namespace and name.
#[derive(Debug, Default)]
pub(super) struct Inventory<'a> {
    pub(super) namespaces: BTreeMap<&'a str, Item<'a, Namespace>>,
    pub(super) nodes: BTreeMap<&'a str, Item<'a, Node>>,
    pub(super) pods: BTreeMap<Key<'a>, Item<'a, Pod>>,
    pub(super) services: BTreeMap<Key<'a>, Item<'a, Service>>,
    pub(super) slices: BTreeMap<Key<'a>, Item<'a, EndpointSlice>>,
    pub(super) accounts: BTreeSet<Key<'a>>,
    pub(super) mesh_policies: BTreeMap<Key<'a>, Item<'a, MeshPolicy>>,
    pub(super) authorization_policies: BTreeMap<Key<'a>, Item<'a, AuthorizationPolicy>>,
    /// Every object that counts, in the order of the files.
    pub(super) origins: Vec<&'a Origin>,
}

impl<'a> Inventory<'a> {
    /// Sorts the objects. Of two of one kind and name the first counts.
    pub(super) fn new(objects: &'a [Arc<Manifest>], conditions: &mut Vec<Condition>) -> Self {
        let mut inventory = Self::default();
        let mut seen: HashMap<(Kind, Key<'a>), &'a Origin> = HashMap::new();
        for manifest in objects {
            let origin = &manifest.origin;
            let key = (&*origin.namespace, &*origin.name);
            if let Some(first) = seen.get(&(origin.kind, key)) {
                conditions.push(origin.condition(
                    Severity::Mistake,
                    "metadata.name",
                    format!(
                        "a second {} of this name; the first one, in {}, counts",
                        origin.kind.name(),
                        first.place("")
                    ),
                    "remove one of them, or rename it",
                ));
                continue;
            }
            seen.insert((origin.kind, key), origin);
            inventory.origins.push(origin);
            inventory.insert(origin, key, &manifest.object);
        }
        inventory
    }

    fn insert(&mut self, origin: &'a Origin, key: Key<'a>, object: &'a Object) {
        match object {
            Object::Namespace(object) => drop(self.namespaces.insert(key.1, Item { origin, object })),
            Object::Node(object) => drop(self.nodes.insert(key.1, Item { origin, object })),
            Object::Pod(object) => drop(self.pods.insert(key, Item { origin, object })),
            Object::Service(object) => drop(self.services.insert(key, Item { origin, object })),
            Object::EndpointSlice(object) => drop(self.slices.insert(key, Item { origin, object })),
            Object::ServiceAccount(_) => drop(self.accounts.insert(key)),
            Object::MeshPolicy(object) => drop(self.mesh_policies.insert(key, Item { origin, object })),
            Object::AuthorizationPolicy(object) => {
                self.authorization_policies.insert(key, Item { origin, object });
            }
        }
    }

    /// The pods of a namespace, by name.
    pub(super) fn pods_of(&self, namespace: &'a str) -> impl Iterator<Item = &Item<'a, Pod>> {
        self.pods.range((namespace, "")..).map(|(_, pod)| pod).take_while(move |pod| pod.namespace() == namespace)
    }

    /// Whether the pod has a proxy: its namespace is labelled, it does not opt out, and it has a network of its own.
    pub(super) fn is_meshed(&self, pod: &Item<'a, Pod>) -> bool {
        let label = |labels: &Option<BTreeMap<String, String>>| {
            labels.as_ref().and_then(|labels| labels.get(INJECT_LABEL).cloned())
        };
        let namespace = self.namespaces.get(pod.namespace());
        let enabled =
            namespace.and_then(|namespace| label(&namespace.object.metadata.labels)).as_deref() == Some("enabled");
        let refused = label(&pod.object.metadata.labels).as_deref() == Some("false");
        enabled && !refused && !is_host_network(pod.object)
    }
}

/// Whether the pod shares its node's network.
pub(super) fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Whether a pod has all of these labels.
pub(super) fn has_labels(pod: &Pod, wanted: &BTreeMap<String, String>) -> bool {
    let labels = pod.metadata.labels.as_ref();
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// Whether the pod has ended for good, or its address may have been given away.
pub(super) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

const INJECT_LABEL: &str = "heddle.dev/inject";

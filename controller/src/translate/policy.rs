//! `AuthorizationPolicy` to policies of the mesh.

use super::inventory::{Inventory, Item, has_labels};
use crate::manifest::{AuthorizationPolicy, ROOT_NAMESPACE};
use heddle_mesh::policy::{Policy, PolicyName, Scope};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;

/// Translates every policy.
pub(super) fn translate(inventory: &Inventory<'_>) -> BTreeMap<PolicyName, Policy> {
    let policies = inventory.authorization_policies.values().map(|item| {
        let policy = Policy {
            name: name(item),
            scope: match (&item.object.selector, item.namespace()) {
                (Some(_), _) => Scope::WorkloadSelector,
                (None, ROOT_NAMESPACE) => Scope::Global,
                (None, _) => Scope::Namespace,
            },
            action: item.object.action,
            rules: item.object.rules.clone(),
            dry_run: item.object.dry_run,
        };
        (policy.name.clone(), policy)
    });
    policies.collect()
}

/// The policies that a pod must list: those of its namespace that select it by labels.
pub(super) fn selecting<'a>(pod: &Item<'a, Pod>, inventory: &Inventory<'a>) -> Vec<PolicyName> {
    let namespace = pod.namespace();
    let policies = inventory.authorization_policies.range((namespace, "")..).map(|(_, item)| item);
    let policies = policies.take_while(|item| item.namespace() == namespace);
    let selecting =
        policies.filter(|item| item.object.selector.as_ref().is_some_and(|labels| has_labels(pod.object, labels)));
    selecting.map(name).collect()
}

fn name(item: &Item<'_, AuthorizationPolicy>) -> PolicyName {
    PolicyName { namespace: item.origin.namespace.clone(), name: item.origin.name.clone() }
}

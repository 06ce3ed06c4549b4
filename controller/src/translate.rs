//! Manifests to the mesh: pure, total, and with a word about everything that looks wrong.
//!
//! [`inventory`] sorts the objects, [`workload`], [`service`] and [`policy`] translate one kind each, [`checks`] looks at what
//! no single object shows.
//!
//! Invariant: no clock, no I/O; the same manifests give the same mesh, in the same order.

mod checks;
mod endpoints;
mod inventory;
mod mtls;
mod policy;
mod service;
mod workload;

use crate::{condition::Condition, source::folder::Manifests};
use heddle_mesh::{identity::TrustDomain, policy::Policy, service::Service, workload::Workload};
use inventory::Inventory;
use std::sync::Arc;

/// What the translation must know beside the manifests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the cluster, the first part of a workload's unique name.
    pub cluster_id: Arc<str>,
    /// Trust domain of the workloads' identities.
    pub trust_domain: TrustDomain,
}

/// The mesh that manifests describe, each list ordered by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translation {
    /// Pods.
    pub workloads: Vec<Arc<Workload>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Policies, written ones and those that strict mutual TLS becomes.
    pub policies: Vec<Arc<Policy>>,
    /// Everything worth saying, ordered by file and line.
    pub conditions: Vec<Condition>,
}

/// Translates.
pub fn translate(manifests: &Manifests, settings: &Settings) -> Translation {
    let mut conditions = manifests.conditions.clone();
    let inventory = Inventory::new(&manifests.objects, &mut conditions);
    let services = service::translate(&inventory, &mut conditions);
    let endpoints = endpoints::translate(&inventory, &services, &mut conditions);
    let mut policies = policy::translate(&inventory);
    let mut workloads = Vec::new();
    for pod in inventory.pods.values() {
        let Some(mut workload) = workload::translate(pod, &inventory, settings, &mut conditions) else { continue };
        workload.services = endpoints.pods.get(&(pod.namespace(), pod.name())).cloned().unwrap_or_default();
        if inventory.is_meshed(pod) {
            mtls::apply(pod, &inventory, &mut workload, &mut policies);
            workload.policies.extend(policy::selecting(pod, &inventory));
            workload.policies.sort();
        }
        workloads.push(Arc::new(workload));
    }
    let external = endpoints.external.into_iter();
    workloads.extend(external.filter_map(|(key, served)| workload::external(key, served, settings)).map(Arc::new));
    checks::run(&inventory, &workloads, &services, &mut conditions);
    conditions.sort_by(|a, b| (&a.place, &a.field, &a.problem).cmp(&(&b.place, &b.field, &b.problem)));
    conditions.dedup();
    Translation {
        workloads,
        services: services.into_values().map(Arc::new).collect(),
        policies: policies.into_values().map(Arc::new).collect(),
        conditions,
    }
}

#[cfg(test)]
mod tests;

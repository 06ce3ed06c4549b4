//! `MeshPolicy`: what holds for one pod, and strict mutual TLS as a policy that denies plaintext.

use super::inventory::{Inventory, Item, has_labels};
use crate::manifest::{MeshPolicy, ROOT_NAMESPACE, mesh_policy::MtlsMode};
use heddle_mesh::{
    policy::{Action, Clause, Match, Policy, PolicyName, Rule, STRICT_PREFIX, Scope, StringMatch},
    workload::{Egress, Tunnel, Workload},
};
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, BTreeSet};

/// Applies the mesh policies to a meshed pod's workload, and adds the policy that strict mutual TLS needs.
pub(super) fn apply(
    pod: &Item<'_, Pod>,
    inventory: &Inventory<'_>,
    workload: &mut Workload,
    policies: &mut BTreeMap<PolicyName, Policy>,
) {
    let effective = effective(pod, inventory);
    workload.egress = effective.egress;
    if effective.mode == MtlsMode::Disabled {
        workload.tunnel = Tunnel::None;
    }
    if let Some(policy) = strict_policy(pod.namespace(), &effective) {
        workload.policies.push(policy.name.clone());
        policies.insert(policy.name.clone(), policy);
    }
}

/// What the mesh policies say about one pod, together.
#[derive(Debug, PartialEq, Eq)]
struct Effective {
    mode: MtlsMode,
    /// Ports whose mode differs from `mode`.
    port_modes: BTreeMap<u16, MtlsMode>,
    egress: Egress,
}

/// Each setting by the most specific policy that has it: selecting the pod, of its namespace, of the mesh; of two alike the
/// oldest.
fn effective(pod: &Item<'_, Pod>, inventory: &Inventory<'_>) -> Effective {
    let mut policies: Vec<(u8, &Item<'_, MeshPolicy>)> = inventory
        .mesh_policies
        .values()
        .filter_map(|item| match &item.object.selector {
            Some(labels) if item.namespace() == pod.namespace() && has_labels(pod.object, labels) => Some((0, item)),
            None if item.namespace() == pod.namespace() => Some((1, item)),
            None if item.namespace() == ROOT_NAMESPACE => Some((2, item)),
            Some(_) | None => None,
        })
        .collect();
    policies.sort_by_key(|(rank, item)| (*rank, item.object.created_seconds.unwrap_or(i64::MAX), item.name()));
    let ordered = || policies.iter().map(|(_, item)| item.object);
    let mode = ordered().find_map(|policy| policy.mtls).unwrap_or(MtlsMode::Strict);
    let mut port_modes = BTreeMap::new();
    for (port, mode) in ordered().flat_map(|policy| &policy.port_mtls) {
        port_modes.entry(*port).or_insert(*mode);
    }
    port_modes.retain(|_, of_port| *of_port != mode);
    let egress = ordered().find_map(|policy| policy.egress).unwrap_or_default();
    Effective { mode, port_modes, egress }
}

/// The DENY policy for connections without a principal: on all ports but some, or on some ports only.
fn strict_policy(namespace: &str, effective: &Effective) -> Option<Policy> {
    let ports = |strict: bool| -> BTreeSet<u16> {
        let ports = effective.port_modes.iter().filter(|(_, mode)| (**mode == MtlsMode::Strict) == strict);
        ports.map(|(port, _)| *port).collect()
    };
    let (name, only, except) = match effective.mode {
        MtlsMode::Strict => ("except", BTreeSet::new(), ports(false)),
        MtlsMode::Permissive | MtlsMode::Disabled => ("only", ports(true), BTreeSet::new()),
    };
    if effective.mode != MtlsMode::Strict && only.is_empty() {
        return None;
    }
    let listed: Vec<String> = only.iter().chain(&except).map(u16::to_string).collect();
    let name = match listed.is_empty() {
        true => format!("{STRICT_PREFIX}all"),
        false => format!("{STRICT_PREFIX}{name}_{}", listed.join("_")),
    };
    let plaintext = Match {
        not_principals: vec![StringMatch::Presence],
        destination_ports: only.into_iter().collect(),
        not_destination_ports: except.into_iter().collect(),
        ..Match::default()
    };
    Some(Policy {
        name: PolicyName { namespace: namespace.into(), name: name.into() },
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![plaintext] }] }],
        dry_run: false,
    })
}

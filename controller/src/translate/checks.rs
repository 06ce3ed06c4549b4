//! What no single object shows: references to nothing, addresses with two owners, selectors that select nobody.

use super::{
    endpoints::{container_ports, selector, target_of, tcp_ports},
    inventory::{Inventory, Key, has_ended, has_labels},
};
use crate::{
    condition::{Condition, Severity, quoted},
    manifest::{ROOT_NAMESPACE, mesh_policy::MtlsMode},
};
use heddle_mesh::{service::Service, workload::Workload};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// Looks at everything.
pub(super) fn run(
    inventory: &Inventory<'_>,
    workloads: &[Arc<Workload>],
    services: &BTreeMap<Key<'_>, Service>,
    conditions: &mut Vec<Condition>,
) {
    namespaces(inventory, conditions);
    service_accounts(inventory, conditions);
    pod_addresses(inventory, workloads, services, conditions);
    for key in services.keys() {
        service(*key, inventory, conditions);
    }
    policies(inventory, conditions);
}

/// Namespaces that are used and not given: without their labels nothing in them is meshed. Said once each.
fn namespaces(inventory: &Inventory<'_>, conditions: &mut Vec<Condition>) {
    let mut said = HashSet::new();
    for origin in inventory.origins.iter().filter(|origin| origin.kind.namespaced()) {
        let namespace = &*origin.namespace;
        let always_there = namespace.starts_with("kube-") || namespace == ROOT_NAMESPACE;
        if always_there || inventory.namespaces.contains_key(namespace) || !said.insert(namespace) {
            continue;
        }
        conditions.push(origin.condition(
            Severity::Mistake,
            "metadata.namespace",
            format!("there is no Namespace {namespace}, so nothing in it is part of the mesh"),
            "add its manifest, with label heddle.dev/inject: enabled if it shall be, or correct the name",
        ));
    }
}

/// Accounts that pods use and that are not given, in namespaces that give any. `default` always exists.
fn service_accounts(inventory: &Inventory<'_>, conditions: &mut Vec<Condition>) {
    let given: HashSet<&str> = inventory.accounts.iter().map(|(namespace, _)| *namespace).collect();
    for pod in inventory.pods.values().filter(|pod| given.contains(pod.namespace())) {
        let account = pod.object.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty() && *name != "default");
        if let Some(account) = account.filter(|name| !inventory.accounts.contains(&(pod.namespace(), *name))) {
            conditions.push(pod.origin.condition(
                Severity::Mistake,
                "spec.serviceAccountName",
                format!("there is no ServiceAccount {} in namespace {}", quoted(account), pod.namespace()),
                "add its manifest, or correct the name",
            ));
        }
    }
}

/// Addresses of two pods, or of a pod and a service. Pods on their node's network share its address rightly.
fn pod_addresses(
    inventory: &Inventory<'_>,
    workloads: &[Arc<Workload>],
    services: &BTreeMap<Key<'_>, Service>,
    conditions: &mut Vec<Condition>,
) {
    let virtual_addresses = services.iter().flat_map(|((namespace, name), service)| {
        let title = format!("Service {namespace}/{name}");
        service.addresses.iter().map(move |address| (address.block.addr(), title.clone()))
    });
    let mut owners: HashMap<IpAddr, String> = virtual_addresses.collect();
    let of_pod = |workload: &'_ Arc<Workload>| inventory.pods.get(&(&*workload.namespace, &*workload.name)).copied();
    let of_pods = workloads.iter().filter(|workload| !workload.host_network);
    let mut of_pods: Vec<_> = of_pods.filter_map(|workload| Some((of_pod(workload)?, workload))).collect();
    of_pods.sort_by_cached_key(|(pod, _)| pod.origin.place(""));
    for (pod, workload) in of_pods {
        for address in &workload.addresses {
            if let Some(owner) = owners.insert(*address, pod.origin.title()) {
                let field = if pod.origin.tree.line_of("status.podIPs") > pod.origin.tree.line_of("status") {
                    "status.podIPs"
                } else {
                    "status.podIP"
                };
                let problem = format!("{address} is the address of {owner}, too");
                let remedy = "give each its own address; a pod that has ended should say so in status.phase";
                conditions.push(pod.origin.condition(Severity::Mistake, field, problem, remedy));
            }
        }
    }
}

fn service(key: Key<'_>, inventory: &Inventory<'_>, conditions: &mut Vec<Condition>) {
    let Some(item) = inventory.services.get(&key) else { return };
    let Some(selector) = selector(item.object) else { return };
    let pods = inventory.pods_of(item.namespace());
    let pods: Vec<_> = pods.filter(|pod| !has_ended(pod.object) && has_labels(pod.object, selector)).collect();
    if pods.is_empty() {
        conditions.push(item.origin.condition(
            Severity::Mistake,
            "spec.selector",
            format!("no pod in namespace {} has these labels, so every connection is refused", item.namespace()),
            "compare with the labels of the pods",
        ));
        return;
    }
    for (at, port) in tcp_ports(item.object) {
        let Some(IntOrString::String(name)) = &port.target_port else { continue };
        if pods.iter().all(|pod| target_of(port, pod.object).is_none()) {
            let known: Vec<&str> =
                pods.iter().flat_map(|pod| container_ports(pod.object).filter_map(|(name, _)| name)).collect();
            let known = match known.first() {
                Some(first) => format!(" (there is {})", quoted(first)),
                None => String::new(),
            };
            conditions.push(item.origin.condition(
                Severity::Mistake,
                &format!("spec.ports[{at}].targetPort"),
                format!("no selected pod has a TCP port named {}{known}", quoted(name)),
                "name a port of the containers, or write its number",
            ));
        }
    }
}

fn policies(inventory: &Inventory<'_>, conditions: &mut Vec<Condition>) {
    let selectors = inventory.mesh_policies.values().map(|item| (item.origin, item.object.selector.as_ref()));
    let others = inventory.authorization_policies.values().map(|item| (item.origin, item.object.selector.as_ref()));
    for (origin, selector) in selectors.chain(others) {
        let Some(labels) = selector else { continue };
        let selected: Vec<_> =
            inventory.pods_of(&origin.namespace).filter(|pod| has_labels(pod.object, labels)).collect();
        if selected.is_empty() {
            conditions.push(origin.condition(
                Severity::Mistake,
                "spec.selector.matchLabels",
                format!("no pod in namespace {} has these labels, so the policy does nothing", origin.namespace),
                "compare with the labels of the pods",
            ));
        } else if !selected.iter().any(|pod| inventory.is_meshed(pod)) {
            conditions.push(origin.condition(
                Severity::Warning,
                "spec.selector.matchLabels",
                "none of the selected pods is part of the mesh, so nobody enforces the policy".to_owned(),
                "label their namespace heddle.dev/inject: enabled",
            ));
        }
    }
    port_modes(inventory, conditions);
}

/// Modes of ports that no selected pod declares, and modes that cannot be had together.
fn port_modes(inventory: &Inventory<'_>, conditions: &mut Vec<Condition>) {
    for item in inventory.mesh_policies.values() {
        let pods = inventory.pods_of(item.namespace());
        let selected = |labels: &Option<BTreeMap<String, String>>, pod| {
            labels.as_ref().is_none_or(|labels| has_labels(pod, labels))
        };
        let pods = pods.filter(|pod| selected(&item.object.selector, pod.object));
        let declared: HashSet<u16> =
            pods.flat_map(|pod| container_ports(pod.object).map(|(_, number)| number)).collect();
        for (port, mode) in &item.object.port_mtls {
            let field = format!("spec.portLevelMtls.{port}");
            if !declared.is_empty() && !declared.contains(port) {
                let problem = format!("none of the pods declares port {port}");
                let remedy = "write the port that the pod listens on, not the service's";
                conditions.push(item.origin.condition(Severity::Warning, &field, problem, remedy));
            }
            if *mode == MtlsMode::Disabled && item.object.mtls != Some(MtlsMode::Disabled) {
                let problem = "a single port cannot refuse mutual TLS: it takes plaintext and mutual TLS".to_owned();
                conditions.push(item.origin.condition(Severity::Warning, &field, problem, "write Permissive"));
            }
        }
    }
}

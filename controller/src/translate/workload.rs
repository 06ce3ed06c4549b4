//! A Pod to a workload, as far as the pod alone says it; services and policies are added by the caller.

use super::{
    Settings,
    inventory::{Inventory, Item, has_ended, is_host_network},
};
use crate::condition::{Condition, Severity, quoted};
use heddle_mesh::{
    identity::SpiffeId,
    service::ServiceName,
    workload::{Egress, Health, Locality, PortMapping, Tunnel, Workload},
};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// Translates a pod. `None` when it has ended, or has no address yet.
pub(super) fn translate(
    pod: &Item<'_, Pod>,
    inventory: &Inventory<'_>,
    settings: &Settings,
    conditions: &mut Vec<Condition>,
) -> Option<Workload> {
    if has_ended(pod.object) {
        return None;
    }
    let conditions_before = conditions.len();
    let addresses = addresses(pod, conditions);
    if addresses.is_empty() && conditions.len() > conditions_before {
        return None;
    }
    if addresses.is_empty() {
        let remedy = "take the manifest from a running pod (kubectl get pod -o yaml), or write status.podIP";
        let problem = "no address, so the pod is not part of the mesh".to_owned();
        conditions.push(pod.origin.condition(Severity::Note, "status.podIP", problem, remedy));
        return None;
    }
    let spec = pod.object.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref()).filter(|name| !name.is_empty());
    let identity = SpiffeId::new(settings.trust_domain.clone(), pod.namespace(), account.unwrap_or("default"));
    let identity = identity
        .map_err(|error| {
            let field = "spec.serviceAccountName";
            conditions.push(pod.origin.condition(
                Severity::Mistake,
                field,
                error.to_string(),
                "name a service account",
            ));
        })
        .ok()?;
    let node = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let workload_name = owner(pod.object).unwrap_or_else(|| pod.name().to_owned());
    Some(Workload {
        uid: format!("{}//Pod/{}/{}", settings.cluster_id, pod.namespace(), pod.name()).into(),
        name: pod.origin.name.clone(),
        namespace: pod.origin.namespace.clone(),
        addresses,
        network: "".into(),
        tunnel: if inventory.is_meshed(pod) { Tunnel::Hbone } else { Tunnel::None },
        identity,
        node: node.into(),
        locality: locality(node, inventory),
        health: health(pod.object),
        policies: Vec::new(),
        services: BTreeMap::new(),
        capacity: 1,
        host_network: is_host_network(pod.object),
        egress: Egress::Allow,
        canonical_name: canonical_name(pod.object).map_or_else(|| workload_name.as_str().into(), Arc::from),
        workload_name: workload_name.into(),
        cluster: settings.cluster_id.clone(),
    })
}

/// An endpoint that is no pod: reached as it is, in plain TCP. It is named by its address. `None` when the namespace cannot
/// be part of an identity, which a checked name always can.
pub(super) fn external(
    (namespace, address): (&str, IpAddr),
    services: BTreeMap<ServiceName, Vec<PortMapping>>,
    settings: &Settings,
) -> Option<Workload> {
    let name: Arc<str> = address.to_string().into();
    Some(Workload {
        uid: format!("{}/discovery.k8s.io/EndpointSlice/{namespace}/{address}", settings.cluster_id).into(),
        name: name.clone(),
        namespace: namespace.into(),
        addresses: vec![address],
        network: "".into(),
        tunnel: Tunnel::None,
        identity: SpiffeId::new(settings.trust_domain.clone(), namespace, "default").ok()?,
        node: "".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        policies: Vec::new(),
        services,
        capacity: 1,
        host_network: false,
        egress: Egress::Allow,
        canonical_name: name.clone(),
        workload_name: name,
        cluster: settings.cluster_id.clone(),
    })
}

/// `status.podIPs`, or `status.podIP`; at most one of each family.
fn addresses(pod: &Item<'_, Pod>, conditions: &mut Vec<Condition>) -> Vec<IpAddr> {
    let Some(status) = pod.object.status.as_ref() else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (field, text) in address_texts(status) {
        let mut mistake = |problem: String, remedy: &str| {
            conditions.push(pod.origin.condition(Severity::Mistake, &field, problem, remedy));
        };
        match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Err(_) => mistake(format!("{} is no address", quoted(text)), "write an IPv4 or IPv6 address"),
            Ok(address) if address.is_unspecified() || address.is_loopback() || address.is_multicast() => {
                mistake(
                    format!("{address} cannot be the address of a pod"),
                    "write the address that others reach the pod by",
                );
            }
            Ok(address) if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) => {
                mistake(format!("{address} is a second address of its family"), "keep one IPv4 and one IPv6 address");
            }
            Ok(address) => addresses.push(address),
        }
    }
    addresses
}

fn address_texts(status: &PodStatus) -> Vec<(String, &str)> {
    let many = status.pod_ips.iter().flatten().enumerate();
    let many: Vec<_> = many.map(|(at, ip)| (format!("status.podIPs[{at}].ip"), ip.ip.as_str())).collect();
    match (&status.pod_ip, many.is_empty()) {
        (Some(one), true) if !one.is_empty() => vec![("status.podIP".to_owned(), one)],
        _ => many,
    }
}

fn locality(node: &str, inventory: &Inventory<'_>) -> Locality {
    let labels = inventory.nodes.get(node).and_then(|node| node.object.metadata.labels.as_ref());
    let label = |key: &str| {
        labels.and_then(|labels| labels.get(key)).map_or_else(Arc::default, |value| Arc::from(value.as_str()))
    };
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}

/// Ready as its condition says; without one, a running pod is, and so is one that says nothing about itself.
fn health(pod: &Pod) -> Health {
    let status = pod.status.as_ref();
    let ready =
        status.and_then(|status| status.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready"));
    let phase = status.and_then(|status| status.phase.as_deref());
    let ready = match ready {
        Some(condition) => condition.status == "True",
        None => matches!(phase, Some("Running") | None),
    };
    match ready && pod.metadata.deletion_timestamp.is_none() {
        true => Health::Healthy,
        false => Health::Unhealthy,
    }
}

fn canonical_name(pod: &Pod) -> Option<&str> {
    let labels = pod.metadata.labels.as_ref()?;
    let name = ["app.kubernetes.io/name", "app"].iter().find_map(|key| labels.get(*key));
    name.map(String::as_str).filter(|name| !name.is_empty())
}

/// The object that made the pod. A ReplicaSet's own name is its Deployment's with the hash of the template.
fn owner(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.as_ref()?;
    let owner = owners.iter().find(|owner| owner.controller == Some(true)).or_else(|| owners.first())?;
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash.filter(|_| owner.kind == "ReplicaSet");
    let deployment = deployment.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(deployment.unwrap_or(&owner.name).to_owned())
}

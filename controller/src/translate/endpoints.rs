//! Which pods serve which services, and on which ports.
//!
//! EndpointSlices say it where there are any for a service; otherwise its selector does, so that a folder with nothing but
//! Pods and Services works.

use super::{
    inventory::{Inventory, Item, Key, has_ended, has_labels},
    service::{is_tcp, port_number},
};
use crate::condition::{Condition, Severity, quoted};
use heddle_mesh::{
    service::{Service, ServiceName},
    workload::PortMapping,
};
use k8s_openapi::{
    api::{
        core::v1::{Container, Pod, Service as Manifest, ServicePort},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

/// Who serves what.
#[derive(Debug, Default)]
pub(super) struct Endpoints<'a> {
    /// What each pod serves.
    pub(super) pods: HashMap<Key<'a>, Served>,
    /// What addresses that belong to no pod serve, by the namespace of the service.
    pub(super) external: BTreeMap<(&'a str, IpAddr), Served>,
}

/// Services, each with the ports as one endpoint serves them.
pub(super) type Served = BTreeMap<ServiceName, Vec<PortMapping>>;

/// Finds the endpoints of all services.
pub(super) fn translate<'a>(
    inventory: &Inventory<'a>,
    services: &BTreeMap<Key<'a>, Service>,
    conditions: &mut Vec<Condition>,
) -> Endpoints<'a> {
    let mut slices: HashMap<Key<'a>, Vec<&Item<'a, EndpointSlice>>> = HashMap::new();
    for slice in inventory.slices.values() {
        let Some(service) = slice.object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL)) else {
            continue;
        };
        match services.get_key_value(&(slice.namespace(), service.as_str())) {
            Some((key, _)) => slices.entry(*key).or_default().push(slice),
            None if inventory.services.contains_key(&(slice.namespace(), service.as_str())) => {}
            None => conditions.push(slice.origin.condition(
                Severity::Mistake,
                "metadata.labels[\"kubernetes.io/service-name\"]",
                format!("there is no service {} in namespace {}", quoted(service), slice.namespace()),
                "add the service, or correct the label",
            )),
        }
    }
    let by_address = pods_by_address(inventory);
    let mut endpoints = Endpoints::default();
    for (key, service) in services {
        let Some(item) = inventory.services.get(key) else { continue };
        match slices.get(key) {
            Some(slices) => {
                for slice in slices {
                    from_slice(item, service, slice, inventory, &by_address, &mut endpoints, conditions);
                }
            }
            None => from_selector(item, service, inventory, &mut endpoints),
        }
    }
    endpoints
}

fn from_selector<'a>(
    item: &Item<'a, Manifest>,
    service: &Service,
    inventory: &Inventory<'a>,
    endpoints: &mut Endpoints<'a>,
) {
    let Some(selector) = selector(item.object) else { return };
    for pod in
        inventory.pods_of(item.namespace()).filter(|pod| !has_ended(pod.object) && has_labels(pod.object, selector))
    {
        let ports = tcp_ports(item.object).filter_map(|(_, port)| {
            let service_port = port_number(port.port).filter(|number| service.port(*number).is_some())?;
            Some(PortMapping { service_port, target_port: target_of(port, pod.object)? })
        });
        let ports = ports.collect();
        endpoints.pods.entry((pod.namespace(), pod.name())).or_default().insert(service.name.clone(), ports);
    }
}

fn from_slice<'a>(
    item: &Item<'a, Manifest>,
    service: &Service,
    slice: &Item<'a, EndpointSlice>,
    inventory: &Inventory<'a>,
    by_address: &HashMap<IpAddr, Key<'a>>,
    endpoints: &mut Endpoints<'a>,
    conditions: &mut Vec<Condition>,
) {
    let ports: Vec<PortMapping> = tcp_ports(item.object)
        .filter_map(|(_, port)| {
            let service_port = port_number(port.port).filter(|number| service.port(*number).is_some())?;
            let wanted = port.name.as_deref().unwrap_or_default();
            let mut of_slice = slice.object.ports.iter().flatten();
            let found = of_slice.find(|port| {
                port.name.as_deref().unwrap_or_default() == wanted
                    && port.protocol.as_deref().is_none_or(|one| one == "TCP")
            });
            Some(PortMapping { service_port, target_port: port_number(found?.port?)? })
        })
        .collect();
    for (at, endpoint) in slice.object.endpoints.iter().flatten().enumerate() {
        // `ready` already says yes for services that publish addresses that are not; terminating ones are never ready.
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let field = format!("endpoints[{at}]");
        match owner(endpoint, slice.namespace(), inventory, by_address) {
            Owner::Pod(key) if ready => add(endpoints.pods.entry(key).or_default(), service, &ports),
            Owner::External(address) if ready => {
                add(endpoints.external.entry((slice.namespace(), address)).or_default(), service, &ports);
            }
            Owner::Pod(_) | Owner::External(_) => {}
            Owner::MissingPod => {
                let problem = "its pod is not among these manifests, so the mesh does not send to it".to_owned();
                conditions.push(slice.origin.condition(Severity::Warning, &field, problem, "add the pod's manifest"));
            }
            Owner::NoAddress => {
                let problem = "has no address, so the mesh does not send to it".to_owned();
                conditions.push(slice.origin.condition(
                    Severity::Warning,
                    &field,
                    problem,
                    "write an IPv4 or IPv6 address",
                ));
            }
        }
    }
}

/// Adds ports that are not there yet: a dual-stack service has a slice for each family.
fn add(served: &mut Served, service: &Service, ports: &[PortMapping]) {
    let of_service = served.entry(service.name.clone()).or_default();
    for port in ports {
        if !of_service.iter().any(|known| known.service_port == port.service_port) {
            of_service.push(*port);
        }
    }
}

/// What stands behind an endpoint.
enum Owner<'a> {
    Pod(Key<'a>),
    /// A pod is named, and not given.
    MissingPod,
    /// An address outside of the cluster's pods, such as a database of its own.
    External(IpAddr),
    NoAddress,
}

/// The pod that the endpoint names, or the one that has its address, or just the address.
fn owner<'a>(
    endpoint: &'a Endpoint,
    namespace: &'a str,
    inventory: &Inventory<'a>,
    by_address: &HashMap<IpAddr, Key<'a>>,
) -> Owner<'a> {
    if let Some(target) = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod")) {
        let key = (target.namespace.as_deref().unwrap_or(namespace), target.name.as_deref().unwrap_or_default());
        let pod = inventory.pods.get_key_value(&key);
        return pod.map_or(Owner::MissingPod, |(key, _)| Owner::Pod(*key));
    }
    let mut addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
    match addresses.next().map(|address| address.to_canonical()) {
        Some(address) => by_address.get(&address).map_or(Owner::External(address), |key| Owner::Pod(*key)),
        None => Owner::NoAddress,
    }
}

fn pods_by_address<'a>(inventory: &Inventory<'a>) -> HashMap<IpAddr, Key<'a>> {
    let mut by_address = HashMap::new();
    for (key, pod) in inventory.pods.iter().filter(|(_, pod)| !has_ended(pod.object)) {
        let status = pod.object.status.iter();
        let texts =
            status.flat_map(|status| status.pod_ip.iter().chain(status.pod_ips.iter().flatten().map(|ip| &ip.ip)));
        for address in texts.filter_map(|text| text.parse::<IpAddr>().ok()) {
            by_address.entry(address.to_canonical()).or_insert(*key);
        }
    }
    by_address
}

/// A service's selector, when it has one.
pub(super) fn selector(service: &Manifest) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// The ports that the mesh carries, with their place in the manifest.
pub(super) fn tcp_ports(service: &Manifest) -> impl Iterator<Item = (usize, &ServicePort)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.enumerate().filter(|(_, port)| is_tcp(port))
}

/// The port of a pod behind a service's port; `None` when it has a name that the pod does not know.
pub(super) fn target_of(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => port_number(port.port),
        Some(IntOrString::Int(number)) => port_number(*number),
        Some(IntOrString::String(name)) => match name.parse::<u16>() {
            Ok(number) => Some(number).filter(|number| *number != 0),
            Err(_) => container_ports(pod).find(|(of_pod, _)| *of_pod == Some(name)).map(|(_, number)| number),
        },
    }
}

/// The TCP ports that a pod declares, with their names.
pub(super) fn container_ports(pod: &Pod) -> impl Iterator<Item = (Option<&str>, u16)> {
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(sidecars(spec)));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    ports.filter_map(|port| Some((port.name.as_deref(), port_number(port.container_port)?)))
}

/// Init containers that run as long as the pod does (KEP-753).
fn sidecars(spec: &k8s_openapi::api::core::v1::PodSpec) -> impl Iterator<Item = &Container> {
    let init = spec.init_containers.iter().flatten();
    init.filter(|container| container.restart_policy.as_deref() == Some("Always"))
}

/// Which service an EndpointSlice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

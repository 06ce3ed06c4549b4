//! A Service to a service of the mesh.

use super::inventory::{Inventory, Item, Key};
use crate::condition::{Condition, Severity, quoted};
use heddle_mesh::{
    service::{LoadBalancing, Port, Service, ServiceName, VirtualAddress},
    workload::ProtocolHint,
};
use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1::{Service as Manifest, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

/// Translates every service. The first service that has an address, by file and line, keeps it.
pub(super) fn translate<'a>(inventory: &Inventory<'a>, conditions: &mut Vec<Condition>) -> BTreeMap<Key<'a>, Service> {
    let mut services = BTreeMap::new();
    let mut owners: HashMap<IpAddr, String> = HashMap::new();
    let mut items: Vec<_> = inventory.services.iter().collect();
    items.sort_by_cached_key(|(_, item)| item.origin.place(""));
    for (key, item) in items {
        let Some(spec) = item.object.spec.as_ref() else {
            let problem = "missing, so the service has no address and no port".to_owned();
            conditions.push(item.origin.condition(
                Severity::Mistake,
                "spec",
                problem,
                "write spec.clusterIP and spec.ports",
            ));
            continue;
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            let problem = "ExternalName services are names in DNS only; the mesh does not use them".to_owned();
            conditions.push(item.origin.condition(Severity::Note, "spec.type", problem, ""));
            continue;
        }
        services.insert(*key, one(item, spec, &mut owners, conditions));
    }
    services
}

/// The name of a service in the mesh.
pub(super) fn service_name((namespace, name): Key<'_>) -> ServiceName {
    ServiceName { namespace: namespace.into(), hostname: format!("{name}.{namespace}.svc.cluster.local").into() }
}

fn one(
    item: &Item<'_, Manifest>,
    spec: &ServiceSpec,
    owners: &mut HashMap<IpAddr, String>,
    conditions: &mut Vec<Condition>,
) -> Service {
    Service {
        name: service_name((item.namespace(), item.name())),
        short_name: item.origin.name.clone(),
        addresses: addresses(item, spec, owners, conditions),
        ports: ports(item, spec, conditions),
        identities: Vec::new(),
        load_balancing: LoadBalancing {
            passthrough: false,
            unhealthy_allowed: spec.publish_not_ready_addresses.unwrap_or(false),
        },
    }
}

/// `clusterIPs`, or `clusterIP`; none for a headless service.
fn addresses(
    item: &Item<'_, Manifest>,
    spec: &ServiceSpec,
    owners: &mut HashMap<IpAddr, String>,
    conditions: &mut Vec<Condition>,
) -> Vec<VirtualAddress> {
    let many = spec.cluster_ips.iter().flatten().enumerate();
    let mut texts: Vec<_> = many.map(|(at, text)| (format!("spec.clusterIPs[{at}]"), text)).collect();
    if texts.is_empty() {
        texts.extend(spec.cluster_ip.iter().map(|text| ("spec.clusterIP".to_owned(), text)));
    }
    let mut addresses = Vec::new();
    for (field, text) in texts.iter().filter(|(_, text)| !text.is_empty() && *text != "None") {
        let mut mistake = |problem: String, remedy: &str| {
            conditions.push(item.origin.condition(Severity::Mistake, field, problem, remedy));
        };
        let address = match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) if !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() => address,
            Ok(_) | Err(_) => {
                mistake(
                    format!("{} is no address of a service", quoted(text)),
                    "write an IPv4 or IPv6 address, or None",
                );
                continue;
            }
        };
        if let Some(owner) = owners.get(&address) {
            mistake(
                format!("{address} is the address of {owner} already, which keeps it"),
                "give each service its own address",
            );
            continue;
        }
        owners.insert(address, item.origin.title());
        addresses.push(VirtualAddress { network: "".into(), block: IpNet::from(address) });
    }
    addresses
}

fn ports(item: &Item<'_, Manifest>, spec: &ServiceSpec, conditions: &mut Vec<Condition>) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for (at, port) in spec.ports.iter().flatten().enumerate().filter(|(_, port)| is_tcp(port)) {
        let mut mistake = |field: &str, problem: String, remedy: &str| {
            conditions.push(item.origin.condition(
                Severity::Mistake,
                &format!("spec.ports[{at}].{field}"),
                problem,
                remedy,
            ));
        };
        let Some(number) = port_number(port.port) else {
            mistake("port", format!("{} is no port", port.port), "write a number from 1 to 65535");
            continue;
        };
        if ports.iter().any(|earlier| earlier.number == number) {
            mistake("port", format!("port {number} is there already; the first one counts"), "remove one of them");
            continue;
        }
        let target = match &port.target_port {
            None | Some(IntOrString::Int(0)) => Some(number),
            Some(IntOrString::Int(target)) => match port_number(*target) {
                Some(target) => Some(target),
                None => {
                    mistake(
                        "targetPort",
                        format!("{target} is no port"),
                        "write a number from 1 to 65535, or a port's name",
                    );
                    continue;
                }
            },
            Some(IntOrString::String(name)) => match name.parse::<u16>() {
                Ok(target) if target != 0 => Some(target),
                Ok(_) | Err(_) => None,
            },
        };
        ports.push(Port { number, target, protocol: protocol(port) });
    }
    ports
}

/// Whether the mesh carries the port: TCP, which is the default.
pub(super) fn is_tcp(port: &ServicePort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}

/// A port number as manifests hold it.
pub(super) fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// What `appProtocol` says, or else the start of the port's name, as Istio and the Gateway API read them.
fn protocol(port: &ServicePort) -> ProtocolHint {
    let name = port.app_protocol.as_deref().or(port.name.as_deref()).unwrap_or_default();
    let name = name.strip_prefix("kubernetes.io/").unwrap_or(name).to_ascii_lowercase();
    match name.split('-').next().unwrap_or_default() {
        "http" | "http1" | "ws" => ProtocolHint::Http1,
        "http2" | "h2c" => ProtocolHint::Http2,
        "grpc" => ProtocolHint::Grpc,
        "https" | "tls" | "wss" => ProtocolHint::Tls,
        "tcp" | "mongo" | "mysql" | "redis" => ProtocolHint::Tcp,
        _ => ProtocolHint::Unknown,
    }
}

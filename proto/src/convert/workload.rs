//! A workload on the wire: WDS, with our own extension beside it.
//!
//! Not taken over, because the mesh has no word for them yet: waypoint, network gateway, host name, application tunnel.

use super::{decode_ip, decode_port, decode_port_required, encode_ip, pack, unpack};
use crate::{
    FieldError,
    names::WORKLOAD_EXTENSION_TYPE,
    wire::{heddle::v1 as own, istio::workload as wire},
};
use heddle_mesh::{
    identity::{SpiffeId, TrustDomain},
    policy::PolicyName,
    service::ServiceName,
    workload::{Egress, Health, Locality, PortMapping, Tunnel, Workload},
};
use std::collections::BTreeMap;

/// Reads a workload. Empty `trust_domain`: `cluster.local`; empty `service_account`: `default`; absent or zero `capacity`:
/// 1; a tunnel that we do not speak: plain TCP; a status that we do not know: unhealthy; an egress rule that we do not
/// know: deny.
///
/// # Errors
/// No `uid`; a name, address or port that is malformed; an identity that no certificate can have.
pub fn decode_workload(message: &wire::Workload) -> Result<Workload, FieldError> {
    let uid = message.uid.as_str();
    if uid.is_empty() {
        return Err(FieldError::new(&message.name, "uid", "empty, expected a name unique in the mesh"));
    }
    let addresses = message.addresses.iter().enumerate().map(|(at, bytes)| {
        decode_ip(bytes).map_err(|problem| FieldError::new(uid, format!("addresses[{at}]"), problem))
    });
    let policies = message.authorization_policies.iter().enumerate().map(|(at, name)| {
        let parsed = name.parse::<PolicyName>();
        parsed.map_err(|problem| FieldError::new(uid, format!("authorization_policies[{at}]"), problem))
    });
    Ok(Workload {
        uid: uid.into(),
        name: message.name.as_str().into(),
        namespace: message.namespace.as_str().into(),
        addresses: addresses.collect::<Result<_, _>>()?,
        network: message.network.as_str().into(),
        tunnel: decode_tunnel(message.tunnel_protocol),
        identity: decode_identity(message)?,
        node: message.node.as_str().into(),
        locality: message.locality.as_ref().map(decode_locality).unwrap_or_default(),
        health: decode_health(message.status),
        policies: policies.collect::<Result<_, _>>()?,
        services: decode_services(message)?,
        capacity: message.capacity.unwrap_or(1).max(1),
        host_network: message.network_mode == wire::NetworkMode::HostNetwork as i32,
        egress: decode_egress(message)?,
        canonical_name: message.canonical_name.as_str().into(),
        workload_name: message.workload_name.as_str().into(),
        cluster: message.cluster_id.as_str().into(),
    })
}

/// Writes a workload. Defaults are spelled out, so that a receiver with other defaults agrees. The extension is there only
/// when it says something.
pub fn encode_workload(workload: &Workload) -> wire::Workload {
    let services = workload.services.iter().map(|(name, ports)| (name.to_string(), encode_ports(ports)));
    let locality = &workload.locality;
    wire::Workload {
        uid: workload.uid.to_string(),
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        addresses: workload.addresses.iter().copied().map(encode_ip).collect(),
        network: workload.network.to_string(),
        tunnel_protocol: match workload.tunnel {
            Tunnel::None => wire::TunnelProtocol::None as i32,
            Tunnel::Hbone => wire::TunnelProtocol::Hbone as i32,
        },
        trust_domain: workload.identity.trust_domain().to_string(),
        service_account: workload.identity.service_account().to_owned(),
        node: workload.node.to_string(),
        canonical_name: workload.canonical_name.to_string(),
        workload_name: workload.workload_name.to_string(),
        services: services.collect(),
        authorization_policies: workload.policies.iter().map(ToString::to_string).collect(),
        status: match workload.health {
            Health::Healthy => wire::WorkloadStatus::Healthy as i32,
            Health::Unhealthy => wire::WorkloadStatus::Unhealthy as i32,
        },
        cluster_id: workload.cluster.to_string(),
        locality: (*locality != Locality::default()).then(|| wire::Locality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            subzone: locality.subzone.to_string(),
        }),
        network_mode: match workload.host_network {
            true => wire::NetworkMode::HostNetwork as i32,
            false => wire::NetworkMode::Standard as i32,
        },
        extensions: encode_egress(workload.egress),
        capacity: (workload.capacity != 1).then_some(workload.capacity),
        ..wire::Workload::default()
    }
}

/// Istio's old sidecar TLS and tunnels of the future are plain TCP: the peer takes that as well.
fn decode_tunnel(tunnel: i32) -> Tunnel {
    match wire::TunnelProtocol::try_from(tunnel) {
        Ok(wire::TunnelProtocol::Hbone) => Tunnel::Hbone,
        Ok(wire::TunnelProtocol::None | wire::TunnelProtocol::LegacyIstioMtls) | Err(_) => Tunnel::None,
    }
}

fn decode_health(status: i32) -> Health {
    match wire::WorkloadStatus::try_from(status) {
        Ok(wire::WorkloadStatus::Healthy) => Health::Healthy,
        Ok(wire::WorkloadStatus::Unhealthy) | Err(_) => Health::Unhealthy,
    }
}

fn decode_identity(message: &wire::Workload) -> Result<SpiffeId, FieldError> {
    let trust_domain = match message.trust_domain.as_str() {
        "" => TrustDomain::default(),
        text => text.parse().map_err(|problem| FieldError::new(&message.uid, "trust_domain", problem))?,
    };
    let service_account = match message.service_account.as_str() {
        "" => "default",
        text => text,
    };
    SpiffeId::new(trust_domain, &message.namespace, service_account)
        .map_err(|problem| FieldError::new(&message.uid, "namespace, service_account", problem))
}

fn decode_locality(message: &wire::Locality) -> Locality {
    Locality {
        region: message.region.as_str().into(),
        zone: message.zone.as_str().into(),
        subzone: message.subzone.as_str().into(),
    }
}

/// A mapping to port 0 says only that the workload does not know; the service's own mapping counts then.
fn decode_services(message: &wire::Workload) -> Result<BTreeMap<ServiceName, Vec<PortMapping>>, FieldError> {
    let mut services = BTreeMap::new();
    for (key, list) in &message.services {
        let fail = |field: String, problem: String| FieldError::new(&message.uid, field, problem);
        let name: ServiceName = key.parse().map_err(|problem| fail("services".to_owned(), format!("{problem}")))?;
        let mut ports = Vec::with_capacity(list.ports.len());
        for (at, port) in list.ports.iter().enumerate() {
            let path = |field: &str| format!("services[{name}].ports[{at}].{field}");
            let service_port =
                decode_port_required(port.service_port).map_err(|problem| fail(path("service_port"), problem))?;
            let target_port = decode_port(port.target_port).map_err(|problem| fail(path("target_port"), problem))?;
            ports.extend(target_port.map(|target_port| PortMapping { service_port, target_port }));
        }
        services.insert(name, ports);
    }
    Ok(services)
}

fn encode_ports(ports: &[PortMapping]) -> wire::PortList {
    let port = |port: &PortMapping| wire::Port {
        service_port: port.service_port.into(),
        target_port: port.target_port.into(),
        app_protocol: wire::AppProtocol::Unknown as i32,
    };
    wire::PortList { ports: ports.iter().map(port).collect() }
}

fn decode_egress(message: &wire::Workload) -> Result<Egress, FieldError> {
    let mut configs = message.extensions.iter().enumerate().filter_map(|(at, one)| Some((at, one.config.as_ref()?)));
    let Some((at, config)) = configs.find(|(_, config)| config.type_url == WORKLOAD_EXTENSION_TYPE) else {
        return Ok(Egress::Allow);
    };
    let field = format!("extensions[{at}].config");
    let extension: own::WorkloadExtension = unpack(config, WORKLOAD_EXTENSION_TYPE, &message.uid, &field)?;
    Ok(match own::Egress::try_from(extension.egress) {
        Ok(own::Egress::Allow) => Egress::Allow,
        Ok(own::Egress::Deny) | Err(_) => Egress::Deny,
    })
}

fn encode_egress(egress: Egress) -> Vec<wire::Extension> {
    let egress = match egress {
        Egress::Allow => return Vec::new(),
        Egress::Deny => own::Egress::Deny as i32,
    };
    let config = pack(WORKLOAD_EXTENSION_TYPE, &own::WorkloadExtension { egress });
    vec![wire::Extension { name: EXTENSION_NAME.to_owned(), config: Some(config) }]
}

/// Name of our extension within a workload.
const EXTENSION_NAME: &str = "heddle.dev/workload";

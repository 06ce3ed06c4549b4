//! A service on the wire.
//!
//! Not taken over, because the mesh has no word for them yet: waypoints, routing preference, visibility.

use super::{decode_block, decode_port, decode_port_required, encode_block};
use crate::{FieldError, wire::istio::workload as wire};
use heddle_mesh::{
    service::{LoadBalancing, Port, Service, ServiceName, VirtualAddress},
    workload::ProtocolHint,
};

/// Reads a service. A protocol that we do not know: look at the bytes. A `subject_alt_names` entry that is no workload
/// identity is skipped, so that nobody is accepted by it. Of two ports with one number (TCP and UDP) the first counts.
///
/// # Errors
/// A name, address or port that is malformed.
pub fn decode_service(message: &wire::Service) -> Result<Service, FieldError> {
    let resource = format!("{}/{}", message.namespace, message.hostname);
    let name: ServiceName =
        resource.parse().map_err(|problem| FieldError::new(&resource, "namespace, hostname", problem))?;
    let addresses = message.addresses.iter().enumerate().map(|(at, address)| {
        let block = decode_block(&address.address, address.length);
        let block = block.map_err(|problem| FieldError::new(&resource, format!("addresses[{at}]"), problem))?;
        Ok(VirtualAddress { network: address.network.as_str().into(), block })
    });
    let load_balancing = message.load_balancing.as_ref().map(decode_load_balancing);
    Ok(Service {
        short_name: message.name.as_str().into(),
        addresses: addresses.collect::<Result<_, FieldError>>()?,
        ports: decode_ports(&resource, &message.ports)?,
        identities: message.subject_alt_names.iter().filter_map(|name| name.parse().ok()).collect(),
        load_balancing: load_balancing.unwrap_or_default(),
        name,
    })
}

/// Writes a service.
pub fn encode_service(service: &Service) -> wire::Service {
    wire::Service {
        name: service.short_name.to_string(),
        namespace: service.name.namespace.to_string(),
        hostname: service.name.hostname.to_string(),
        addresses: service.addresses.iter().map(encode_virtual_address).collect(),
        ports: service.ports.iter().map(encode_port).collect(),
        subject_alt_names: service.identities.iter().map(ToString::to_string).collect(),
        load_balancing: encode_load_balancing(service.load_balancing),
        ..wire::Service::default()
    }
}

fn encode_virtual_address(address: &VirtualAddress) -> wire::NetworkAddress {
    let (bytes, length) = encode_block(address.block);
    // A single address goes without a length, for receivers that are older than the field.
    let length = Some(length).filter(|_| address.block.prefix_len() != address.block.max_prefix_len());
    wire::NetworkAddress { network: address.network.to_string(), address: bytes, length }
}

fn decode_ports(resource: &str, messages: &[wire::Port]) -> Result<Vec<Port>, FieldError> {
    let mut ports: Vec<Port> = Vec::with_capacity(messages.len());
    for (at, port) in messages.iter().enumerate() {
        let fail = |field: &str, problem: String| FieldError::new(resource, format!("ports[{at}].{field}"), problem);
        let number = decode_port_required(port.service_port).map_err(|problem| fail("service_port", problem))?;
        let target = decode_port(port.target_port).map_err(|problem| fail("target_port", problem))?;
        if !ports.iter().any(|earlier| earlier.number == number) {
            ports.push(Port { number, target, protocol: decode_protocol(port.app_protocol) });
        }
    }
    Ok(ports)
}

fn encode_port(port: &Port) -> wire::Port {
    wire::Port {
        service_port: port.number.into(),
        target_port: port.target.unwrap_or(0).into(),
        app_protocol: encode_protocol(port.protocol),
    }
}

fn decode_protocol(protocol: i32) -> ProtocolHint {
    match wire::AppProtocol::try_from(protocol) {
        Ok(wire::AppProtocol::Unknown) | Err(_) => ProtocolHint::Unknown,
        Ok(wire::AppProtocol::Http11) => ProtocolHint::Http1,
        Ok(wire::AppProtocol::Http2) => ProtocolHint::Http2,
        Ok(wire::AppProtocol::Grpc) => ProtocolHint::Grpc,
        Ok(wire::AppProtocol::Tcp) => ProtocolHint::Tcp,
        Ok(wire::AppProtocol::Tls) => ProtocolHint::Tls,
    }
}

fn encode_protocol(protocol: ProtocolHint) -> i32 {
    let protocol = match protocol {
        ProtocolHint::Unknown => wire::AppProtocol::Unknown,
        ProtocolHint::Http1 => wire::AppProtocol::Http11,
        ProtocolHint::Http2 => wire::AppProtocol::Http2,
        ProtocolHint::Grpc => wire::AppProtocol::Grpc,
        ProtocolHint::Tcp => wire::AppProtocol::Tcp,
        ProtocolHint::Tls => wire::AppProtocol::Tls,
    };
    protocol as i32
}

fn decode_load_balancing(message: &wire::LoadBalancing) -> LoadBalancing {
    LoadBalancing {
        passthrough: message.mode == wire::load_balancing::Mode::Passthrough as i32,
        unhealthy_allowed: message.health_policy == wire::load_balancing::HealthPolicy::AllowAll as i32,
    }
}

fn encode_load_balancing(load_balancing: LoadBalancing) -> Option<wire::LoadBalancing> {
    if load_balancing == LoadBalancing::default() {
        return None;
    }
    let mode = match load_balancing.passthrough {
        true => wire::load_balancing::Mode::Passthrough,
        false => wire::load_balancing::Mode::UnspecifiedMode,
    };
    let health_policy = match load_balancing.unhealthy_allowed {
        true => wire::load_balancing::HealthPolicy::AllowAll,
        false => wire::load_balancing::HealthPolicy::OnlyHealthy,
    };
    Some(wire::LoadBalancing { routing_preference: Vec::new(), mode: mode as i32, health_policy: health_policy as i32 })
}

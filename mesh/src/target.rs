//! What a dialled address means in the mesh.

use crate::{
    Mesh,
    service::{Port, Service, ServiceName},
    workload::{Egress, Health, ProtocolHint, Workload},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// What a dialled address means.
#[derive(Debug, Clone)]
pub enum Target {
    /// A port of a service, with the endpoints that may be chosen; never empty.
    Service {
        /// The service.
        service: Arc<Service>,
        /// Its dialled port.
        port: Port,
        /// Who may serve it.
        endpoints: Vec<Endpoint>,
    },
    /// One workload, dialled by its own address or through a passthrough service.
    Workload(Endpoint),
    /// An address outside the mesh: passed through.
    External(SocketAddr),
    /// Nobody has asked the controller yet; ask, then resolve again.
    Undiscovered(IpAddr),
    /// It must not be dialled.
    Refused(Refusal),
}

impl Target {
    /// What is known about the bytes.
    pub fn protocol_hint(&self) -> ProtocolHint {
        match self {
            Self::Service { port, .. } => port.protocol,
            Self::Workload(_) | Self::External(_) | Self::Undiscovered(_) | Self::Refused(_) => ProtocolHint::Unknown,
        }
    }
}

/// One workload and the address of it that serves.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Its address and port.
    pub address: SocketAddr,
}

/// Why an address must not be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The service has no such port.
    #[error("service {service} has no port {port}; look at its spec.ports")]
    NoSuchPort {
        /// The service.
        service: ServiceName,
        /// The dialled port.
        port: u16,
    },
    /// The service has no endpoint that may be chosen.
    #[error("service {service} has no ready endpoint for port {port}; look at its pods' readiness")]
    NoEndpoint {
        /// The service.
        service: ServiceName,
        /// The dialled port.
        port: u16,
    },
    /// The mesh does not know the address, and egress policy denies unknown ones.
    #[error("address {0} is not in the mesh, and the egress policy of this workload is Deny")]
    EgressDenied(SocketAddr),
}

/// What `destination` means to a connection from `from`.
///
/// Virtual addresses win over workload addresses. An endpoint is given in the family that was dialled, or in the other one
/// when the workload has only that. A known service without an endpoint is refused, never passed through.
pub fn resolve(mesh: &Mesh, destination: SocketAddr, from: &Workload) -> Target {
    let ip = destination.ip().to_canonical();
    let destination = SocketAddr::new(ip, destination.port());
    if let Some(service) = mesh.service_by_address(&from.network, ip) {
        return resolve_service(mesh, service, destination);
    }
    if let Some(workload) = mesh.workload_by_address(&from.network, ip) {
        return Target::Workload(Endpoint { workload: workload.clone(), address: destination });
    }
    match (mesh.discovered(ip), from.egress) {
        (false, _) => Target::Undiscovered(ip),
        (true, Egress::Allow) => Target::External(destination),
        (true, Egress::Deny) => Target::Refused(Refusal::EgressDenied(destination)),
    }
}

fn resolve_service(mesh: &Mesh, service: &Arc<Service>, destination: SocketAddr) -> Target {
    let number = destination.port();
    let Some(port) = service.port(number).copied() else {
        return Target::Refused(Refusal::NoSuchPort { service: service.name.clone(), port: number });
    };
    if service.load_balancing.passthrough {
        return Target::External(destination);
    }
    let endpoints: Vec<Endpoint> = mesh
        .endpoints(&service.name)
        .filter(|workload| service.load_balancing.unhealthy_allowed || workload.health == Health::Healthy)
        .filter_map(|workload| endpoint(workload, service, port, destination.ip()))
        .collect();
    if endpoints.is_empty() {
        return Target::Refused(Refusal::NoEndpoint { service: service.name.clone(), port: number });
    }
    Target::Service { service: service.clone(), port, endpoints }
}

fn endpoint(workload: &Arc<Workload>, service: &Service, port: Port, dialled: IpAddr) -> Option<Endpoint> {
    let target = workload.target_port(&service.name, port.number).or(port.target)?;
    let same_family = workload.addresses.iter().find(|address| address.is_ipv4() == dialled.is_ipv4());
    let address = *same_family.or_else(|| workload.addresses.first())?;
    Some(Endpoint { workload: workload.clone(), address: SocketAddr::new(address, target) })
}

#[cfg(test)]
mod tests;

//! A workload: one pod as the mesh knows it.

use crate::{identity::SpiffeId, policy::PolicyName, service::ServiceName};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// One pod (or other endpoint): where it is, who it is, how it is reached and what protects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Unique name: `<cluster>/<group>/<kind>/<namespace>/<name>`; for a pod the group is empty and the kind `Pod`.
    pub uid: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its addresses, at most one of each family for a pod.
    pub addresses: Vec<IpAddr>,
    /// The network that its addresses belong to; empty for the default network.
    pub network: Arc<str>,
    /// How a peer's bytes reach it.
    pub tunnel: Tunnel,
    /// Who its certificate must say it is.
    pub identity: SpiffeId,
    /// Name of the node that it runs on; empty when unknown.
    pub node: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Whether it may be given new connections.
    pub health: Health,
    /// Policies that select it by label, beside those of its namespace and of the mesh.
    pub policies: Vec<PolicyName>,
    /// The services that it backs, each with the ports as this workload serves them.
    pub services: BTreeMap<ServiceName, Vec<PortMapping>>,
    /// Weight among the endpoints of a service; at least 1.
    pub capacity: u32,
    /// Shares its node's address, so it is never looked up by address.
    pub host_network: bool,
    /// What becomes of its connections to addresses that the mesh does not know.
    pub egress: Egress,
    /// Name for telemetry: `app.kubernetes.io/name` or `app`, else the owner's name.
    pub canonical_name: Arc<str>,
    /// Name of the object that owns it (a Deployment, a Job), else its own.
    pub workload_name: Arc<str>,
    /// Name of its cluster.
    pub cluster: Arc<str>,
}

impl Workload {
    /// The port of this workload that stands behind `service_port` of `service`, if it says so itself.
    pub fn target_port(&self, service: &ServiceName, service_port: u16) -> Option<u16> {
        let ports = self.services.get(service)?;
        ports.iter().find(|port| port.service_port == service_port).map(|port| port.target_port)
    }
}

/// One port of a service as one workload serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// The port that clients dial at the service's address.
    pub service_port: u16,
    /// The port that the workload listens on.
    pub target_port: u16,
}

/// How bytes reach a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tunnel {
    /// Plain TCP: the workload is not meshed, or its mutual TLS is disabled.
    #[default]
    None,
    /// HTTP/2 CONNECT in mutual TLS, on port 15008.
    Hbone,
}

/// Whether a workload may be given new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Ready.
    #[default]
    Healthy,
    /// Not ready: chosen only by services that allow it.
    Unhealthy,
}

/// What becomes of a workload's connections to addresses that the mesh does not know. `MeshPolicy.spec.egress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Egress {
    /// They are passed through as they are.
    #[default]
    Allow,
    /// They are refused.
    Deny,
}

/// Where a workload runs, from the node's topology labels. Empty parts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

/// What is known beforehand about the bytes on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProtocolHint {
    /// Nothing: look at the bytes.
    #[default]
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, which is HTTP/2.
    Grpc,
    /// Bytes that nobody should look into.
    Tcp,
    /// TLS of the application's own.
    Tls,
}

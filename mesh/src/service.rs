//! A service: a name and virtual addresses in front of workloads.

use crate::{identity::SpiffeId, workload::ProtocolHint};
use ipnet::IpNet;
use std::{fmt, str::FromStr, sync::Arc};

/// A Kubernetes Service as the mesh knows it. Its endpoints name it, not the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `<namespace>/<hostname>`.
    pub name: ServiceName,
    /// The short name, as its manifest gives it.
    pub short_name: Arc<str>,
    /// Virtual addresses, in the default network unless said.
    pub addresses: Vec<VirtualAddress>,
    /// Ports, each number at most once.
    pub ports: Vec<Port>,
    /// Identities that its endpoints may have beside their own.
    pub identities: Vec<SpiffeId>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
}

impl Service {
    /// The port that clients dial under this number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }
}

/// `<namespace>/<hostname>`, such as `shop/web.shop.svc.cluster.local`: the resource name of a service in WDS.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace of the service.
    pub namespace: Arc<str>,
    /// Its full host name.
    pub hostname: Arc<str>,
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, ServiceNameError> {
        match text.split_once('/') {
            Some((namespace, hostname)) if !namespace.is_empty() && !hostname.is_empty() && !hostname.contains('/') => {
                Ok(Self { namespace: namespace.into(), hostname: hostname.into() })
            }
            _ => Err(ServiceNameError(text.chars().take(128).collect())),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no service name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service name {0:?}: expected <namespace>/<hostname>")]
pub struct ServiceNameError(String);

/// A virtual address of a service; a block when the service owns a whole range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The network that it belongs to; empty for the default network.
    pub network: Arc<str>,
    /// The address with its prefix length; 32 or 128 for a single one.
    pub block: IpNet,
}

/// One port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The port that clients dial.
    pub number: u16,
    /// The port of the endpoints; `None` when it has a name, and each endpoint says its own.
    pub target: Option<u16>,
    /// What the port's `appProtocol` or name says about its bytes.
    pub protocol: ProtocolHint,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadBalancing {
    /// The dialled address is used as it is: headless services and the like.
    pub passthrough: bool,
    /// Endpoints that are not ready are chosen, too (`publishNotReadyAddresses`).
    pub unhealthy_allowed: bool,
}

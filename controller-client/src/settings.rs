//! What the client needs to know: where the controller is, how to trust it, and who we are.

use std::{net::IpAddr, path::PathBuf, time::Duration};

/// Settings of the connections to the controller.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of the controller; an IPv6 address stands in brackets.
    pub address: String,
    /// The DNS name that the controller's certificate must have.
    pub server_name: String,
    /// PEM file with the roots that the controller's certificate must chain to; read again for each connection.
    pub root_cert_file: PathBuf,
    /// File with the bearer token (a JWT); read again for each connection, because it rotates.
    pub token_file: PathBuf,
    /// Who we are.
    pub node: Node,
    /// How much of the mesh is held.
    pub discovery: Discovery,
    /// How a dead connection is found.
    pub keepalive: Keepalive,
    /// Longest time to reach the controller: name, dial, TLS, and the first sign of the stream together.
    pub connect_timeout: Duration,
    /// Packet mark (`SO_MARK`) of our sockets, so that capture leaves them alone; needs CAP_NET_RAW or CAP_NET_ADMIN.
    pub socket_mark: Option<u32>,
}

impl Settings {
    /// Settings with the defaults: on-demand discovery, keepalive of 10 s and 20 s, 10 s to connect, no mark.
    pub fn new(address: &str, server_name: &str, root_cert_file: PathBuf, token_file: PathBuf, node: Node) -> Self {
        Self {
            address: address.to_owned(),
            server_name: server_name.to_owned(),
            root_cert_file,
            token_file,
            node,
            discovery: Discovery::OnDemand,
            keepalive: Keepalive::default(),
            connect_timeout: Duration::from_secs(10),
            socket_mark: None,
        }
    }
}

/// The pod that asks, as the token proves it. The controller refuses what differs from the token.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Name of the pod.
    pub pod_name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its addresses, the primary one first. They say which workload is our own.
    pub ips: Vec<IpAddr>,
    /// The node that it runs on; may be empty.
    pub node_name: String,
    /// Its cluster; `Kubernetes` by default in Istio.
    pub cluster_id: String,
    /// The network of its addresses; empty is the default network.
    pub network: String,
}

/// How much of the mesh is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discovery {
    /// What was asked for: memory does not grow with the mesh.
    #[default]
    OnDemand,
    /// All workloads and services.
    Wildcard,
}

/// HTTP/2 PINGs on the stream's connection (RFC 9113, section 6.7). A dead one is found after `interval` + `timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before a PING.
    pub interval: Duration,
    /// Longest wait for its answer.
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// 10 s and 20 s.
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), timeout: Duration::from_secs(20) }
    }
}

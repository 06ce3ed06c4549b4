//! What `heddle-init` and the proxy must agree on: ports, packet marks, the routing table and the probe's addresses.
//!
//! Both sides use these constants and nothing else of each other: init programs the kernel with them, the proxy opens
//! its sockets with them. How a TPROXY connection arrives, as a contract between the two:
//!
//! - The proxy's listeners on [`OUTBOUND_PORT`], [`INBOUND_PORT`] and, with DNS capture, [`DNS_PORT`] have
//!   `IP_TRANSPARENT` (IPv6: `IPV6_TRANSPARENT`) and `SO_MARK` [`OWN_MARK`]; accepted sockets inherit both.
//! - `getsockname()` on an accepted socket is the address that the client dialled (ip(7), `IP_TRANSPARENT`).
//! - The upstream socket towards the application is transparent too, has the mark, and is bound to the client's address
//!   and port 0 with `IP_BIND_ADDRESS_NO_PORT`.
//! - Every other socket of the proxy has the mark as well, or its traffic is captured again.
//!
//! How an eBPF connection arrives is in [`ebpf`].
//!
//! Invariant: no dependency, and no code but conversions; a value here never changes while a pod lives.
#![forbid(unsafe_code)]

pub mod ebpf;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Captured outbound TCP is delivered to this port of the proxy.
pub const OUTBOUND_PORT: u16 = 15001;
/// Captured inbound TCP that is not HBONE is delivered to this port of the proxy.
pub const INBOUND_PORT: u16 = 15006;
/// HBONE (HTTP/2 CONNECT in mutual TLS): dialled by peers, never captured.
pub const HBONE_PORT: u16 = 15008;
/// Captured DNS, over UDP and TCP, is delivered to this port of the proxy when init runs with `--dns`.
pub const DNS_PORT: u16 = 15053;
/// Readiness (`/healthz/ready`): dialled by the kubelet, never captured.
pub const READINESS_PORT: u16 = 15021;
/// Prometheus metrics (`/metrics`): dialled by the scraper, never captured.
pub const METRICS_PORT: u16 = 15020;
/// The proxy's administration, on loopback only.
pub const ADMIN_PORT: u16 = 15000;

/// Every port that the proxy listens on, ascending.
pub const PROXY_PORTS: [u16; 7] =
    [ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, HBONE_PORT, METRICS_PORT, READINESS_PORT, DNS_PORT];
/// Ports that only captured traffic may reach: who dials them from outside is refused.
pub const CAPTURE_PORTS: [u16; 3] = [OUTBOUND_PORT, INBOUND_PORT, DNS_PORT];
/// Ports that the proxy serves to the outside itself: inbound connections to them are not captured.
pub const SERVED_PORTS: [u16; 3] = [HBONE_PORT, METRICS_PORT, READINESS_PORT];

/// Packet mark "deliver locally": the policy rule sends such packets to [`ROUTING_TABLE`].
pub const CAPTURE_MARK: u32 = 0x539;
/// Packet mark of the proxy's own sockets (`SO_MARK`): never captured. Setting it needs `CAP_NET_RAW` or
/// `CAP_NET_ADMIN` (socket(7)), so an application without them cannot borrow the exemption.
pub const OWN_MARK: u32 = 0x53a;
/// Routing table whose only route delivers everything to this host, in both families.
pub const ROUTING_TABLE: u8 = 133;
/// Priority of the policy rule. Explicit, because adding a rule without one never meets the rule that is already there.
pub const RULE_PRIORITY: u32 = 133;

/// Where a connection goes that only proves capture, one address a family. TEST-NET-1 (RFC 5737) and the IPv6
/// documentation prefix (RFC 3849) belong to nobody, and port 9 is "discard": only a captured connection is answered.
pub const PROBE_ADDRESSES: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), PROBE_PORT),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), PROBE_PORT),
];
const PROBE_PORT: u16 = 9;

/// Name of the nftables table, in family `inet`. Nobody else's rules are in it, so undoing is deleting it.
pub const TABLE: &str = "heddle";

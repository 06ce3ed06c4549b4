//! The private socket options by which the proxy speaks with the eBPF programs on its pod's cgroup (setsockopt(2) and
//! getsockopt(2), level [`LEVEL`]), and their records. Mirrors `init/bpf/heddle.bpf.h`.
//!
//! The proxy needs no capability and no file of the kernel's for it: the programs answer whoever [`CLAIM`]ed, by its cgroup.
//! Without the programs the kernel says `ENOPROTOOPT`, to somebody else they say `EPERM` (reading: `ENOPROTOOPT`).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Level of all options here, a number that no protocol has.
pub const LEVEL: i32 = 0x4844;
/// Set, [`Key`]: this process's cgroup is the proxy's. The first claim is granted; later ones from the same cgroup, or with
/// the same key, which must not be zero.
pub const CLAIM: i32 = 1;
/// Set, `u32`, before listen(2): this is the listener for inbound connections.
pub const LISTENER: i32 = 2;
/// Set, `u32`: capture this socket of the proxy as if it were an application's.
pub const PROBE: i32 = 3;
/// Set, [`Endpoint`], before connect(2): on whose behalf this socket will connect to the application.
pub const CLIENT: i32 = 4;
/// Get, [`Endpoint`], once: where the client of this accepted connection meant to go.
pub const DESTINATION: i32 = 5;
/// Get, [`Counters`].
pub const COUNTERS: i32 = 6;
/// Get, `u32`, of a listener: 1 when inbound connections come to it.
pub const REGISTERED: i32 = 7;
/// Get, [`Flow`]: this plus an index below [`FLOWS_MAX`].
pub const FLOW: i32 = 256;
/// Destinations that are told apart.
pub const FLOWS_MAX: usize = 256;
/// Of the records and maps; programs of another version are not touched.
pub const VERSION: u32 = 1;

/// What only the proxy knows.
pub type Key = [u8; 32];

/// An address and port, in network order; IPv4 as ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: [u8; 16],
    /// The port.
    pub port: [u8; 2],
    /// Nothing.
    pub zero: [u8; 2],
}

/// What was counted since the programs were loaded.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Refusals, by [`Reason`].
    pub refused: [u64; 16],
    /// Records of [`Flow`] that are in use, or [`FLOWS_MAX`] and a little more.
    pub flows: u64,
    /// What belongs to flows that found no record.
    pub overflow: u64,
    /// 1 when a process of the pod has made an MPTCP socket.
    pub mptcp: u64,
}

/// One destination that applications of the pod reached past the proxy, or did not.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// The destination's address, as in [`Endpoint`].
    pub address: [u8; 16],
    /// Its port, in network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// [`Reason`].
    pub reason: u8,
    /// 1 when it was refused.
    pub refused: u32,
    /// Connections, or datagrams of an unconnected socket. 0: this record is not in use.
    pub count: u64,
}

/// Why something did not go through the proxy.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The proxy's own port, dialled or bound by somebody else.
    ProxyPort = 0,
    /// The socket is bound to a device, so that it cannot be handed to the proxy.
    Device = 1,
    /// UDP to port 443.
    Quic = 2,
    /// Other UDP.
    Udp = 3,
    /// A protocol that is neither TCP nor UDP nor ping.
    Protocol = 4,
    /// TCP that leaves the pod uncaptured: the rules of nftables are gone.
    NotCaptured = 5,
    /// Inbound, and the proxy does not listen.
    NoListener = 6,
    /// A private option, set by somebody who is not the proxy.
    Claim = 7,
    /// An excluded destination: it is not refused.
    Excluded = 8,
    /// A socket option that leads past the proxy: a source route, or a device for a socket that the proxy was handed.
    Option = 9,
}

impl Reason {
    /// All of them, by number.
    pub const ALL: [Self; 10] = [
        Self::ProxyPort,
        Self::Device,
        Self::Quic,
        Self::Udp,
        Self::Protocol,
        Self::NotCaptured,
        Self::NoListener,
        Self::Claim,
        Self::Excluded,
        Self::Option,
    ];

    /// As metrics and logs name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProxyPort => "proxy_port",
            Self::Device => "bound_to_device",
            Self::Quic => "quic",
            Self::Udp => "udp",
            Self::Protocol => "protocol",
            Self::NotCaptured => "not_captured",
            Self::NoListener => "no_listener",
            Self::Claim => "not_the_proxy",
            Self::Excluded => "excluded",
            Self::Option => "socket_option",
        }
    }
}

impl Endpoint {
    /// Its bytes in the kernel.
    pub const BYTES: usize = size_of::<Self>();

    /// As the kernel takes it.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16..18].copy_from_slice(&self.port);
        bytes
    }

    /// As the kernel gives it.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (mut address, mut port) = ([0; 16], [0; 2]);
        address.copy_from_slice(&bytes[..16]);
        port.copy_from_slice(&bytes[16..18]);
        Self { address, port, zero: [0; 2] }
    }
}

impl Counters {
    /// Its bytes in the kernel.
    pub const BYTES: usize = size_of::<Self>();

    /// As the kernel gives it.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let mut numbers = bytes.chunks_exact(8).map(number);
        let mut counters = Self::default();
        counters.refused.fill_with(|| numbers.next().unwrap_or_default());
        counters.flows = numbers.next().unwrap_or_default();
        counters.overflow = numbers.next().unwrap_or_default();
        counters.mptcp = numbers.next().unwrap_or_default();
        counters
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { address: ip.octets(), port: address.port().to_be_bytes(), zero: [0; 2] }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        let v6 = SocketAddrV6::new(Ipv6Addr::from(endpoint.address), u16::from_be_bytes(endpoint.port), 0, 0);
        Self::new(v6.ip().to_canonical(), v6.port())
    }
}

impl Flow {
    /// Its bytes in the kernel.
    pub const BYTES: usize = size_of::<Self>();

    /// As the kernel gives it.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (mut address, mut port, mut refused) = ([0; 16], [0; 2], [0; 4]);
        address.copy_from_slice(&bytes[..16]);
        port.copy_from_slice(&bytes[16..18]);
        refused.copy_from_slice(&bytes[20..24]);
        let (protocol, reason, refused) = (bytes[18], bytes[19], u32::from_ne_bytes(refused));
        Self { address, port, protocol, reason, refused, count: number(&bytes[24..]) }
    }

    /// Where it was to.
    pub fn destination(&self) -> SocketAddr {
        Endpoint { address: self.address, port: self.port, zero: [0; 2] }.into()
    }

    /// Why it did not go through the proxy; none of a newer version's.
    pub fn why(&self) -> Option<Reason> {
        Reason::ALL.get(usize::from(self.reason)).copied()
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

// The C side asserts the same numbers.
const _: () = assert!(size_of::<Endpoint>() == 20);
const _: () = assert!(size_of::<Counters>() == 152);
const _: () = assert!(size_of::<Flow>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_of_either_family() {
        for text in ["10.77.0.10:8080", "[fd77::10]:443"] {
            let address: SocketAddr = text.parse().expect("a test's address");
            assert_eq!(SocketAddr::from(Endpoint::from_bytes(Endpoint::from(address).to_bytes())), address);
        }
        let mapped = Endpoint::from("192.0.2.1:9".parse::<SocketAddr>().expect("a test's address"));
        assert_eq!(mapped.address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    }

    #[test]
    fn records_are_read_as_the_kernel_lays_them_out() {
        let mut bytes = [0; Counters::BYTES];
        bytes[8..16].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[136..144].copy_from_slice(&9_u64.to_ne_bytes());
        let counters = Counters::from_bytes(bytes);
        assert_eq!((counters.refused[Reason::Device as usize], counters.overflow), (7, 9));

        let mut bytes = [0; Flow::BYTES];
        bytes[..18].copy_from_slice(
            &Endpoint::from("192.0.2.1:443".parse::<SocketAddr>().expect("an address")).to_bytes()[..18],
        );
        (bytes[18], bytes[19]) = (17, Reason::Quic as u8);
        bytes[20..24].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[24..].copy_from_slice(&3_u64.to_ne_bytes());
        let flow = Flow::from_bytes(bytes);
        assert_eq!(flow.destination().to_string(), "192.0.2.1:443");
        assert_eq!((flow.protocol, flow.why(), flow.refused, flow.count), (17, Some(Reason::Quic), 1, 3));
    }

    #[test]
    fn reasons_are_found_by_their_number() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }
}

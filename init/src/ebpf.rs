//! Capture by eBPF, and the guard: which programs go where, and what is in their maps. Planned here, purely; carried out by
//! [`attach`], compared by [`readback`].
//!
//! The programs are in `bpf/heddle.bpf.c`. They are loaded with `CAP_BPF` and `CAP_NET_ADMIN`, and live on by their pins in a
//! bpffs: one file a map, program and link, in one folder a pod.

pub mod attach;
mod link;
mod maps;
mod object;
mod pins;
mod place;
pub mod readback;
pub mod sweep;
mod text;

use crate::{
    cgroup::Cgroup,
    config::{Config, Guard, Mode, Networks},
    kernel::Kernel,
};
use heddle_init_abi::{DNS_PORT, PROBE_ADDRESSES, SERVED_PORTS};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

/// All that is loaded and attached for one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Where.
    pub place: Place,
    /// Bits of `struct settings`.
    pub flags: u32,
    /// The pod's own addresses, IPv4 mapped and IPv6; unspecified where it has none.
    pub own: [Ipv6Addr; 2],
    /// What is attached, in this order: what sends connections to the proxy comes last.
    pub hooks: Vec<Hook>,
    /// Destinations that are not simply captured.
    pub out_networks: BTreeMap<Network, u32>,
    /// Clients that are not captured.
    pub in_networks: BTreeMap<Network, u32>,
    /// Destination ports that are not captured.
    pub out_ports: BTreeSet<u16>,
    /// Ports of this pod that are not captured.
    pub in_ports: BTreeSet<u16>,
    /// Indexes of the interfaces whose connections are not captured.
    pub in_interfaces: BTreeSet<u32>,
}

/// Where a pod's programs are attached and pinned, or why that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The pod's cgroup.
    pub cgroup: Result<Cgroup, String>,
    /// The folder of its pins.
    pub pins: Result<PathBuf, String>,
}

/// An address block of either family, as the maps hold it: IPv4 is mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    /// Its first address.
    pub address: Ipv6Addr,
    /// Bits of it that count, of 128.
    pub prefix_bits: u32,
}

/// Where one program is attached (linux/bpf.h, `enum bpf_attach_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum Hook {
    SkLookup,
    SockOps,
    Getsockopt,
    Setsockopt,
    Getpeername4,
    Getpeername6,
    Getsockname4,
    Getsockname6,
    Recvmsg4,
    Recvmsg6,
    Bind4,
    Bind6,
    SockCreate,
    Egress,
    Sendmsg4,
    Sendmsg6,
    Connect4,
    Connect6,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::SkLookup,
        Self::SockOps,
        Self::Getsockopt,
        Self::Setsockopt,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Getsockname4,
        Self::Getsockname6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Bind4,
        Self::Bind6,
        Self::SockCreate,
        Self::Egress,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// Its number in the kernel, and its name here: of the pins, and after `heddle_` of the program.
    pub fn attach_type_and_name(self) -> (u32, &'static str) {
        match self {
            Self::Egress => (1, "egress"),
            Self::SockCreate => (2, "sock_create"),
            Self::SockOps => (3, "sockops"),
            Self::Bind4 => (8, "bind4"),
            Self::Bind6 => (9, "bind6"),
            Self::Connect4 => (10, "connect4"),
            Self::Connect6 => (11, "connect6"),
            Self::Sendmsg4 => (14, "sendmsg4"),
            Self::Sendmsg6 => (15, "sendmsg6"),
            Self::Recvmsg4 => (19, "recvmsg4"),
            Self::Recvmsg6 => (20, "recvmsg6"),
            Self::Getsockopt => (21, "getsockopt"),
            Self::Setsockopt => (22, "setsockopt"),
            Self::Getpeername4 => (29, "getpeername4"),
            Self::Getpeername6 => (30, "getpeername6"),
            Self::Getsockname4 => (31, "getsockname4"),
            Self::Getsockname6 => (32, "getsockname6"),
            Self::SkLookup => (36, "sk_lookup"),
        }
    }

    /// Whether this configuration needs it.
    fn is_needed(self, config: &Config) -> bool {
        let (captures, guards) = (config.mode == Mode::Ebpf, config.guard != Guard::Off);
        match self {
            Self::SkLookup
            | Self::SockOps
            | Self::Getpeername4
            | Self::Getpeername6
            | Self::Getsockname4
            | Self::Getsockname6 => captures,
            Self::Recvmsg4 | Self::Recvmsg6 => captures && config.dns,
            Self::Egress => guards,
            Self::Getsockopt
            | Self::Setsockopt
            | Self::Bind4
            | Self::Bind6
            | Self::SockCreate
            | Self::Sendmsg4
            | Self::Sendmsg6
            | Self::Connect4
            | Self::Connect6 => captures || guards,
        }
    }
}

/// What this configuration loads; none when nftables does it all.
pub fn programs(config: &Config, kernel: &Kernel, place: Place) -> Option<Programs> {
    let hooks: Vec<_> = Hook::ALL.into_iter().filter(|hook| hook.is_needed(config)).collect();
    (!hooks.is_empty()).then(|| Programs {
        place,
        flags: flags(config),
        own: own(kernel),
        hooks,
        out_networks: out_networks(&config.outbound.networks, kernel),
        in_networks: networks(&config.inbound.networks).map(|network| (network, NETWORK_EXCLUDED)).collect(),
        out_ports: config.outbound.ports.clone(),
        in_ports: SERVED_PORTS.iter().chain(&config.inbound.ports).copied().collect(),
        in_interfaces: config.inbound.interfaces.iter().filter_map(|name| kernel.interface(name)).collect(),
    })
}

fn flags(config: &Config) -> u32 {
    let guard = match config.guard {
        Guard::Off => 0,
        Guard::On => GUARD,
        Guard::Strict => GUARD | GUARD_STRICT,
    };
    match config.mode {
        Mode::Ebpf if config.dns => CAPTURE | CAPTURE_DNS | guard,
        Mode::Ebpf => CAPTURE | guard,
        Mode::Tproxy => guard,
    }
}

/// Of several, the first that is not of a link only.
fn own(kernel: &Kernel) -> [Ipv6Addr; 2] {
    let global = |address: &&IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    [true, false].map(|is_ipv4| {
        let of_family = kernel.addresses.iter().filter(global).find(|address| address.is_ipv4() == is_ipv4);
        of_family.map_or(Ipv6Addr::UNSPECIFIED, |address| Network::host(*address).address)
    })
}

fn out_networks(excluded: &Networks, kernel: &Kernel) -> BTreeMap<Network, u32> {
    let excluded = networks(excluded).map(|network| (network, NETWORK_EXCLUDED));
    let direct = ALWAYS_DIRECT.iter().map(|text| text.parse().expect("a constant block"));
    let local =
        direct.chain(kernel.addresses.iter().copied().map(Network::host)).map(|network| (network, NETWORK_LOCAL));
    let probes = PROBE_ADDRESSES.iter().map(|probe| (Network::host(probe.ip()), NETWORK_ALWAYS));
    // Of one block the last word counts.
    excluded.chain(local).chain(probes).collect()
}

fn networks(networks: &Networks) -> impl Iterator<Item = Network> {
    let v4 = networks.v4.iter().map(|block| Network {
        address: block.network().to_ipv6_mapped(),
        prefix_bits: MAPPED_BITS + u32::from(block.prefix_len()),
    });
    let v6 = networks.v6.iter();
    v4.chain(v6.map(|block| Network { address: block.network(), prefix_bits: u32::from(block.prefix_len()) }))
}

impl Network {
    /// One address.
    fn host(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { address, prefix_bits: 128 }
    }
}

impl std::str::FromStr for Network {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse()? {
            ipnet::IpNet::V4(block) => Self {
                address: block.network().to_ipv6_mapped(),
                prefix_bits: MAPPED_BITS + u32::from(block.prefix_len()),
            },
            ipnet::IpNet::V6(block) => Self { address: block.network(), prefix_bits: u32::from(block.prefix_len()) },
        })
    }
}

/// What no engine captures: this host, its links, and many at once. An application may write 0.0.0.0 for itself (ip(7)).
const ALWAYS_DIRECT: [&str; 8] =
    ["127.0.0.0/8", "0.0.0.0/32", "224.0.0.0/4", "255.255.255.255/32", "::1/128", "::/128", "fe80::/10", "ff00::/8"];
/// Bits of ::ffff:0:0/96.
const MAPPED_BITS: u32 = 96;

// bpf/heddle.bpf.h
const CAPTURE: u32 = 1;
const CAPTURE_DNS: u32 = 2;
const GUARD: u32 = 4;
const GUARD_STRICT: u32 = 8;
const NETWORK_LOCAL: u32 = 1;
const NETWORK_EXCLUDED: u32 = 2;
const NETWORK_ALWAYS: u32 = 3;
const _: () = assert!(DNS_PORT == 15053, "bpf/heddle.bpf.h has the same ports");

//! What the plan must know of the kernel it is for, read from /proc, and by rtnetlink(7), neither of which needs rights.

use crate::{
    netlink::{addresses, message::NetlinkError},
    socket,
};
use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Facts about this network namespace.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Ports that connections get when they ask for none (ip(7), `ip_local_port_range`).
    pub local_ports: RangeInclusive<u16>,
    /// Ports in that range that are never given (`ip_local_reserved_ports`).
    pub reserved_ports: Vec<RangeInclusive<u16>>,
    /// Whether IPv6 can be routed.
    pub ipv6: Ipv6,
    /// The pod's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The indexes of interfaces that exist, among those that were asked for.
    pub interfaces: BTreeMap<String, u32>,
}

/// Whether IPv6 can be routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipv6 {
    /// It can.
    On,
    /// It cannot, and why.
    Off(String),
}

/// Why the facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file cannot be read.
    #[error("cannot read {path}; is /proc mounted?", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file holds something else than expected.
    #[error("{path} holds `{text}`, not port numbers", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
    /// The pod's addresses are not told.
    #[error(transparent)]
    Addresses(#[from] NetlinkError),
}

impl Kernel {
    /// Reads the facts of the network namespace that this thread is in, with the indexes of these interfaces.
    ///
    /// # Errors
    /// When /proc is not there or not as documented in proc(5), or the kernel does not tell its addresses.
    pub fn read<'a>(interfaces: impl IntoIterator<Item = &'a String>) -> Result<Self, KernelError> {
        let range_path = Path::new("/proc/sys/net/ipv4/ip_local_port_range");
        let range = read(range_path)?;
        let local_ports = parse_pair(range.split_whitespace())
            .ok_or_else(|| KernelError::Parse { path: range_path.to_owned(), text: range.trim().to_owned() })?;
        let reserved_path = Path::new("/proc/sys/net/ipv4/ip_local_reserved_ports");
        let reserved = read(reserved_path)?;
        let reserved_ports = parse_list(reserved.trim())
            .ok_or_else(|| KernelError::Parse { path: reserved_path.to_owned(), text: reserved.trim().to_owned() })?;
        let index = |name: &String| Some((name.clone(), socket::interface_index(name)?));
        let interfaces = interfaces.into_iter().filter_map(index).collect();
        Ok(Self { local_ports, reserved_ports, ipv6: Ipv6::read(), addresses: addresses::all()?, interfaces })
    }

    /// The index of an interface that was asked for, if it exists.
    pub fn interface(&self, name: &str) -> Option<u32> {
        self.interfaces.get(name).copied()
    }

    /// Whether the kernel may give this port to a connection that the pod opens.
    pub fn is_ephemeral(&self, port: u16) -> bool {
        self.local_ports.contains(&port) && !self.reserved_ports.iter().any(|range| range.contains(&port))
    }
}

impl Ipv6 {
    fn read() -> Self {
        match fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6") {
            Ok(text) if text.trim() == "0" => Self::On,
            Ok(_) => Self::Off("IPv6 is off on lo (net.ipv6.conf.lo.disable_ipv6 is 1)".to_owned()),
            Err(_) => Self::Off("this kernel has no IPv6".to_owned()),
        }
    }
}

fn read(path: &Path) -> Result<String, KernelError> {
    fs::read_to_string(path).map_err(|source| KernelError::Read { path: path.to_owned(), source })
}

/// `32768 60999`.
fn parse_pair<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<RangeInclusive<u16>> {
    let range = words.next()?.parse().ok()?..=words.next()?.parse().ok()?;
    words.next().is_none().then_some(range)
}

/// `8080,9000-9010`, or nothing.
fn parse_list(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let one = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter(|item| !item.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_single_or_ranges() {
        assert_eq!(parse_list(""), Some(vec![]));
        assert_eq!(parse_list("8080,9000-9010"), Some(vec![8080..=8080, 9000..=9010]));
        assert_eq!(parse_list("8080,x"), None);
    }

    #[test]
    fn a_reserved_port_is_not_ephemeral() {
        let (local_ports, reserved_ports, ipv6) = (1024..=65535, vec![15000..=15053], Ipv6::On);
        let kernel = Kernel { local_ports, reserved_ports, ipv6, addresses: vec![], interfaces: BTreeMap::new() };
        assert!(kernel.is_ephemeral(8080));
        assert!(!kernel.is_ephemeral(15001));
        assert!(!kernel.is_ephemeral(80));
    }
}

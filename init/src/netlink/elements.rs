//! Sets as the kernel stores them: key type, flags, elements. An interval is two elements, its first key and the first
//! key behind it.

use super::expression::interface_key;
use crate::plan::table::{Content, Family, REFUSED_MAX, REFUSED_TIMEOUT_MS};
use ipnet::IpNet;
use std::net::IpAddr;

/// How a set is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration {
    /// nft's number for the type of its keys; the kernel only keeps it.
    pub key_type: u32,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// `NFT_SET_*` flags.
    pub flags: u32,
    /// Most elements, where the set is bounded.
    pub elements_max: Option<u32>,
    /// Life of an element in milliseconds, where it ends.
    pub timeout_ms: Option<u64>,
}

/// One element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// Whether the interval before it ends here.
    pub ends_interval: bool,
}

/// How this set is declared.
pub fn declaration(content: &Content) -> Declaration {
    let plain =
        |key_type, key_bytes, flags| Declaration { key_type, key_bytes, flags, elements_max: None, timeout_ms: None };
    match content {
        Content::Ports(_) => plain(INET_SERVICE, 2, 0),
        Content::Networks4(_) => plain(IPV4_ADDR, 4, SET_INTERVAL),
        Content::Networks6(_) => plain(IPV6_ADDR, 16, SET_INTERVAL),
        Content::Interfaces(_) => plain(IFNAME, 16, 0),
        Content::Refused(family) => {
            let (address, bytes) = match family {
                Family::Ip4 => (IPV4_ADDR, 4),
                Family::Ip6 => (IPV6_ADDR, 16),
            };
            let key_type = address << TYPE_BITS | INET_SERVICE;
            Declaration {
                elements_max: Some(REFUSED_MAX),
                timeout_ms: Some(REFUSED_TIMEOUT_MS),
                // A port takes 4 bytes in a key of several fields.
                ..plain(key_type, bytes + 4, SET_TIMEOUT | SET_EVAL)
            }
        }
    }
}

/// What nft wants to know to print the set; the kernel only keeps it. Names of interfaces are in host order (attribute 0
/// of a set's userdata in libnftnl, byte order 1), everything else is big-endian.
pub fn note_for_nft(content: &Content) -> Option<Vec<u8>> {
    matches!(content, Content::Interfaces(_)).then(|| [&[0, 4], &1_u32.to_ne_bytes()[..]].concat())
}

/// The elements of this set, in the order in which they are sent.
pub fn elements(content: &Content) -> Vec<Element> {
    let single = |key| Element { key, ends_interval: false };
    match content {
        Content::Ports(ports) => ports.iter().map(|port| single(port.to_be_bytes().to_vec())).collect(),
        Content::Interfaces(names) => names.iter().map(|name| single(interface_key(name))).collect(),
        Content::Networks4(networks) => intervals(networks.iter().map(|network| IpNet::V4(*network))),
        Content::Networks6(networks) => intervals(networks.iter().map(|network| IpNet::V6(*network))),
        Content::Refused(_) => Vec::new(),
    }
}

/// Blocks that touch become one interval. The set begins with the end of the interval of what is not in it; the last
/// interval has no end when it reaches the highest address.
fn intervals(networks: impl Iterator<Item = IpNet>) -> Vec<Element> {
    let mut ranges: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
    let mut networks: Vec<_> = networks.collect();
    networks.sort_unstable();
    for network in networks {
        let (first, behind) = (octets(network.network()), behind(octets(network.broadcast())));
        match ranges.last_mut() {
            Some((_, end)) if end.as_ref() == Some(&first) => *end = behind,
            _ => ranges.push((first, behind)),
        }
    }
    let mut elements = Vec::new();
    if let Some((first, _)) = ranges.first().filter(|(first, _)| first.iter().any(|byte| *byte != 0)) {
        elements.push(Element { key: vec![0; first.len()], ends_interval: true });
    }
    for (first, behind) in ranges {
        elements.push(Element { key: first, ends_interval: false });
        elements.extend(behind.map(|key| Element { key, ends_interval: true }));
    }
    elements
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The next key, unless this is the highest.
fn behind(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(key);
        }
    }
    None
}

/// nft's numbers of data types (its datatype.h), and the bits that each takes in a key of several fields.
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_SERVICE: u32 = 13;
const IFNAME: u32 = 41;
const TYPE_BITS: u32 = 6;

/// Keys are intervals (linux/netfilter/nf_tables.h).
const SET_INTERVAL: u32 = 0x4;
/// Elements end by themselves.
const SET_TIMEOUT: u32 = 0x10;
/// Rules add elements.
const SET_EVAL: u32 = 0x20;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(networks: &[&str], expected: &str) {
        let networks = networks.iter().map(|network| network.parse().expect("a test's network"));
        let shown: Vec<_> = intervals(networks)
            .iter()
            .map(|element| {
                let key: Vec<_> = element.key.iter().map(u8::to_string).collect();
                format!("{}{}", if element.ends_interval { "<" } else { ">" }, key.join("."))
            })
            .collect();
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn an_interval_ends_behind_its_last_address() {
        check(&["127.0.0.0/8"], "<0.0.0.0 >127.0.0.0 <128.0.0.0");
    }

    #[test]
    fn blocks_that_touch_are_one_interval() {
        check(&["10.0.2.0/24", "10.0.1.0/24"], "<0.0.0.0 >10.0.1.0 <10.0.3.0");
    }

    #[test]
    fn the_highest_interval_has_no_end_and_the_lowest_needs_no_end_before_it() {
        check(&["240.0.0.0/4"], "<0.0.0.0 >240.0.0.0");
        check(&["0.0.0.0/0"], ">0.0.0.0");
    }
}

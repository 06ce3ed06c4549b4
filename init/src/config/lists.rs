//! The lists among the options: ports, address blocks and interfaces. Each function adds what is wrong to `mistakes`.

use super::Networks;
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};

/// Ports, 1 to 65535.
pub(super) fn ports(option: &str, items: &[String], mistakes: &mut Vec<String>) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for item in written(items) {
        match item.parse() {
            Ok(0) | Err(_) => {
                mistakes.push(format!(
                    "{option}: `{item}` is not a port; write numbers from 1 to 65535, with commas between"
                ));
            }
            Ok(port) => {
                ports.insert(port);
            }
        }
    }
    ports
}

/// Addresses and CIDR blocks.
pub(super) fn networks(option: &str, items: &[String], mistakes: &mut Vec<String>) -> Networks {
    let mut networks = Networks::default();
    for item in written(items) {
        match network(item) {
            Ok(IpNet::V4(network)) => networks.v4.push(network),
            Ok(IpNet::V6(network)) => networks.v6.push(network),
            Err(mistake) => mistakes.push(format!("{option}: {mistake}")),
        }
    }
    networks
}

/// Names of interfaces; they need not exist yet.
pub(super) fn interfaces(option: &str, items: &[String], mistakes: &mut Vec<String>) -> BTreeSet<String> {
    let mut interfaces = BTreeSet::new();
    for item in written(items) {
        if item == "lo" {
            mistakes.push(format!("{option}: a pod's traffic to itself is never captured; leave out `lo`"));
        } else if !is_interface_name(item) {
            mistakes.push(format!(
                "{option}: `{item}` is not the name of an interface: 1 to {INTERFACE_BYTES_MAX} bytes without spaces, `/`, \
                 `:`, `*` and quotes; write every name in full"
            ));
        } else {
            interfaces.insert(item.to_owned());
        }
    }
    interfaces
}

/// The items without the spaces around them; an empty option is an empty list.
fn written(items: &[String]) -> impl Iterator<Item = &str> {
    items.iter().map(|item| item.trim()).filter(|item| !item.is_empty())
}

fn network(item: &str) -> Result<IpNet, String> {
    let network: IpNet = match (item.parse::<IpNet>(), item.parse::<IpAddr>()) {
        (Ok(network), _) => network,
        (_, Ok(address)) => address.into(),
        _ => return Err(format!("`{item}` is not an address block; write it like 10.0.0.0/8 or 2001:db8::/32")),
    };
    if network.trunc() != network {
        return Err(format!("`{item}` has bits set behind its prefix; write {}", network.trunc()));
    }
    match network {
        IpNet::V6(network) if network.prefix_len() >= 96 && network.addr().to_ipv4_mapped().is_some() => {
            Err(format!("`{item}` never appears in a packet; write the IPv4 block itself"))
        }
        _ => Ok(network),
    }
}

/// As the kernel's `dev_valid_name()`; `*` is what nft takes for a wildcard, which these sets are not, and a quote would
/// end the name in its language.
fn is_interface_name(name: &str) -> bool {
    let bad = |letter: char| letter.is_whitespace() || letter.is_control() || matches!(letter, '/' | ':' | '*' | '"');
    name.len() <= INTERFACE_BYTES_MAX && name != "." && name != ".." && !name.contains(bad)
}

/// `IFNAMSIZ` without the terminating zero (linux/if.h).
const INTERFACE_BYTES_MAX: usize = 15;

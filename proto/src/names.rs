//! How resources are named on the wire, and by which other names they can be asked for.
//!
//! A workload's primary name is its `uid`, a service's `<namespace>/<hostname>`, a policy's `<namespace>/<name>`. Workloads
//! and services can also be asked for by `<network>/<ip>`; the default network is empty, so such a name starts with `/`.

use heddle_mesh::{service::Service, workload::Workload};
use std::net::IpAddr;

/// Type URL of [`Address`](crate::wire::istio::workload::Address): workloads and services.
pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";

/// Type URL of [`Authorization`](crate::wire::istio::security::Authorization): policies.
pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";

/// Type URL of [`WorkloadExtension`](crate::wire::heddle::v1::WorkloadExtension).
pub const WORKLOAD_EXTENSION_TYPE: &str = "type.googleapis.com/heddle.v1.WorkloadExtension";

/// Subscribes to everything.
pub const WILDCARD: &str = "*";

/// `<network>/<ip>`: the name by which an address is asked for. An IPv4-mapped IPv6 address is written as IPv4.
pub fn address_name(network: &str, address: IpAddr) -> String {
    format!("{network}/{}", address.to_canonical())
}

/// Splits `<network>/<ip>`; `None` for every other name, primary names included.
pub fn parse_address_name(name: &str) -> Option<(&str, IpAddr)> {
    let (network, address) = name.split_once('/')?;
    Some((network, address.parse::<IpAddr>().ok()?.to_canonical()))
}

/// The names that `workload` can be asked for by, beside its `uid`: none when it shares its node's address.
pub fn workload_aliases(workload: &Workload) -> Vec<String> {
    let addresses = workload.addresses.iter().filter(|_| !workload.host_network);
    addresses.map(|address| address_name(&workload.network, *address)).collect()
}

/// The names that `service` can be asked for by, beside `<namespace>/<hostname>`; `<network>/<ip>/<length>` for blocks.
pub fn service_aliases(service: &Service) -> Vec<String> {
    let alias = |network: &str, block: &ipnet::IpNet| match block.prefix_len() == block.max_prefix_len() {
        true => address_name(network, block.addr()),
        false => format!("{network}/{block}"),
    };
    service.addresses.iter().map(|address| alias(&address.network, &address.block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_name_each() {
        let name = |text: &str| address_name("", text.parse().expect("an address"));
        assert_eq!(name("10.0.0.7"), "/10.0.0.7");
        assert_eq!(name("::ffff:10.0.0.7"), "/10.0.0.7");
        assert_eq!(name("2001:DB8:0:0::1"), "/2001:db8::1");
        assert_eq!(parse_address_name("/10.0.0.7"), Some(("", "10.0.0.7".parse().expect("an address"))));
        assert_eq!(parse_address_name("east/2001:db8::1"), Some(("east", "2001:db8::1".parse().expect("an address"))));
    }

    #[test]
    fn primary_names_are_not_taken_for_addresses() {
        for name in ["", "/", "*", "Kubernetes//Pod/shop/web", "shop/web.shop.svc.cluster.local", "/10.0.0.0/24"] {
            assert_eq!(parse_address_name(name), None, "{name}");
        }
    }
}

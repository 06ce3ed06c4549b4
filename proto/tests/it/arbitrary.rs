//! Arbitrary mesh values: everything that a controller may have to say.

use heddle_mesh::{
    identity::SpiffeId,
    policy::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch},
    service::{LoadBalancing, Port, Service, ServiceName, VirtualAddress},
    workload::{Egress, Health, Locality, PortMapping, ProtocolHint, Tunnel, Workload},
};
use ipnet::IpNet;
use proptest::{
    bool,
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use std::{net::IpAddr, sync::Arc};

/// Any workload that has one form only on the wire.
pub(crate) fn workload() -> impl Strategy<Value = Workload> {
    let place = (vec(address(), 0..3), text(), text(), (text(), text(), text()));
    let who = ("[a-z/]{1,20}", text(), segment(), segment(), trust_domain());
    let state = (bool::ANY, bool::ANY, bool::ANY, bool::ANY, 1..1000u32);
    let members = (vec(policy_name(), 0..4), btree_map(service_name(), vec(port_mapping(), 0..4), 0..4));
    (place, who, state, members, (text(), text(), text())).prop_map(|(place, who, state, members, names)| Workload {
        uid: who.0.into(),
        name: who.1,
        namespace: who.2.clone(),
        addresses: place.0,
        network: place.1,
        tunnel: if state.0 { Tunnel::Hbone } else { Tunnel::None },
        identity: SpiffeId::new(who.4.parse().unwrap(), &who.2, &who.3).unwrap(),
        node: place.2,
        locality: Locality { region: place.3.0, zone: place.3.1, subzone: place.3.2 },
        health: if state.1 { Health::Healthy } else { Health::Unhealthy },
        policies: members.0,
        services: members.1,
        capacity: state.4,
        host_network: state.2,
        egress: if state.3 { Egress::Allow } else { Egress::Deny },
        canonical_name: names.0,
        workload_name: names.1,
        cluster: names.2,
    })
}

/// Any service that has one form only on the wire.
pub(crate) fn service() -> impl Strategy<Value = Service> {
    let address = (text(), block()).prop_map(|(network, block)| VirtualAddress { network, block });
    let identity = (trust_domain(), segment(), segment())
        .prop_map(|(domain, namespace, account)| SpiffeId::new(domain.parse().unwrap(), &namespace, &account).unwrap());
    let ports = btree_map(1..=u16::MAX, (option::of(1..=u16::MAX), protocol()), 0..5).prop_map(|ports| {
        let port = |(number, (target, protocol))| Port { number, target, protocol };
        ports.into_iter().map(port).collect::<Vec<_>>()
    });
    let load_balancing = (bool::ANY, bool::ANY)
        .prop_map(|(passthrough, unhealthy_allowed)| LoadBalancing { passthrough, unhealthy_allowed });
    (service_name(), text(), vec(address, 0..4), ports, vec(identity, 0..3), load_balancing).prop_map(
        |(name, short_name, addresses, ports, identities, load_balancing)| Service {
            name,
            short_name,
            addresses,
            ports,
            identities,
            load_balancing,
        },
    )
}

/// Any policy that has one form only on the wire.
pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let scope = prop_oneof![Just(Scope::Global), Just(Scope::Namespace), Just(Scope::WorkloadSelector)];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    let clause = vec(one_match(), 0..3).prop_map(|matches| Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    (policy_name(), scope, action, vec(rule, 0..3), bool::ANY)
        .prop_map(|(name, scope, action, rules, dry_run)| Policy { name, scope, action, rules, dry_run })
}

fn one_match() -> impl Strategy<Value = Match> {
    let strings = || vec(string_match(), 0..3);
    let accounts = || vec((text(), text()).prop_map(|(namespace, name)| ServiceAccountMatch { namespace, name }), 0..3);
    let blocks = || vec(block(), 0..3);
    let ports = || vec(1..=u16::MAX, 0..3);
    let texts = (strings(), strings(), strings(), strings(), accounts(), accounts());
    (texts, (blocks(), blocks(), blocks(), blocks()), (ports(), ports())).prop_map(|(texts, blocks, ports)| Match {
        namespaces: texts.0,
        not_namespaces: texts.1,
        principals: texts.2,
        not_principals: texts.3,
        service_accounts: texts.4,
        not_service_accounts: texts.5,
        source_blocks: blocks.0,
        not_source_blocks: blocks.1,
        destination_blocks: blocks.2,
        not_destination_blocks: blocks.3,
        destination_ports: ports.0,
        not_destination_ports: ports.1,
    })
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
}

fn protocol() -> impl Strategy<Value = ProtocolHint> {
    use ProtocolHint::{Grpc, Http1, Http2, Tcp, Tls, Unknown};
    proptest::sample::select(vec![Unknown, Http1, Http2, Grpc, Tcp, Tls])
}

fn port_mapping() -> impl Strategy<Value = PortMapping> {
    (1..=u16::MAX, 1..=u16::MAX).prop_map(|(service_port, target_port)| PortMapping { service_port, target_port })
}

/// Canonical: an IPv4-mapped address is IPv4.
fn address() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(|address| address.to_canonical())
}

fn block() -> impl Strategy<Value = IpNet> {
    (address(), 0..=128u8).prop_map(|(address, length)| {
        let length_max = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(length_max)).unwrap().trunc()
    })
}

fn policy_name() -> impl Strategy<Value = PolicyName> {
    (segment(), segment()).prop_map(|(namespace, name)| PolicyName { namespace, name })
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (segment(), segment()).prop_map(|(namespace, hostname)| ServiceName { namespace, hostname })
}

fn trust_domain() -> impl Strategy<Value = String> {
    "[a-z0-9._-]{1,12}"
}

fn segment() -> impl Strategy<Value = Arc<str>> {
    "[a-zA-Z0-9_-]{1,12}".prop_map(Into::into)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    ".{0,8}".prop_map(Into::into)
}

//! What is malformed is refused with the field's path; what is merely unknown gets its documented meaning.

use heddle_mesh::{
    policy::{Action, Rule, Scope},
    workload::{Egress, Health, ProtocolHint, Tunnel},
};
use heddle_proto::{
    convert::{decode_policy, decode_service, decode_workload, pack, stand_in},
    names::WORKLOAD_EXTENSION_TYPE,
    wire::{
        heddle::v1::WorkloadExtension,
        istio::{
            security::{self, Authorization, Clause, Match, StringMatch},
            workload::{Extension, LoadBalancing, NetworkAddress, Port, PortList, Service, Workload},
        },
    },
};

/// `check(message, "field: problem")` for a workload that is sound but for what `damage` does.
fn refused_workload(damage: impl FnOnce(&mut Workload), expected: &str) {
    let mut message = sound_workload();
    damage(&mut message);
    let error = decode_workload(&message).unwrap_err();
    assert_eq!(format!("{}: {}", error.field, error.problem), expected);
}

fn refused_service(damage: impl FnOnce(&mut Service), expected: &str) {
    let mut message = sound_service();
    damage(&mut message);
    let error = decode_service(&message).unwrap_err();
    assert_eq!(format!("{}: {}", error.field, error.problem), expected);
}

fn refused_policy(damage: impl FnOnce(&mut Authorization), expected: &str) {
    let mut message = sound_policy();
    damage(&mut message);
    let error = decode_policy(&message).unwrap_err();
    assert_eq!(format!("{}: {}", error.field, error.problem), expected);
}

#[test]
fn a_malformed_workload_names_its_field() {
    refused_workload(|w| w.uid.clear(), "uid: empty, expected a name unique in the mesh");
    refused_workload(|w| w.addresses.push(vec![1, 2, 3]), "addresses[1]: 3 bytes, expected 4 (IPv4) or 16 (IPv6)");
    refused_workload(
        |w| w.authorization_policies.push("nameless".to_owned()),
        "authorization_policies[0]: policy name \"nameless\": expected <namespace>/<name>",
    );
    refused_workload(
        |w| drop(w.services.insert("web".to_owned(), PortList::default())),
        "services: service name \"web\": expected <namespace>/<hostname>",
    );
    let ports =
        |service_port, target_port| PortList { ports: vec![Port { service_port, target_port, app_protocol: 0 }] };
    refused_workload(
        |w| drop(w.services.insert("shop/web".to_owned(), ports(0, 80))),
        "services[shop/web].ports[0].service_port: port 0, expected 1 to 65535",
    );
    refused_workload(
        |w| drop(w.services.insert("shop/web".to_owned(), ports(80, 65536))),
        "services[shop/web].ports[0].target_port: port 65536, expected 1 to 65535",
    );
    refused_workload(
        |w| w.trust_domain = "Td".to_owned(),
        "trust_domain: trust domain \"Td\": 1 to 255 of the characters a-z, 0-9, '.', '-' and '_' are allowed",
    );
    let error = decode_workload(&Workload { namespace: "a/b".to_owned(), ..sound_workload() }).unwrap_err();
    assert_eq!((error.resource.as_str(), error.field.as_str()), ("u", "namespace, service_account"));
    refused_workload(
        |w| w.extensions = vec![extension(WORKLOAD_EXTENSION_TYPE, vec![0xff])],
        &format!(
            "extensions[0].config: not a message of {WORKLOAD_EXTENSION_TYPE}: {}",
            prost::Message::decode(&[0xff][..]).map(|(): ()| ()).unwrap_err()
        ),
    );
}

#[test]
fn what_a_workload_does_not_say_has_a_documented_meaning() {
    let workload =
        decode_workload(&Workload { uid: "u".to_owned(), namespace: "shop".to_owned(), ..Workload::default() });
    let workload = workload.unwrap();
    assert_eq!(workload.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/default");
    assert_eq!((workload.capacity, workload.tunnel, workload.health), (1, Tunnel::None, Health::Healthy));
    assert_eq!((workload.egress, workload.host_network), (Egress::Allow, false));

    let odd = Workload {
        tunnel_protocol: 2,
        status: 99,
        capacity: Some(0),
        addresses: vec!["::ffff:10.0.0.7".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()],
        services: [("shop/web".to_owned(), PortList { ports: vec![Port { service_port: 80, ..Port::default() }] })]
            .into(),
        extensions: vec![
            extension("type.googleapis.com/somebody.Else", vec![0xff]),
            Extension { name: "empty".to_owned(), config: None },
            Extension {
                name: "ours".to_owned(),
                config: Some(pack(WORKLOAD_EXTENSION_TYPE, &WorkloadExtension { egress: 77 })),
            },
        ],
        ..sound_workload()
    };
    let odd = decode_workload(&odd).unwrap();
    assert_eq!((odd.tunnel, odd.health, odd.capacity), (Tunnel::None, Health::Unhealthy, 1));
    assert_eq!(odd.addresses, ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(odd.services.values().map(Vec::len).collect::<Vec<_>>(), [0], "a mapping to port 0 says nothing");
    assert_eq!(odd.egress, Egress::Deny, "an egress rule that we do not know denies");
}

#[test]
fn a_malformed_service_names_its_field() {
    refused_service(
        |s| s.hostname.clear(),
        "namespace, hostname: service name \"shop/\": expected <namespace>/<hostname>",
    );
    refused_service(
        |s| s.hostname = "a/b".to_owned(),
        "namespace, hostname: service name \"shop/a/b\": expected <namespace>/<hostname>",
    );
    refused_service(|s| s.addresses[0].address = vec![0; 5], "addresses[0]: 5 bytes, expected 4 (IPv4) or 16 (IPv6)");
    refused_service(
        |s| s.addresses[0].length = Some(33),
        "addresses[0]: prefix length 33 does not fit the address 10.1.0.1",
    );
    refused_service(|s| s.ports[0].service_port = 0, "ports[0].service_port: port 0, expected 1 to 65535");
    refused_service(|s| s.ports[0].target_port = 70000, "ports[0].target_port: port 70000, expected 1 to 65535");
}

#[test]
fn what_a_service_says_beyond_us_is_passed_over() {
    let mapped = "::ffff:10.2.0.0".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    let service = decode_service(&Service {
        subject_alt_names: vec!["web.example.com".to_owned(), "spiffe://td/ns/a/sa/b".to_owned()],
        ports: vec![
            Port { service_port: 53, target_port: 0, app_protocol: 42 },
            Port { service_port: 53, target_port: 5353, app_protocol: 4 },
        ],
        addresses: vec![
            NetworkAddress { network: String::new(), address: vec![10, 1, 2, 3], length: Some(16) },
            NetworkAddress { network: String::new(), address: mapped, length: Some(112) },
        ],
        load_balancing: Some(LoadBalancing { routing_preference: vec![77], mode: 77, health_policy: 77 }),
        ..sound_service()
    });
    let service = service.unwrap();
    assert_eq!(service.identities.len(), 1);
    assert_eq!(service.ports.len(), 1, "the first of two ports with one number counts");
    assert_eq!((service.ports[0].target, service.ports[0].protocol), (None, ProtocolHint::Unknown));
    let blocks: Vec<String> = service.addresses.iter().map(|address| address.block.to_string()).collect();
    assert_eq!(blocks, ["10.1.0.0/16", "10.2.0.0/16"]);
    assert!(!service.load_balancing.passthrough && !service.load_balancing.unhealthy_allowed);
}

#[test]
fn a_policy_that_is_not_understood_is_refused() {
    let one_match = |one: Match| vec![security::Rule { clauses: vec![Clause { matches: vec![one] }] }];
    refused_policy(|p| p.name.clear(), "namespace, name: policy name \"shop/\": expected <namespace>/<name>");
    refused_policy(|p| p.scope = 9, "scope: 9 is no scope that this proxy knows");
    refused_policy(|p| p.action = 9, "action: 9 is no action that this proxy knows");
    refused_policy(
        |p| {
            p.rules = one_match(Match {
                extensions: vec![Extension { name: "path".to_owned(), config: None }],
                ..Match::default()
            })
        },
        "rules[0].clauses[0].matches[0].extensions[0]: \"path\" is no condition that this proxy knows; \
         update the proxy or remove the condition",
    );
    refused_policy(
        |p| p.rules = one_match(Match { not_principals: vec![StringMatch { match_type: None }], ..Match::default() }),
        "rules[0].clauses[0].matches[0].not_principals[0]: no comparison that this proxy knows; \
         expected exact, prefix, suffix or presence",
    );
    refused_policy(
        |p| {
            let address = security::Address { address: vec![10, 0, 0, 0], length: 33 };
            p.rules = one_match(Match { source_ips: vec![address], ..Match::default() });
        },
        "rules[0].clauses[0].matches[0].source_ips[0]: prefix length 33 does not fit the address 10.0.0.0",
    );
    refused_policy(
        |p| p.rules = one_match(Match { destination_ports: vec![80, 65536], ..Match::default() }),
        "rules[0].clauses[0].matches[0].destination_ports[1]: port 65536, expected 1 to 65535",
    );
}

#[test]
fn the_stand_in_of_a_refused_policy_lets_nothing_through_that_it_would_not() {
    let of = |damage: &dyn Fn(&mut Authorization)| {
        let mut message = sound_policy();
        damage(&mut message);
        stand_in(&message)
    };
    let allow = of(&|_| ()).unwrap();
    assert_eq!((allow.action, allow.rules.len(), allow.scope), (Action::Allow, 0, Scope::Namespace));
    let deny = of(&|p| p.action = 1).unwrap();
    assert_eq!((deny.action, deny.rules), (Action::Deny, vec![Rule::default()]));
    assert_eq!(of(&|p| p.action = 9).unwrap().action, Action::Deny);
    assert_eq!(of(&|p| p.dry_run = true), None);
    assert_eq!(of(&|p| p.scope = 9), None);
}

#[test]
fn a_hostile_name_cannot_fill_the_log() {
    let error = decode_policy(&Authorization { name: "x".repeat(1 << 20), ..Authorization::default() }).unwrap_err();
    assert!(error.to_string().len() < 1024, "{} bytes", error.to_string().len());
}

fn extension(type_url: &str, value: Vec<u8>) -> Extension {
    Extension { name: "x".to_owned(), config: Some(prost_types::Any { type_url: type_url.to_owned(), value }) }
}

fn sound_workload() -> Workload {
    Workload {
        uid: "u".to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![vec![10, 0, 0, 1]],
        ..Workload::default()
    }
}

fn sound_service() -> Service {
    Service {
        namespace: "shop".to_owned(),
        hostname: "web.shop.svc.cluster.local".to_owned(),
        addresses: vec![NetworkAddress { network: String::new(), address: vec![10, 1, 0, 1], length: None }],
        ports: vec![Port { service_port: 80, target_port: 8080, app_protocol: 1 }],
        ..Service::default()
    }
}

fn sound_policy() -> Authorization {
    Authorization { namespace: "shop".to_owned(), name: "web".to_owned(), scope: 1, ..Authorization::default() }
}

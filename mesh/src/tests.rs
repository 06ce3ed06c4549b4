//! The mesh keeps its lookups in step with its objects, whatever order they come and go in.

use crate::{
    ABSENT_MAX, Coverage, Mesh,
    identity::{SpiffeId, TrustDomain},
    policy::{Action, Policy, Scope},
    service::{LoadBalancing, Service, ServiceName, VirtualAddress},
    workload::{Egress, Health, Locality, Tunnel, Workload},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// A pod of namespace `shop` that backs nothing, with its name as its uid.
pub(crate) fn pod(name: &str, addresses: &[&str]) -> Workload {
    Workload {
        uid: name.into(),
        name: name.into(),
        namespace: "shop".into(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        network: "".into(),
        tunnel: Tunnel::Hbone,
        identity: SpiffeId::new(TrustDomain::default(), "shop", name).expect("a sound name"),
        node: "node-1".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        policies: Vec::new(),
        services: BTreeMap::new(),
        capacity: 1,
        host_network: false,
        egress: Egress::Allow,
        canonical_name: name.into(),
        workload_name: name.into(),
        cluster: "Kubernetes".into(),
    }
}

/// A service of namespace `shop` without ports; each block in the default network.
pub(crate) fn service(name: &str, blocks: &[&str]) -> Service {
    let address = |block: &&str| VirtualAddress { network: "".into(), block: block.parse().expect("a block") };
    Service {
        name: service_name(name),
        short_name: name.into(),
        addresses: blocks.iter().map(address).collect(),
        ports: Vec::new(),
        identities: Vec::new(),
        load_balancing: LoadBalancing::default(),
    }
}

/// `shop/<name>.shop.svc.cluster.local`.
pub(crate) fn service_name(name: &str) -> ServiceName {
    format!("shop/{name}.shop.svc.cluster.local").parse().expect("a service name")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn default_network() -> Arc<str> {
    "".into()
}

fn found(mesh: &Mesh, address: &str) -> Option<String> {
    mesh.workload_by_address(&default_network(), ip(address)).map(|workload| workload.name.to_string())
}

fn found_service(mesh: &Mesh, address: &str) -> Option<String> {
    mesh.service_by_address(&default_network(), ip(address)).map(|service| service.short_name.to_string())
}

fn endpoints(mesh: &Mesh, service: &str) -> Vec<String> {
    mesh.endpoints(&service_name(service)).map(|workload| workload.name.to_string()).collect()
}

#[test]
fn a_workload_is_found_by_each_of_its_addresses_and_no_other() {
    let mut mesh = Mesh::default();
    mesh.insert_workload(pod("web", &["10.0.0.1", "2001:db8::1"]).into());
    assert_eq!(found(&mesh, "10.0.0.1").as_deref(), Some("web"));
    assert_eq!(found(&mesh, "2001:db8::1").as_deref(), Some("web"));
    assert_eq!(found(&mesh, "10.0.0.2"), None);
    assert!(mesh.workload_by_address(&"east".into(), ip("10.0.0.1")).is_none(), "another network");

    mesh.insert_workload(pod("web", &["10.0.0.2"]).into());
    assert_eq!((found(&mesh, "10.0.0.1"), found(&mesh, "10.0.0.2").as_deref()), (None, Some("web")));
}

#[test]
fn a_reused_address_belongs_to_the_newcomer() {
    let mut mesh = Mesh::default();
    mesh.insert_workload(pod("old", &["10.0.0.1"]).into());
    mesh.insert_workload(pod("new", &["10.0.0.1"]).into());
    assert!(mesh.remove_workload("old"));
    assert_eq!(found(&mesh, "10.0.0.1").as_deref(), Some("new"), "the late removal of the old one changes nothing");
    assert!(!mesh.remove_workload("old"));
}

#[test]
fn a_workload_on_its_nodes_network_is_not_found_by_address() {
    let mut mesh = Mesh::default();
    mesh.insert_workload(Workload { host_network: true, ..pod("agent", &["10.0.0.1"]) }.into());
    assert_eq!(found(&mesh, "10.0.0.1"), None);
    assert!(mesh.workload("agent").is_some());
}

#[test]
fn workloads_and_services_may_come_in_any_order() {
    let mut mesh = Mesh::default();
    let backing = |name| Workload { services: [(service_name("db"), Vec::new())].into(), ..pod(name, &[]) };
    mesh.insert_workload(backing("db-2").into());
    assert_eq!(endpoints(&mesh, "db"), ["db-2"], "known before the service is");
    mesh.insert_service(service("db", &["10.96.0.1/32"]).into());
    mesh.insert_workload(backing("db-1").into());
    assert_eq!(endpoints(&mesh, "db"), ["db-1", "db-2"], "in the order of their names");
    mesh.remove_service(&service_name("db"));
    mesh.insert_workload(pod("db-1", &[]).into());
    assert_eq!(endpoints(&mesh, "db"), ["db-2"], "db-1 backs it no longer");
    mesh.remove_workload("db-2");
    assert!(endpoints(&mesh, "db").is_empty());
}

#[test]
fn the_longest_block_wins_and_a_single_address_before_all() {
    let mut mesh = Mesh::default();
    for (name, block) in [("all", "10.0.0.0/8"), ("some", "10.1.0.0/16"), ("one", "10.1.0.1/32"), ("six", "fd00::/8")] {
        mesh.insert_service(service(name, &[block]).into());
    }
    let cases = [("10.1.0.1", "one"), ("10.1.0.2", "some"), ("10.2.0.1", "all"), ("fd00::1", "six")];
    for (address, expected) in cases {
        assert_eq!(found_service(&mesh, address).as_deref(), Some(expected), "{address}");
    }
    assert_eq!(found_service(&mesh, "11.0.0.1"), None);
    mesh.remove_service(&service_name("one"));
    assert_eq!(found_service(&mesh, "10.1.0.1").as_deref(), Some("some"));
    mesh.insert_service(service("some", &[]).into());
    assert_eq!(found_service(&mesh, "10.1.0.1").as_deref(), Some("all"));
}

#[test]
fn an_address_is_absent_until_something_has_it() {
    let mut mesh = Mesh::default();
    assert!(!mesh.discovered(ip("10.0.0.1")));
    for address in ["10.0.0.1", "10.96.0.1", "192.0.2.1"] {
        mesh.insert_absent(ip(address));
        assert!(mesh.discovered(ip(address)));
    }
    mesh.insert_workload(pod("web", &["10.0.0.1"]).into());
    mesh.insert_service(service("db", &["10.96.0.1/32"]).into());
    mesh.remove_workload("web");
    mesh.remove_service(&service_name("db"));
    let discovered = ["10.0.0.1", "10.96.0.1", "192.0.2.1"].map(|address| mesh.discovered(ip(address)));
    assert_eq!(discovered, [false, false, true], "what was there and went has to be asked for again");

    mesh.coverage = Coverage::Complete;
    assert!(mesh.discovered(ip("203.0.113.9")));
    mesh.insert_absent(ip("203.0.113.9"));
    assert_eq!(mesh.coverage, Coverage::Complete);
}

#[test]
fn a_scan_of_the_address_space_stays_bounded() {
    let mut mesh = Mesh::default();
    for number in 0..u32::try_from(3 * ABSENT_MAX).expect("a small number") {
        mesh.insert_absent(IpAddr::V4(number.into()));
        let Coverage::OnDemand { absent } = &mesh.coverage else { panic!("coverage changed") };
        assert!((1..=ABSENT_MAX).contains(&absent.len()));
    }
}

#[test]
fn the_policy_revision_moves_with_what_policy_depends_on_and_nothing_else() {
    let mut mesh = Mesh::default();
    let policy = |action| Policy {
        name: "shop/p".parse().expect("a name"),
        scope: Scope::Namespace,
        action,
        rules: Vec::new(),
        dry_run: false,
    };
    let listing = Workload { policies: vec!["shop/p".parse().expect("a name")], ..pod("web", &["10.0.0.1"]) };
    let elsewhere = Workload { addresses: vec![ip("10.0.0.2")], health: Health::Unhealthy, ..listing.clone() };
    type Step<'a> = (&'a str, bool, Box<dyn Fn(&mut Mesh) + 'a>);
    let steps: [Step<'_>; 10] = [
        ("a new policy", true, Box::new(|mesh| mesh.insert_policy(policy(Action::Allow).into()))),
        ("the same policy", false, Box::new(|mesh| mesh.insert_policy(policy(Action::Allow).into()))),
        ("a changed policy", true, Box::new(|mesh| mesh.insert_policy(policy(Action::Deny).into()))),
        ("a new workload", true, Box::new(|mesh| mesh.insert_workload(pod("web", &["10.0.0.1"]).into()))),
        ("a workload that lists more", true, Box::new(|mesh| mesh.insert_workload(listing.clone().into()))),
        ("a workload that moved", false, Box::new(|mesh| mesh.insert_workload(elsewhere.clone().into()))),
        ("a service", false, Box::new(|mesh| mesh.insert_service(service("db", &["10.96.0.1/32"]).into()))),
        ("a removed policy", true, Box::new(|mesh| assert!(mesh.remove_policy(&policy(Action::Deny).name)))),
        ("a removal of nothing", false, Box::new(|mesh| assert!(!mesh.remove_policy(&policy(Action::Deny).name)))),
        ("a removed workload", true, Box::new(|mesh| assert!(mesh.remove_workload("web")))),
    ];
    for (what, moves, step) in steps {
        let before = mesh.policy_revision;
        step(&mut mesh);
        assert_eq!(mesh.policy_revision > before, moves, "{what}");
    }
}

/// One change of a small mesh: names, addresses and services are few, so that they collide.
#[derive(Debug, Clone)]
enum Step {
    Insert { name: u8, addresses: BTreeSet<u8>, services: BTreeSet<u8>, host_network: bool },
    Remove { name: u8 },
    InsertService { name: u8, addresses: BTreeSet<u8> },
    RemoveService { name: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let few = || proptest::collection::btree_set(0..4u8, 0..3);
    prop_oneof![
        (0..4u8, few(), few(), any::<bool>()).prop_map(|(name, addresses, services, host_network)| Step::Insert {
            name,
            addresses,
            services,
            host_network
        }),
        (0..4u8).prop_map(|name| Step::Remove { name }),
        (0..4u8, few()).prop_map(|(name, addresses)| Step::InsertService { name, addresses }),
        (0..4u8).prop_map(|name| Step::RemoveService { name }),
    ]
}

proptest! {
    /// Whoever took an address last, and is still there, is who is found; endpoints are exactly who names the service.
    #[test]
    fn lookups_follow_the_objects(steps in proptest::collection::vec(step(), 0..40)) {
        let mut mesh = Mesh::default();
        let (mut owners, mut service_owners) = (HashMap::new(), HashMap::new());
        for step in steps {
            apply(&mut mesh, step, &mut owners, &mut service_owners);
        }
        for number in 0..4u8 {
            prop_assert_eq!(found(&mesh, &pod_address(number)), owners.get(&number).map(|name| format!("w{name}")));
            prop_assert_eq!(found_service(&mesh, &virtual_address(number)), service_owners.get(&number).map(|name| format!("s{name}")));
            let name = service_name(&format!("s{number}"));
            let mut backing: Vec<_> = mesh.workloads().filter(|one| one.services.contains_key(&name)).map(|one| one.name.to_string()).collect();
            backing.sort();
            prop_assert_eq!(endpoints(&mesh, &format!("s{number}")), backing);
        }
    }
}

fn apply(mesh: &mut Mesh, step: Step, owners: &mut HashMap<u8, u8>, service_owners: &mut HashMap<u8, u8>) {
    match step {
        Step::Insert { name, addresses, services, host_network } => {
            owners.retain(|_, owner| *owner != name);
            if !host_network {
                owners.extend(addresses.iter().map(|address| (*address, name)));
            }
            let services = services.iter().map(|number| (service_name(&format!("s{number}")), Vec::new())).collect();
            let addresses: Vec<String> = addresses.into_iter().map(pod_address).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            mesh.insert_workload(Workload { services, host_network, ..pod(&format!("w{name}"), &addresses) }.into());
        }
        Step::Remove { name } => {
            owners.retain(|_, owner| *owner != name);
            mesh.remove_workload(&format!("w{name}"));
        }
        Step::InsertService { name, addresses } => {
            service_owners.retain(|_, owner| *owner != name);
            service_owners.extend(addresses.iter().map(|address| (*address, name)));
            let blocks: Vec<String> = addresses.into_iter().map(|one| format!("{}/32", virtual_address(one))).collect();
            let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
            mesh.insert_service(service(&format!("s{name}"), &blocks).into());
        }
        Step::RemoveService { name } => {
            service_owners.retain(|_, owner| *owner != name);
            mesh.remove_service(&service_name(&format!("s{name}")));
        }
    }
}

fn pod_address(number: u8) -> String {
    format!("10.0.0.{number}")
}

fn virtual_address(number: u8) -> String {
    format!("10.96.0.{number}")
}

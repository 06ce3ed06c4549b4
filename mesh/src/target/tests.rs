//! What dialled addresses mean, in one small mesh.

use super::{Endpoint, Refusal, Target, resolve};
use crate::{
    Coverage, Mesh,
    service::{LoadBalancing, Port, Service},
    tests::{pod, service, service_name},
    workload::{Egress, Health, PortMapping, ProtocolHint, Workload},
};
use std::collections::HashSet;

/// Resolves `dialled` for a pod whose egress is allowed, in the mesh below, and compares with a line of text.
fn check(dialled: &str, expected: &str) {
    check_in(&mesh(), &pod("client", &["10.0.0.9"]), dialled, expected);
}

fn check_in(mesh: &Mesh, from: &Workload, dialled: &str, expected: &str) {
    let target = resolve(mesh, dialled.parse().expect("address and port"), from);
    assert_eq!(describe(&target), expected, "{dialled}");
}

fn describe(target: &Target) -> String {
    let one = |endpoint: &Endpoint| format!("{} {}", endpoint.workload.name, endpoint.address);
    match target {
        Target::Service { service, port, endpoints } => {
            let endpoints: Vec<String> = endpoints.iter().map(one).collect();
            format!("service {} {:?} -> {}", service.short_name, port.protocol, endpoints.join(", "))
        }
        Target::Workload(endpoint) => format!("workload {}", one(endpoint)),
        Target::External(address) => format!("external {address}"),
        Target::Undiscovered(address) => format!("undiscovered {address}"),
        Target::Refused(refusal) => format!("refused: {refusal}"),
    }
}

/// `db` with two pods and a port that only they can name; `idle` without ready pods; `drain` that takes unready ones;
/// `direct` in passthrough; `v6` dialled by IPv6.
fn mesh() -> Mesh {
    let mut mesh = Mesh { coverage: Coverage::OnDemand { absent: HashSet::new() }, ..Mesh::default() };
    let port = |number, target, protocol| Port { number, target, protocol };
    let ports = vec![port(80, Some(8080), ProtocolHint::Http1), port(5432, None, ProtocolHint::Tcp)];
    let services = [
        Service { ports: ports.clone(), ..service("db", &["10.96.0.1/32", "fd00::1/128", "10.97.0.0/24"]) },
        Service { ports: ports.clone(), ..service("idle", &["10.96.0.2/32"]) },
        Service {
            ports: ports.clone(),
            load_balancing: LoadBalancing { unhealthy_allowed: true, passthrough: false },
            ..service("drain", &["10.96.0.3/32"])
        },
        Service {
            ports,
            load_balancing: LoadBalancing { unhealthy_allowed: false, passthrough: true },
            ..service("direct", &["10.96.0.4/32"])
        },
    ];
    for service in services {
        mesh.insert_service(service.into());
    }
    let mapped = vec![PortMapping { service_port: 5432, target_port: 6432 }];
    let backs = |names: &[&str], ports: &[PortMapping]| {
        names.iter().map(|name| (service_name(name), ports.to_vec())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let workloads = [
        Workload { services: backs(&["db"], &mapped), ..pod("db-1", &["10.0.0.1", "2001:db8::1"]) },
        Workload { services: backs(&["db"], &[]), ..pod("db-2", &["10.0.0.2"]) },
        Workload {
            health: Health::Unhealthy,
            services: backs(&["db", "idle", "drain"], &mapped),
            ..pod("db-3", &["10.0.0.3"])
        },
        Workload { services: backs(&["db"], &mapped), ..pod("nowhere", &[]) },
        pod("lone", &["10.0.0.4"]),
    ];
    for workload in workloads {
        mesh.insert_workload(workload.into());
    }
    mesh
}

#[test]
fn a_service_is_its_ready_endpoints_in_the_dialled_family() {
    check("10.96.0.1:80", "service db Http1 -> db-1 10.0.0.1:8080, db-2 10.0.0.2:8080");
    check("[fd00::1]:80", "service db Http1 -> db-1 [2001:db8::1]:8080, db-2 10.0.0.2:8080");
    check("10.97.0.77:80", "service db Http1 -> db-1 10.0.0.1:8080, db-2 10.0.0.2:8080");
}

#[test]
fn a_mapped_address_is_the_ipv4_address() {
    check("[::ffff:10.96.0.1]:80", "service db Http1 -> db-1 10.0.0.1:8080, db-2 10.0.0.2:8080");
    check("[::ffff:10.0.0.4]:80", "workload lone 10.0.0.4:80");
}

#[test]
fn a_named_port_goes_only_to_endpoints_that_say_which_it_is() {
    check("10.96.0.1:5432", "service db Tcp -> db-1 10.0.0.1:6432");
}

#[test]
fn a_known_service_without_endpoint_or_port_is_refused_and_never_passed_through() {
    check(
        "10.96.0.2:80",
        "refused: service shop/idle.shop.svc.cluster.local has no ready endpoint for port 80; look at its pods' readiness",
    );
    check("10.96.0.1:81", "refused: service shop/db.shop.svc.cluster.local has no port 81; look at its spec.ports");
    check("10.96.0.4:81", "refused: service shop/direct.shop.svc.cluster.local has no port 81; look at its spec.ports");
}

#[test]
fn a_service_may_allow_endpoints_that_are_not_ready() {
    check("10.96.0.3:80", "service drain Http1 -> db-3 10.0.0.3:8080");
}

#[test]
fn a_passthrough_service_is_dialled_as_it_is() {
    check("10.96.0.4:80", "external 10.96.0.4:80");
}

#[test]
fn a_workload_is_dialled_at_its_own_address_on_any_port_whatever_its_health() {
    check("10.0.0.4:1", "workload lone 10.0.0.4:1");
    check("10.0.0.3:5432", "workload db-3 10.0.0.3:5432");
    check("[2001:db8::1]:22", "workload db-1 [2001:db8::1]:22");
}

#[test]
fn an_unknown_address_is_asked_for_first_and_then_egress_decides() {
    let (mut mesh, mut from) = (mesh(), pod("client", &["10.0.0.9"]));
    for egress in [Egress::Allow, Egress::Deny] {
        from.egress = egress;
        check_in(&mesh, &from, "192.0.2.1:443", "undiscovered 192.0.2.1");
    }
    mesh.insert_absent("192.0.2.1".parse().expect("an address"));
    check_in(&mesh, &from, "192.0.2.2:443", "undiscovered 192.0.2.2");
    let denied = "refused: address 192.0.2.1:443 is not in the mesh, and the egress policy of this workload is Deny";
    check_in(&mesh, &from, "192.0.2.1:443", denied);
    from.egress = Egress::Allow;
    check_in(&mesh, &from, "[::ffff:192.0.2.1]:443", "external 192.0.2.1:443");

    mesh.coverage = Coverage::Complete;
    check_in(&mesh, &from, "192.0.2.2:443", "external 192.0.2.2:443");
}

#[test]
fn egress_policy_is_not_asked_about_the_mesh_itself() {
    let from = Workload { egress: Egress::Deny, ..pod("client", &["10.0.0.9"]) };
    check_in(&mesh(), &from, "10.0.0.4:80", "workload lone 10.0.0.4:80");
    check_in(&mesh(), &from, "10.96.0.3:80", "service drain Http1 -> db-3 10.0.0.3:8080");
}

#[test]
fn addresses_of_other_networks_are_other_addresses() {
    let from = Workload { network: "east".into(), ..pod("client", &["10.0.0.9"]) };
    check_in(&mesh(), &from, "10.0.0.4:80", "undiscovered 10.0.0.4");
    check_in(&mesh(), &from, "10.96.0.1:80", "undiscovered 10.96.0.1");
}

#[test]
fn only_a_service_port_hints_at_the_protocol() {
    let (mesh, from) = (mesh(), pod("client", &["10.0.0.9"]));
    let hint = |dialled: &str| resolve(&mesh, dialled.parse().expect("an address"), &from).protocol_hint();
    assert_eq!(hint("10.96.0.1:80"), ProtocolHint::Http1);
    assert_eq!(hint("10.96.0.1:5432"), ProtocolHint::Tcp);
    for dialled in ["10.0.0.4:80", "192.0.2.1:80", "10.96.0.2:80", "10.96.0.4:80"] {
        assert_eq!(hint(dialled), ProtocolHint::Unknown, "{dialled}");
    }
}

#[test]
fn a_refusal_names_who_refuses() {
    let target = resolve(&mesh(), "10.96.0.2:80".parse().expect("an address"), &pod("client", &[]));
    let Target::Refused(refusal) = target else { panic!("{target:?}") };
    assert_eq!(refusal, Refusal::NoEndpoint { service: service_name("idle"), port: 80 });
}

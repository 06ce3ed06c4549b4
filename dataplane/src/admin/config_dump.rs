//! Everything the proxy knows, as JSON for a human with `curl` and `jq`. Sorted, so that two dumps can be compared.

use super::Admin;
use heddle_mesh::{
    Coverage, Mesh,
    policy::{Action, Match, Policy, Scope, ServiceAccountMatch, StringMatch},
    service::Service,
    workload::{Egress, Health, ProtocolHint, Tunnel, Workload},
};
use humantime::format_rfc3339_seconds;
use serde_json::{Map, Value, json};

/// The dump, pretty-printed.
pub(super) fn config_dump(admin: &Admin) -> String {
    let status = admin.snapshots.status();
    let own = admin.snapshots.own_workload();
    let svid = admin.svids.borrow().clone();
    let reasons: Vec<String> = admin.readiness.reasons().iter().map(ToString::to_string).collect();
    let dump = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": reasons.is_empty(),
        "not_ready": reasons,
        "options": admin.config.given,
        "log_level": admin.log_level.current(),
        "spiffe_id": admin.config.identity.spiffe_id.to_string(),
        "certificate": svid.map(|svid| json!({
            "spiffe_id": svid.id().to_string(),
            "serial": svid.serial(),
            "not_before": format_rfc3339_seconds(svid.not_before()).to_string(),
            "not_after": format_rfc3339_seconds(svid.not_after()).to_string(),
            "roots": svid.roots().len(),
        })),
        "controller": {
            "address": admin.config.identity.controller_address.to_string(),
            "connected": status.connected,
            "last_update_age_seconds": status.last_update_age.map(|age| age.as_secs_f64()),
            "refused_responses": status.nacks,
            "streams_ended": status.reconnects,
            "last_error": status.last_error,
            "last_refusal": status.last_refusal,
        },
        "own_workload": own.map(|own| workload(&own)),
        "mesh": mesh(&admin.snapshots.current()),
    });
    let mut text = serde_json::to_string_pretty(&dump).expect("a JSON value can be printed");
    text.push('\n');
    text
}

fn mesh(mesh: &Mesh) -> Value {
    let coverage = match &mesh.coverage {
        Coverage::Complete => json!({ "kind": "complete" }),
        Coverage::OnDemand { absent } => {
            let mut absent: Vec<_> = absent.iter().collect();
            absent.sort();
            json!({ "kind": "on_demand", "absent": absent })
        }
    };
    let mut workloads: Vec<_> = mesh.workloads().collect();
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    let mut services: Vec<_> = mesh.services().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let mut policies: Vec<_> = mesh.policies().collect();
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    json!({
        "revision": mesh.revision,
        "policy_revision": mesh.policy_revision,
        "coverage": coverage,
        "workloads": workloads.into_iter().map(|one| workload(one)).collect::<Vec<_>>(),
        "services": services.into_iter().map(|one| service(one)).collect::<Vec<_>>(),
        "policies": policies.into_iter().map(|one| policy(one)).collect::<Vec<_>>(),
    })
}

fn workload(workload: &Workload) -> Value {
    let ports = |(name, ports): (&heddle_mesh::service::ServiceName, &Vec<heddle_mesh::workload::PortMapping>)| {
        let ports = ports.iter().map(|port| (port.service_port.to_string(), port.target_port.into()));
        (name.to_string(), Value::Object(ports.collect()))
    };
    json!({
        "uid": &*workload.uid,
        "name": &*workload.name,
        "namespace": &*workload.namespace,
        "addresses": workload.addresses,
        "network": &*workload.network,
        "tunnel": match workload.tunnel {
            Tunnel::None => "none",
            Tunnel::Hbone => "hbone",
        },
        "identity": workload.identity.to_string(),
        "node": &*workload.node,
        "locality": {
            "region": &*workload.locality.region,
            "zone": &*workload.locality.zone,
            "subzone": &*workload.locality.subzone,
        },
        "health": match workload.health {
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        },
        "policies": workload.policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "services": workload.services.iter().map(ports).collect::<Map<String, Value>>(),
        "capacity": workload.capacity,
        "host_network": workload.host_network,
        "egress": match workload.egress {
            Egress::Allow => "allow",
            Egress::Deny => "deny",
        },
        "canonical_name": &*workload.canonical_name,
        "workload_name": &*workload.workload_name,
        "cluster": &*workload.cluster,
    })
}

fn service(service: &Service) -> Value {
    let ports = service
        .ports
        .iter()
        .map(|port| json!({ "number": port.number, "target": port.target, "protocol": protocol(port.protocol) }));
    let addresses = service
        .addresses
        .iter()
        .map(|address| json!({ "network": &*address.network, "block": address.block.to_string() }));
    json!({
        "name": service.name.to_string(),
        "addresses": addresses.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "identities": service.identities.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "passthrough": service.load_balancing.passthrough,
        "unhealthy_allowed": service.load_balancing.unhealthy_allowed,
    })
}

fn protocol(hint: ProtocolHint) -> &'static str {
    match hint {
        ProtocolHint::Unknown => "unknown",
        ProtocolHint::Http1 => "http1",
        ProtocolHint::Http2 => "http2",
        ProtocolHint::Grpc => "grpc",
        ProtocolHint::Tcp => "tcp",
        ProtocolHint::Tls => "tls",
    }
}

/// Rules as nested lists: any rule, every clause of it, any match of that.
fn policy(policy: &Policy) -> Value {
    let rules = policy.rules.iter().map(|rule| {
        let clauses = rule.clauses.iter().map(|clause| clause.matches.iter().map(attributes).collect::<Value>());
        clauses.collect::<Value>()
    });
    json!({
        "name": policy.name.to_string(),
        "scope": match policy.scope {
            Scope::Global => "global",
            Scope::Namespace => "namespace",
            Scope::WorkloadSelector => "workload_selector",
        },
        "action": match policy.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        },
        "dry_run": policy.dry_run,
        "rules": rules.collect::<Value>(),
    })
}

/// The fields of a match that say something.
fn attributes(one: &Match) -> Value {
    let accounts = |accounts: &[ServiceAccountMatch]| {
        accounts.iter().map(|account| format!("{}/{}", account.namespace, account.name)).collect::<Vec<_>>()
    };
    let texts = |texts: &[StringMatch]| texts.iter().map(string_match).collect::<Vec<_>>();
    let blocks = |blocks: &[ipnet::IpNet]| blocks.iter().map(ToString::to_string).collect::<Vec<_>>();
    let ports = |ports: &[u16]| ports.iter().map(ToString::to_string).collect::<Vec<_>>();
    let fields = [
        ("namespaces", texts(&one.namespaces)),
        ("not_namespaces", texts(&one.not_namespaces)),
        ("principals", texts(&one.principals)),
        ("not_principals", texts(&one.not_principals)),
        ("service_accounts", accounts(&one.service_accounts)),
        ("not_service_accounts", accounts(&one.not_service_accounts)),
        ("source_blocks", blocks(&one.source_blocks)),
        ("not_source_blocks", blocks(&one.not_source_blocks)),
        ("destination_blocks", blocks(&one.destination_blocks)),
        ("not_destination_blocks", blocks(&one.not_destination_blocks)),
        ("destination_ports", ports(&one.destination_ports)),
        ("not_destination_ports", ports(&one.not_destination_ports)),
    ];
    let said = fields.into_iter().filter(|(_, values)| !values.is_empty());
    Value::Object(said.map(|(name, values)| (name.to_owned(), values.into())).collect())
}

fn string_match(wanted: &StringMatch) -> String {
    match wanted {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Suffix(text) => format!("*{text}"),
        StringMatch::Presence => "*".to_owned(),
    }
}

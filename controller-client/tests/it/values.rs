//! Resources for the tests.

use heddle_mesh::{
    identity::{SpiffeId, TrustDomain},
    policy::{Action, Policy, Rule, Scope},
    service::{LoadBalancing, Service, VirtualAddress},
    workload::{Egress, Health, Locality, Tunnel, Workload},
};
use heddle_proto::{
    convert::{Address, encode_address, encode_policy, pack},
    names::{ADDRESS_TYPE, AUTHORIZATION_TYPE, service_aliases, workload_aliases},
    wire::{
        envoy::service::discovery::v3::Resource,
        istio::workload::{self, Extension},
    },
};

/// A pod of namespace `shop`, with its name as its uid.
pub(crate) fn pod(name: &str, address: &str) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/shop/{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![address.parse().unwrap()],
        network: "".into(),
        tunnel: Tunnel::Hbone,
        identity: SpiffeId::new(TrustDomain::default(), "shop", name).unwrap(),
        node: "node-1".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        policies: Vec::new(),
        services: [].into(),
        capacity: 1,
        host_network: false,
        egress: Egress::Allow,
        canonical_name: name.into(),
        workload_name: name.into(),
        cluster: "Kubernetes".into(),
    }
}

pub(crate) fn workload(workload: Workload, version: &str) -> Resource {
    let aliases = workload_aliases(&workload);
    let name = workload.uid.to_string();
    let message = encode_address(&Address::Workload(workload.into()));
    Resource {
        name,
        aliases,
        version: version.to_owned(),
        resource: Some(pack(ADDRESS_TYPE, &message)),
        ..Resource::default()
    }
}

/// A service of namespace `shop` with one virtual address.
pub(crate) fn service(name: &str, address: &str, version: &str) -> Resource {
    let block = address.parse::<std::net::IpAddr>().unwrap().into();
    let service = Service {
        name: format!("shop/{name}.shop.svc.cluster.local").parse().unwrap(),
        short_name: name.into(),
        addresses: vec![VirtualAddress { network: "".into(), block }],
        ports: Vec::new(),
        identities: Vec::new(),
        load_balancing: LoadBalancing::default(),
    };
    let message = encode_address(&Address::Service(service.clone().into()));
    Resource {
        name: service.name.to_string(),
        aliases: service_aliases(&service),
        version: version.to_owned(),
        resource: Some(pack(ADDRESS_TYPE, &message)),
        ..Resource::default()
    }
}

/// A policy of namespace `shop`, for the whole namespace, that matches everything.
pub(crate) fn policy(name: &str, action: Action, version: &str) -> Resource {
    let name = format!("shop/{name}");
    let policy = Policy {
        name: name.parse().unwrap(),
        scope: Scope::Namespace,
        action,
        rules: vec![Rule::default()],
        dry_run: false,
    };
    Resource {
        name,
        version: version.to_owned(),
        resource: Some(pack(AUTHORIZATION_TYPE, &encode_policy(&policy))),
        ..Resource::default()
    }
}

/// The same policy with a condition that nobody knows.
pub(crate) fn policy_not_understood(name: &str, action: Action, version: &str) -> Resource {
    use heddle_proto::wire::istio::security::{Clause, Match, Rule};
    let mut resource = policy(name, action, version);
    let message = heddle_proto::wire::istio::security::Authorization {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        scope: 1,
        action: i32::from(action == Action::Deny),
        rules: vec![Rule {
            clauses: vec![Clause {
                matches: vec![Match {
                    extensions: vec![Extension { name: "moon".to_owned(), config: None }],
                    ..Match::default()
                }],
            }],
        }],
        ..Default::default()
    };
    resource.resource = Some(pack(AUTHORIZATION_TYPE, &message));
    resource
}

/// A workload whose address has five bytes.
pub(crate) fn malformed(name: &str, address: &str, version: &str) -> Resource {
    let mut resource = workload(pod(name, address), version);
    let message = workload::Workload {
        uid: resource.name.clone(),
        namespace: "shop".to_owned(),
        addresses: vec![vec![0; 5]],
        ..Default::default()
    };
    let message = workload::Address { r#type: Some(workload::address::Type::Workload(message)) };
    resource.resource = Some(pack(ADDRESS_TYPE, &message));
    resource
}

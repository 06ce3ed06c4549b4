//! A change of policy ends what it forbids and nothing else.

use super::*;
use heddle_mesh::{
    policy::{Action, Clause, Match, Policy, Rule, Scope, StringMatch},
    workload::{Health, Locality, Tunnel},
};
use std::sync::Arc;

fn workload(egress: Egress) -> Workload {
    Workload {
        uid: "c//Pod/shop/web".into(),
        name: "web".into(),
        namespace: "shop".into(),
        addresses: vec!["10.0.0.2".parse().expect("an address")],
        network: "".into(),
        tunnel: Tunnel::Hbone,
        identity: "spiffe://cluster.local/ns/shop/sa/web".parse().expect("an identity"),
        node: "".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        policies: Vec::new(),
        services: std::collections::BTreeMap::default(),
        capacity: 1,
        host_network: false,
        egress,
        canonical_name: "web".into(),
        workload_name: "web".into(),
        cluster: "c".into(),
    }
}

fn connection(account: &str) -> Connection {
    Connection {
        source: "10.0.0.1:4000".parse().expect("an address"),
        identity: Some(format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().expect("an identity")),
        destination: "10.0.0.2:80".parse().expect("an address"),
    }
}

fn deny(account: &str) -> Policy {
    let principal = StringMatch::Exact(format!("cluster.local/ns/shop/sa/{account}").into());
    let one = Match { principals: vec![principal], ..Match::default() };
    Policy {
        name: "shop/deny".parse().expect("a name"),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![one] }] }],
        dry_run: false,
    }
}

#[tokio::test]
async fn a_tightened_policy_ends_what_it_denies_and_nothing_else() {
    let (admissions, web) = (Rc::<Admissions>::default(), workload(Egress::Allow));
    let mut mesh = Mesh::default();
    let admit =
        |account| admissions.admit(&mesh, &web, connection(account)).expect("no policy, so it is allowed").permit;
    let (mut batch, mut frontend) = (admit("batch"), admit("frontend"));

    mesh.insert_policy(Arc::new(deny("batch")));
    assert_eq!(admissions.recheck(&mesh, &web), 1);

    let denial = Denial::ByPolicy("shop/deny".parse().expect("a name"));
    assert_eq!(batch.ended().await, End::Revoked(denial));
    assert!(futures_util::FutureExt::now_or_never(frontend.ended()).is_none());
    assert!(admissions.admit(&mesh, &web, connection("batch")).is_err());
}

#[tokio::test]
async fn egress_that_is_denied_later_ends_external_connections_only() {
    let admissions = Rc::<Admissions>::default();
    let external = "192.0.2.7:443".parse().expect("an address");
    let mut outside = admissions.hold(Subject::External(external));
    let mut inside = admissions.hold(Subject::Outbound);

    assert_eq!(admissions.recheck(&Mesh::default(), &workload(Egress::Allow)), 0);
    assert_eq!(admissions.recheck(&Mesh::default(), &workload(Egress::Deny)), 1);

    assert_eq!(outside.ended().await, End::EgressDenied(external));
    assert!(futures_util::FutureExt::now_or_never(inside.ended()).is_none());
}

#[tokio::test]
async fn a_finished_connection_is_forgotten_and_the_drain_ends_the_rest() {
    let admissions = Rc::<Admissions>::default();
    drop(admissions.hold(Subject::Outbound));
    let mut left = admissions.hold(Subject::Outbound);
    assert_eq!(admissions.cut(), 1);
    assert_eq!(left.ended().await, End::Drained);
}

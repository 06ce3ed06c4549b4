//! The protocol when all goes well, and when single resources do not.

use crate::{
    controller::{Controller, soon},
    values::{malformed, pod, policy, policy_not_understood, service, workload},
};
use heddle_controller_client::{Discovery, NotReady};
use heddle_mesh::{
    Coverage,
    policy::{Action, Connection, Denial, Verdict, authorize},
};
use heddle_proto::names::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use prost_types::value::Kind;

const WEB: &str = "Kubernetes//Pod/shop/web";

#[tokio::test]
async fn a_wildcard_client_says_who_it_is_and_gets_everything() {
    let mut controller = Controller::start().await;
    let mut client = controller.client(Discovery::Wildcard);
    let mut stream = controller.accept().await;
    assert_eq!(stream.metadata.get("authorization").unwrap(), "Bearer first.token");
    assert_eq!(stream.metadata.get("clusterid").unwrap(), "Kubernetes");

    for (request, type_url) in
        stream.greeting(Discovery::Wildcard).await.into_iter().zip([ADDRESS_TYPE, AUTHORIZATION_TYPE])
    {
        assert_eq!(request.type_url, type_url);
        assert!(request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty());
        assert!(request.initial_resource_versions.is_empty() && request.response_nonce.is_empty());
        let node = request.node.unwrap();
        assert_eq!(node.id, "sidecar~10.0.0.1~web.shop~shop.svc.cluster.local");
        let fields: Vec<String> = node.metadata.unwrap().fields.into_iter().map(field).collect();
        let expected = [
            "CLUSTER_ID=Kubernetes",
            "INSTANCE_IPS=10.0.0.1",
            "NAME=web",
            "NAMESPACE=shop",
            "NODE_NAME=node-1",
            "SERVICE_ACCOUNT=web",
        ];
        assert_eq!(fields, expected);
    }

    assert!(matches!(client.snapshots.ready(), Err(NotReady::Unsynced { .. })));
    stream
        .deliver(ADDRESS_TYPE, vec![service("db", "10.96.0.1", "1"), workload(pod("web", "10.0.0.1"), "1")], &[])
        .await;
    let not_ready = client.snapshots.ready().unwrap_err().to_string();
    assert!(not_ready.starts_with("the controller has not sent policies yet"), "{not_ready}");
    stream.deliver(AUTHORIZATION_TYPE, vec![policy("open", Action::Allow, "1")], &[]).await;
    soon(client.snapshots.wait_ready()).await;

    let mesh = client.mesh(|_| true).await;
    assert_eq!(mesh.coverage, Coverage::Complete);
    assert_eq!((mesh.workloads().count(), mesh.services().count(), mesh.policies().count()), (1, 1, 1));
    assert_eq!(&*client.snapshots.own_workload().unwrap().uid, WEB);
    let status = client.snapshots.status();
    assert!(status.connected && status.last_update_age.is_some() && status.nacks == 0 && status.reconnects == 0);
}

#[tokio::test]
async fn a_reused_address_is_not_taken_for_our_own_workload() {
    let mut controller = Controller::start().await;
    let mut client = controller.client(Discovery::Wildcard);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::Wildcard).await;
    stream.deliver_all(vec![workload(pod("gone", "10.0.0.1"), "1")]).await;
    client.mesh(|mesh| mesh.workloads().count() == 1).await;
    let not_ready = client.snapshots.ready().unwrap_err().to_string();
    assert_eq!(not_ready, "the controller does not know a workload with the addresses of this pod (10.0.0.1)");
    assert_eq!(client.snapshots.own_workload(), None);
}

#[tokio::test]
async fn changes_and_removals_arrive_as_one_revision() {
    let mut controller = Controller::start().await;
    let mut client = controller.client(Discovery::Wildcard);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::Wildcard).await;
    let first = vec![
        workload(pod("web", "10.0.0.1"), "1"),
        workload(pod("db", "10.0.0.2"), "1"),
        service("db", "10.96.0.1", "1"),
    ];
    stream.deliver_all(first).await;
    let before = client.mesh(|mesh| mesh.services().count() == 1).await.revision;

    let removed = ["Kubernetes//Pod/shop/db", "shop/db.shop.svc.cluster.local", "nobody/knows.me"];
    stream.deliver(ADDRESS_TYPE, vec![workload(pod("db-2", "10.0.0.2"), "1")], &removed).await;
    let mesh = client.mesh(|mesh| mesh.workload("Kubernetes//Pod/shop/db-2").is_some()).await;
    assert_eq!((mesh.revision, mesh.workloads().count(), mesh.services().count()), (before + 1, 2, 0));

    // What says nothing new is acknowledged and publishes nothing.
    stream.deliver(ADDRESS_TYPE, vec![workload(pod("db-2", "10.0.0.2"), "1")], &[]).await;
    assert_eq!(client.snapshots.current().revision, before + 1);

    stream.deliver(AUTHORIZATION_TYPE, vec![policy("open", Action::Allow, "1")], &[]).await;
    let with = client.mesh(|mesh| mesh.policies().count() == 1).await;
    stream.deliver(AUTHORIZATION_TYPE, Vec::new(), &["shop/open"]).await;
    let without = client.mesh(|mesh| mesh.policies().count() == 0).await;
    assert!(without.policy_revision > with.policy_revision);
}

#[tokio::test]
async fn a_refusal_names_resource_and_field_and_the_good_ones_apply() {
    let mut controller = Controller::start().await;
    let mut client = controller.client(Discovery::Wildcard);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::Wildcard).await;
    stream.deliver_all(vec![workload(pod("db", "10.0.0.2"), "1")]).await;

    let mixed =
        vec![malformed("db", "10.0.0.2", "2"), workload(pod("web", "10.0.0.1"), "2"), malformed("x", "10.0.0.3", "2")];
    let message = stream.deliver_refused(ADDRESS_TYPE, mixed).await;
    assert_eq!(
        message,
        "Kubernetes//Pod/shop/db: addresses[0]: 5 bytes, expected 4 (IPv4) or 16 (IPv6)\n\
         Kubernetes//Pod/shop/x: addresses[0]: 5 bytes, expected 4 (IPv4) or 16 (IPv6)"
    );
    let mesh = client.mesh(|mesh| mesh.workload(WEB).is_some()).await;
    assert!(mesh.workload("Kubernetes//Pod/shop/db").is_some(), "the last good one stays");
    assert!(mesh.workload("Kubernetes//Pod/shop/x").is_none());
    let status = client.snapshots.status();
    assert_eq!(status.nacks, 1);
    assert!(status.last_refusal.unwrap().contains("Kubernetes//Pod/shop/db: addresses[0]"));

    // The refused versions are not remembered, so that they are sent again.
    drop(stream);
    let mut stream = controller.accept().await;
    let request = stream.request().await;
    let versions: Vec<_> = request.initial_resource_versions.into_iter().collect();
    let held =
        [("Kubernetes//Pod/shop/db", "1"), (WEB, "2")].map(|(name, version)| (name.to_owned(), version.to_owned()));
    assert_eq!(versions, held);
}

#[tokio::test]
async fn a_policy_that_is_not_understood_denies_until_it_is() {
    let mut controller = Controller::start().await;
    let mut client = controller.client(Discovery::Wildcard);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::Wildcard).await;
    stream.deliver(ADDRESS_TYPE, vec![workload(pod("web", "10.0.0.1"), "1")], &[]).await;
    let verdict = |client: &crate::controller::Running| {
        let (mesh, web) = (client.snapshots.current(), client.snapshots.own_workload().unwrap());
        let (source, destination) = ("10.0.0.9:1".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        authorize(&mesh, &web, &Connection { source, identity: None, destination })
    };

    let message = stream.deliver_refused(AUTHORIZATION_TYPE, vec![policy_not_understood("p", Action::Deny, "1")]).await;
    assert!(
        message.starts_with("shop/p: rules[0].clauses[0].matches[0].extensions[0]: \"moon\" is no condition"),
        "{message}"
    );
    assert_eq!(verdict(&client), Verdict::Denied(Denial::ByPolicy("shop/p".parse().unwrap())));

    stream.deliver_refused(AUTHORIZATION_TYPE, vec![policy_not_understood("p", Action::Allow, "2")]).await;
    let name = "shop/p".parse().unwrap();
    assert_eq!(verdict(&client), Verdict::Denied(Denial::NoneAllows { count: 1, first: name }));

    stream.deliver(AUTHORIZATION_TYPE, vec![policy("p", Action::Allow, "3")], &[]).await;
    client.mesh(|mesh| mesh.policies().any(|policy| !policy.rules.is_empty())).await;
    assert!(matches!(verdict(&client), Verdict::Allowed { .. }));

    // Now there is a last good one, and it stays.
    stream.deliver_refused(AUTHORIZATION_TYPE, vec![policy_not_understood("p", Action::Deny, "4")]).await;
    assert!(matches!(verdict(&client), Verdict::Allowed { .. }));
}

#[tokio::test]
async fn what_was_not_asked_for_or_is_misnamed_is_refused() {
    let mut controller = Controller::start().await;
    let _client = controller.client(Discovery::Wildcard);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::Wildcard).await;
    let message = stream.deliver_refused("type.googleapis.com/envoy.config.cluster.v3.Cluster", Vec::new()).await;
    assert!(message.contains("was not asked for"), "{message}");

    let mut misnamed = workload(pod("web", "10.0.0.1"), "1");
    misnamed.name = "somebody else".to_owned();
    let message = stream.deliver_refused(ADDRESS_TYPE, vec![misnamed]).await;
    assert_eq!(message, "somebody else: name: the content is of \"Kubernetes//Pod/shop/web\"");

    let mut empty = workload(pod("web", "10.0.0.1"), "1");
    empty.resource = None;
    assert_eq!(stream.deliver_refused(ADDRESS_TYPE, vec![empty]).await, format!("{WEB}: resource: absent"));

    let message = stream.deliver_refused(ADDRESS_TYPE, vec![policy("p", Action::Allow, "1")]).await;
    assert!(message.starts_with("shop/p: resource: type"), "{message}");
}

fn field((name, value): (String, prost_types::Value)) -> String {
    match value.kind {
        Some(Kind::StringValue(text)) => format!("{name}={text}"),
        other => format!("{name}: {other:?}"),
    }
}

//! Discovery on demand: a proxy holds what its pod talks to.

use crate::{
    controller::{Controller, Running, Stream, soon},
    values::{malformed, pod, service, workload},
};
use futures_util::future::{join, join_all};
use heddle_controller_client::{DiscoverError, Discovery};
use heddle_proto::{
    names::{ADDRESS_TYPE, AUTHORIZATION_TYPE},
    wire::envoy::service::discovery::v3::DeltaDiscoveryRequest,
};
use std::net::IpAddr;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn subscription(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ADDRESS_TYPE.to_owned(),
        resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    }
}

/// A ready client, and its stream.
async fn ready(controller: &mut Controller) -> (Running, Stream) {
    let client = controller.client(Discovery::OnDemand);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::OnDemand).await;
    stream.deliver_all(vec![workload(pod("web", "10.0.0.1"), "1")]).await;
    soon(client.snapshots.wait_ready()).await;
    (client, stream)
}

#[tokio::test]
async fn the_first_requests_ask_for_nothing_but_our_own_pod() {
    let mut controller = Controller::start().await;
    let client = controller.client(Discovery::OnDemand);
    let mut stream = controller.accept().await;
    let [addresses, policies, own] = stream.greeting(Discovery::OnDemand).await.try_into().unwrap();
    assert_eq!(
        (addresses.resource_names_subscribe, addresses.resource_names_unsubscribe),
        (vec!["*".into()], vec!["*".into()])
    );
    assert!(addresses.node.is_some());
    assert_eq!((policies.type_url.as_str(), policies.resource_names_subscribe.len()), (AUTHORIZATION_TYPE, 0));
    assert_eq!(own, subscription(&["/10.0.0.1"]));

    stream.deliver(AUTHORIZATION_TYPE, Vec::new(), &[]).await;
    let not_ready = client.snapshots.ready().unwrap_err().to_string();
    assert!(not_ready.starts_with("the controller does not know a workload"), "{not_ready}");
    stream.deliver(ADDRESS_TYPE, vec![workload(pod("web", "10.0.0.1"), "1")], &[]).await;
    soon(client.snapshots.wait_ready()).await;
}

#[tokio::test]
async fn an_asked_address_brings_its_service_and_what_stands_behind_it() {
    let mut controller = Controller::start().await;
    let (client, mut stream) = ready(&mut controller).await;
    let answered = async {
        assert_eq!(stream.request().await, subscription(&["/10.96.0.1"]));
        let found = vec![service("db", "10.96.0.1", "1"), workload(pod("db", "10.0.0.2"), "1")];
        stream.deliver(ADDRESS_TYPE, found, &[]).await;
    };
    let (found, ()) = soon(join(client.snapshots.discover(ip("10.96.0.1")), answered)).await;
    found.unwrap();
    let mesh = client.snapshots.current();
    assert!(mesh.service_by_address(&"".into(), ip("10.96.0.1")).is_some());

    // The workload came along: no further question, nor for the mapped form of the same address.
    for address in ["10.0.0.2", "10.96.0.1", "::ffff:10.0.0.2"] {
        soon(client.snapshots.discover(ip(address))).await.unwrap();
    }
    // Its changes arrive without being asked for.
    stream.deliver(ADDRESS_TYPE, Vec::new(), &["Kubernetes//Pod/shop/db"]).await;
    assert!(client.snapshots.current().workload("Kubernetes//Pod/shop/db").is_none());
}

#[tokio::test]
async fn those_who_ask_the_same_share_one_question() {
    let mut controller = Controller::start().await;
    let (client, mut stream) = ready(&mut controller).await;
    let askers = join_all((0..100).map(|_| client.snapshots.discover(ip("10.0.0.2"))));
    let answered = async {
        assert_eq!(stream.request().await, subscription(&["/10.0.0.2"]));
        // The next request is the acknowledgement: nobody asked again.
        stream.deliver(ADDRESS_TYPE, vec![workload(pod("db", "10.0.0.2"), "1")], &[]).await;
    };
    let (found, ()) = soon(join(askers, answered)).await;
    assert!(found.iter().all(Result::is_ok));
}

#[tokio::test]
async fn an_absent_address_is_known_to_be_absent_until_it_appears() {
    let mut controller = Controller::start().await;
    let (mut client, mut stream) = ready(&mut controller).await;
    let answered = async {
        assert_eq!(stream.request().await, subscription(&["/192.0.2.1"]));
        stream.deliver(ADDRESS_TYPE, Vec::new(), &["/192.0.2.1"]).await;
    };
    let (absent, ()) = soon(join(client.snapshots.discover(ip("192.0.2.1")), answered)).await;
    absent.unwrap();
    assert!(client.snapshots.current().discovered(ip("192.0.2.1")));
    soon(client.snapshots.discover(ip("192.0.2.1"))).await.unwrap();

    stream.deliver(ADDRESS_TYPE, vec![workload(pod("late", "192.0.2.1"), "1")], &[]).await;
    client.mesh(|mesh| mesh.workload("Kubernetes//Pod/shop/late").is_some()).await;
    // Gone again, it is unknown and will be asked for.
    stream.deliver(ADDRESS_TYPE, Vec::new(), &["Kubernetes//Pod/shop/late"]).await;
    assert!(!client.snapshots.current().discovered(ip("192.0.2.1")));
}

#[tokio::test]
async fn an_answer_that_cannot_be_found_by_address_is_an_absence() {
    let mut controller = Controller::start().await;
    let (client, mut stream) = ready(&mut controller).await;
    let answered = async {
        stream.request().await;
        let mut shared = pod("agent", "10.0.0.3");
        shared.host_network = true;
        let mut resource = workload(shared, "1");
        resource.aliases = vec!["/10.0.0.3".to_owned()];
        stream.deliver(ADDRESS_TYPE, vec![resource], &[]).await;
    };
    let (answer, ()) = soon(join(client.snapshots.discover(ip("10.0.0.3")), answered)).await;
    answer.unwrap();
    assert!(client.snapshots.current().discovered(ip("10.0.0.3")));
}

#[tokio::test]
async fn a_refused_answer_is_told_to_who_asked() {
    let mut controller = Controller::start().await;
    let (client, mut stream) = ready(&mut controller).await;
    let answered = async {
        stream.request().await;
        stream.deliver_refused(ADDRESS_TYPE, vec![malformed("db", "10.0.0.2", "1")]).await;
    };
    let (answer, ()) = soon(join(client.snapshots.discover(ip("10.0.0.2")), answered)).await;
    let text = answer.unwrap_err().to_string();
    assert!(text.contains("10.0.0.2") && text.contains("addresses[0]"), "{text}");
}

#[tokio::test]
async fn questions_are_bounded() {
    let mut controller = Controller::start().await;
    let (client, mut stream) = ready(&mut controller).await;
    let address =
        |number: usize| IpAddr::from([10, 1, u8::try_from(number / 256).unwrap(), u8::try_from(number % 256).unwrap()]);
    let asked =
        join_all((0..heddle_controller_client::ASKS_MAX).map(|number| client.snapshots.discover(address(number))));
    let one_more = async {
        // All of them are asked by now, in one request or more.
        let mut names = 0;
        while names < heddle_controller_client::ASKS_MAX {
            names += stream.request().await.resource_names_subscribe.len();
        }
        let error = client.snapshots.discover(ip("10.2.0.0")).await.unwrap_err();
        assert!(matches!(error, DiscoverError::TooMany { .. }), "{error}");
        controller.relay.cut();
    };
    let (answers, ()) = soon(join(asked, one_more)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(DiscoverError::NotConnected(_)))));
}

#[tokio::test]
async fn a_scan_of_the_address_space_is_forgotten_on_both_sides() {
    let mut controller = Controller::start().await;
    let client = controller.client(Discovery::OnDemand);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::OnDemand).await;
    // Our own pod is not known yet; that is no reason to stop following it.
    stream.deliver_all(Vec::new()).await;
    stream.deliver(ADDRESS_TYPE, Vec::new(), &["/10.0.0.1"]).await;
    let scanned = (1..=heddle_mesh::ABSENT_MAX).map(|number| format!("/10.1.{}.{}", number / 256, number % 256));
    let scanned: Vec<String> = scanned.collect();
    stream.deliver(ADDRESS_TYPE, Vec::new(), &scanned.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut forgotten = stream.request().await;
    assert!(forgotten.response_nonce.is_empty() && forgotten.resource_names_subscribe.is_empty());
    assert_eq!(forgotten.resource_names_unsubscribe.len(), heddle_mesh::ABSENT_MAX - 1);
    forgotten.resource_names_unsubscribe.retain(|name| !scanned.contains(name));
    assert!(forgotten.resource_names_unsubscribe.is_empty(), "our own address stays: {forgotten:?}");
    let mesh = client.snapshots.current();
    assert_eq!(scanned.iter().filter(|name| mesh.discovered(ip(&name[1..]))).count(), 1);
}

#[tokio::test]
async fn nothing_is_external_before_a_wildcard_client_has_everything() {
    let mut controller = Controller::start().await;
    let client = controller.client(Discovery::Wildcard);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::Wildcard).await;
    // The stream is up when its first response was acknowledged.
    stream.deliver(AUTHORIZATION_TYPE, Vec::new(), &[]).await;
    assert!(!client.snapshots.current().discovered(ip("192.0.2.1")));
    let answered = async {
        stream.deliver(ADDRESS_TYPE, vec![workload(pod("web", "10.0.0.1"), "1")], &[]).await;
    };
    let (found, ()) = soon(join(client.snapshots.discover(ip("192.0.2.1")), answered)).await;
    found.unwrap();
    assert!(client.snapshots.current().discovered(ip("192.0.2.1")));
}

#[tokio::test]
async fn a_new_stream_is_told_what_is_held_and_what_is_absent() {
    let mut controller = Controller::start().await;
    let (client, mut stream) = ready(&mut controller).await;
    let answered = async {
        stream.request().await;
        stream.deliver(ADDRESS_TYPE, Vec::new(), &["/192.0.2.1"]).await;
    };
    soon(join(client.snapshots.discover(ip("192.0.2.1")), answered)).await.0.unwrap();
    controller.write_token("second.token");
    drop(stream);

    let mut stream = controller.accept().await;
    assert_eq!(stream.metadata.get("authorization").unwrap(), "Bearer second.token");
    let [addresses, policies, own] = stream.greeting(Discovery::OnDemand).await.try_into().unwrap();
    let versions: Vec<_> = addresses.initial_resource_versions.into_iter().collect();
    let held = [("/192.0.2.1", ""), ("Kubernetes//Pod/shop/web", "1")]
        .map(|(name, version)| (name.to_owned(), version.to_owned()));
    assert_eq!(versions, held);
    assert!(policies.initial_resource_versions.is_empty());
    assert_eq!(own, subscription(&["/10.0.0.1"]));
}

//! A controller that is away, lies about who it is, or falls silent.

use crate::{
    controller::{Controller, Running, closed_port, soon},
    values::{pod, workload},
};
use heddle_controller_client::{DiscoverError, Discovery, Keepalive, Snapshots};
use std::{path::PathBuf, time::Duration};

/// Waits until the client has failed to reach the controller at least `times`.
async fn failures(snapshots: &Snapshots, times: u64) -> String {
    soon(async {
        while snapshots.status().reconnects < times {
            tokio::task::yield_now().await;
        }
    })
    .await;
    snapshots.status().last_error.expect("a failure has a reason")
}

#[tokio::test]
async fn the_last_good_mesh_serves_while_the_controller_is_away() {
    let mut controller = Controller::start().await;
    let mut client = controller.client(Discovery::OnDemand);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::OnDemand).await;
    stream.deliver_all(vec![workload(pod("web", "10.0.0.1"), "1")]).await;
    soon(client.snapshots.wait_ready()).await;
    let revision = client.snapshots.current().revision;

    controller.relay.cut();
    failures(&client.snapshots, 3).await;
    assert!(!client.snapshots.status().connected);
    assert_eq!(client.snapshots.ready(), Ok(()));
    assert_eq!(client.snapshots.current().revision, revision);
    let address = "10.0.0.9".parse().unwrap();
    assert_eq!(soon(client.snapshots.discover(address)).await, Err(DiscoverError::NotConnected(address)));

    controller.relay.restore();
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::OnDemand).await;
    // What the controller does not mention stays.
    stream.deliver_all(vec![workload(pod("db", "10.0.0.2"), "1")]).await;
    let mesh = client.mesh(|mesh| mesh.workloads().count() == 2).await;
    assert!(mesh.workload("Kubernetes//Pod/shop/web").is_some());
}

#[tokio::test]
async fn a_stream_that_the_controller_fails_is_opened_again() {
    let mut controller = Controller::start().await;
    let client = controller.client(Discovery::Wildcard);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::Wildcard).await;
    stream.fail(tonic::Status::unauthenticated("token expired")).await;
    controller.accept().await;
    let reason = client.snapshots.status().last_error.unwrap();
    assert_eq!(reason, "the controller ended the stream: Unauthenticated: token expired");
}

#[tokio::test]
async fn a_controller_that_others_vouch_for_is_refused() {
    let mut controller = Controller::start().await;
    controller.write_foreign_root();
    let client = controller.client(Discovery::Wildcard);
    let reason = failures(&client.snapshots, 1).await;
    assert!(reason.contains("controller.test") && reason.contains("certificate"), "{reason}");
    assert!(!client.snapshots.status().connected);

    // The same controller under another name.
    let mut settings = controller.settings(Discovery::Wildcard);
    drop(client);
    settings.server_name = "other.test".to_owned();
    let client = Running::start(settings);
    let reason = failures(&client.snapshots, 1).await;
    assert!(reason.contains("other.test") && reason.contains("certificate"), "{reason}");

    // Neither of them opened a stream.
    assert!(futures_util::FutureExt::now_or_never(controller.accept()).is_none());
}

#[tokio::test]
async fn files_and_addresses_that_cannot_be_used_are_named() {
    let controller = Controller::start().await;
    let sound = controller.settings(Discovery::Wildcard);
    let mut token = sound.clone();
    token.token_file = PathBuf::from("/nowhere/token");
    let mut root = sound.clone();
    root.root_cert_file = sound.token_file.clone();
    let mut address = sound.clone();
    address.address = "controller.test".to_owned();
    let mut closed = sound.clone();
    closed.address = closed_port().await.to_string();
    let cases = [
        (token, "token file /nowhere/token: "),
        (root, "holds no certificate; expected PEM"),
        (address, "controller address \"controller.test\": expected <host>:<port>"),
        (closed, "Connection refused"),
    ];
    for (settings, expected) in cases {
        let client = Running::start(settings);
        let reason = failures(&client.snapshots, 1).await;
        assert!(reason.contains(expected), "{reason:?} does not say {expected:?}");
        let not_ready = client.snapshots.ready().unwrap_err().to_string();
        assert!(not_ready.contains(expected), "{not_ready}");
    }
}

#[tokio::test]
async fn a_controller_that_never_answers_is_left_after_the_connect_timeout() {
    let controller = Controller::start().await;
    let mut settings = controller.settings(Discovery::Wildcard);
    // It accepts, by its kernel, and never shakes hands.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    settings.address = silent.local_addr().unwrap().to_string();
    settings.connect_timeout = Duration::from_millis(100);
    let client = Running::start(settings);
    let reason = failures(&client.snapshots, 1).await;
    assert!(reason.contains("did not answer within the connect timeout of 0.1 s"), "{reason}");
}

#[tokio::test]
async fn a_connection_that_carries_nothing_any_more_is_found_and_replaced() {
    let mut controller = Controller::start().await;
    let mut settings = controller.settings(Discovery::Wildcard);
    assert_eq!(settings.keepalive.interval + settings.keepalive.timeout, Duration::from_secs(30));
    settings.keepalive = Keepalive { interval: Duration::from_millis(50), timeout: Duration::from_millis(100) };
    let mut client = Running::start(settings);
    let mut stream = controller.accept().await;
    stream.greeting(Discovery::Wildcard).await;
    stream.deliver_all(vec![workload(pod("web", "10.0.0.1"), "1")]).await;

    controller.relay.freeze();
    let mut stream = controller.accept().await;
    let request = stream.request().await;
    assert_eq!(request.initial_resource_versions.len(), 1);
    assert_eq!(client.mesh(|_| true).await.workloads().count(), 1);
    assert_eq!(client.snapshots.status().reconnects, 1);
}

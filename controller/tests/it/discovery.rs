//! The delta stream, step by step.

use crate::support::{ADDRESSES, Client, Controller, POLICIES, SHOP, Scratch, names};
use heddle_proto::wire::istio::workload::{Address, address::Type};
use prost::Message;

const WEB: &str = "Kubernetes//Pod/shop/web";
const CLIENT: &str = "Kubernetes//Pod/shop/client";
const WEB_SERVICE: &str = "shop/web.shop.svc.cluster.local";
const STRICT: &str = "shop/heddle_strict_all";

async fn shop() -> (Scratch, Controller) {
    let scratch = Scratch::new();
    scratch.write("shop.yaml", SHOP);
    let controller = Controller::start(&scratch).await;
    (scratch, controller)
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn expect(client: &mut Client, brought: &[&str], removed: &[&str]) {
    assert_eq!(client.take().await, (strings(brought), strings(removed)));
}

#[tokio::test]
async fn wildcard_brings_everything_and_every_change() {
    let (scratch, controller) = shop().await;
    let mut client = controller.connect("web").await;
    client.wildcard(ADDRESSES, &[]).await;
    expect(&mut client, &[CLIENT, WEB, WEB_SERVICE], &[]).await;
    scratch.write(
        "more.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, status: {podIP: 10.0.0.9}}",
    );
    expect(&mut client, &["Kubernetes//Pod/shop/x"], &[]).await;
    scratch.remove("more.yaml");
    expect(&mut client, &[], &["Kubernetes//Pod/shop/x"]).await;
    client.silence().await;
    controller.end().await;
}

#[tokio::test]
async fn on_demand_brings_what_is_asked_for_and_no_more() {
    let (_scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.on_demand(&[]).await;
    client.silence().await;
    client.ask(&["/10.0.0.8"]).await;
    expect(&mut client, &[CLIENT], &[]).await;
    client.ask(&["/10.96.0.7"]).await;
    let response = client.next().await.expect("a response");
    assert_eq!(names(&response).0, strings(&[WEB, WEB_SERVICE]));
    for resource in &response.resources {
        let any = resource.resource.as_ref().expect("content");
        assert_eq!(any.type_url, ADDRESSES);
        match Address::decode(any.value.as_slice()).expect("an address").r#type.expect("a kind") {
            Type::Workload(workload) => {
                assert_eq!(workload.authorization_policies, [STRICT]);
                assert_eq!(workload.services[WEB_SERVICE].ports[0].target_port, 8080);
                assert_eq!(resource.aliases, ["/10.0.0.7"]);
            }
            Type::Service(service) => {
                assert_eq!(service.ports[0].service_port, 80);
                assert_eq!(resource.aliases, ["/10.96.0.7"]);
            }
        }
    }
    client.ack(&response).await;
    client.silence().await;
}

#[tokio::test]
async fn an_asked_name_that_does_not_exist_is_removed_and_comes_when_it_does() {
    let (scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.on_demand(&[]).await;
    client.ask(&["/10.0.0.9", "shop/none.shop.svc.cluster.local"]).await;
    expect(&mut client, &[], &["/10.0.0.9", "shop/none.shop.svc.cluster.local"]).await;
    scratch.write(
        "x.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, status: {podIP: 10.0.0.9}}",
    );
    expect(&mut client, &["Kubernetes//Pod/shop/x"], &[]).await;
    scratch.remove("x.yaml");
    expect(&mut client, &[], &["/10.0.0.9", "Kubernetes//Pod/shop/x"]).await;
    // Who asks again is answered again.
    client.ask(&["/10.0.0.9"]).await;
    expect(&mut client, &[], &["/10.0.0.9"]).await;
}

#[tokio::test]
async fn workloads_of_an_asked_service_are_followed() {
    let (scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.on_demand(&[]).await;
    client.ask(&["/10.96.0.7"]).await;
    expect(&mut client, &[WEB, WEB_SERVICE], &[]).await;
    let second = "{apiVersion: v1, kind: Pod, metadata: {name: web-2, namespace: shop, labels: {app: web}}, status: {podIP: 10.0.0.10}}";
    scratch.write("second.yaml", second);
    expect(&mut client, &["Kubernetes//Pod/shop/web-2"], &[]).await;
    scratch.write(
        "other.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: other, namespace: shop}, status: {podIP: 10.0.0.11}}",
    );
    client.silence().await;
    scratch.remove("second.yaml");
    expect(&mut client, &[], &["Kubernetes//Pod/shop/web-2"]).await;
}

#[tokio::test]
async fn a_resumed_stream_gets_the_difference() {
    let (scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    let response = client.next().await.expect("a response");
    let version = |name: &str| {
        let resource = response.resources.iter().find(|resource| resource.name == name);
        resource.expect("the resource").version.clone()
    };
    let held = [
        (WEB, version(WEB)),
        (WEB_SERVICE, version(WEB_SERVICE)),
        (CLIENT, "stale".to_owned()),
        ("gone", "1".to_owned()),
    ];
    let held = held.each_ref().map(|(name, version)| (*name, version.as_str()));
    drop(client);

    let mut resumed = controller.connect("client").await;
    resumed.wildcard(ADDRESSES, &held).await;
    expect(&mut resumed, &[CLIENT], &["gone"]).await;

    // On demand, what was held is followed, and an empty version means asked for and not there.
    let mut resumed = controller.connect("client").await;
    resumed.on_demand(&[held[0], held[1], ("/10.0.0.99", "")]).await;
    expect(&mut resumed, &[], &["/10.0.0.99"]).await;
    resumed.silence().await;
    scratch.remove("shop.yaml");
    scratch.write("rest.yaml", &SHOP.replace("10.96.0.7", "10.96.0.8"));
    expect(&mut resumed, &[WEB_SERVICE], &[]).await;

    // The same versions after a restart, on the same state.
    controller.end().await;
    scratch.remove("rest.yaml");
    scratch.write("shop.yaml", SHOP);
    let controller = Controller::start(&scratch).await;
    let mut resumed = controller.connect("client").await;
    resumed.on_demand(&held[..2]).await;
    resumed.silence().await;
}

#[tokio::test]
async fn policies_are_those_of_the_subscriber() {
    let (scratch, controller) = shop().await;
    let mut web = controller.connect("web").await;
    let mut client = controller.connect("client").await;
    for stream in [&mut web, &mut client] {
        stream.wildcard(POLICIES, &[]).await;
        expect(stream, &[STRICT], &[]).await;
    }
    let policy = |selector: &str| {
        format!(
            "{{apiVersion: heddle.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, \
             spec: {{{selector} rules: [{{from: [{{namespaces: [shop]}}]}}]}}}}"
        )
    };
    scratch.write("policy.yaml", &policy("selector: {matchLabels: {app: web}},"));
    expect(&mut web, &["shop/p"], &[]).await;
    client.silence().await;
    // The workload's own list changed: the difference comes to whom it concerns.
    scratch.write("policy.yaml", &policy("selector: {matchLabels: {app: client}},"));
    expect(&mut client, &["shop/p"], &[]).await;
    expect(&mut web, &[], &["shop/p"]).await;
    scratch.write("policy.yaml", &policy(""));
    expect(&mut web, &["shop/p"], &[]).await;
    expect(&mut client, &["shop/p"], &[]).await;
}

#[tokio::test]
async fn a_policy_comes_before_the_workload_that_lists_it_and_goes_after() {
    let (scratch, controller) = shop().await;
    let mut web = controller.connect("web").await;
    web.wildcard(POLICIES, &[]).await;
    web.take().await;
    web.on_demand(&[]).await;
    web.ask(&["/10.0.0.7"]).await;
    web.take().await;
    scratch.write(
        "policy.yaml",
        "{apiVersion: heddle.dev/v1alpha1, kind: MeshPolicy, metadata: {name: p, namespace: shop}, spec: {mtls: {mode: Permissive}}}",
    );
    let order = [web.next().await.expect("a response"), web.next().await.expect("a response")];
    assert_eq!(order.each_ref().map(names), [(strings(&[WEB]), vec![]), (vec![], strings(&[STRICT]))]);
    for response in &order {
        web.ack(response).await;
    }
    scratch.remove("policy.yaml");
    let order = [web.next().await.expect("a response"), web.next().await.expect("a response")];
    assert_eq!(order.each_ref().map(names), [(strings(&[STRICT]), vec![]), (strings(&[WEB]), vec![])]);
}

#[tokio::test]
async fn a_resuming_client_loses_a_policy_only_after_its_workload_changed() {
    let (_scratch, controller) = shop().await;
    let mut web = controller.connect("web").await;
    web.wildcard(POLICIES, &[("shop/old", "1")]).await;
    web.on_demand(&[(WEB, "1")]).await;
    let order = [web.next().await.expect("a response"), web.next().await.expect("a response")];
    assert_eq!(order.each_ref().map(names), [(strings(&[STRICT]), vec![]), (strings(&[WEB]), vec![])]);
    web.ack(&order[0]).await;
    web.ack(&order[1]).await;
    expect(&mut web, &[], &["shop/old"]).await;
    let settled = async |controller: &Controller| {
        let status = controller.status().await;
        ["Address", "Authorization"].iter().all(|kind| {
            let types = status["nodes"][0]["types"].as_object().expect("types");
            types.iter().any(|(name, kind_status)| name.ends_with(kind) && kind_status["acked"] == 1)
        })
    };
    controller.until(settled).await;
}

#[tokio::test]
async fn a_refused_resource_is_not_sent_again_until_it_changes() {
    let (scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    let response = client.next().await.expect("a response");
    client.nack(&response, "Kubernetes//Pod/shop/web: addresses[0]: 3 bytes").await;
    client.silence().await;
    let status = controller.status().await;
    let rejected = &status["nodes"][0]["types"]["istio.workload.Address"]["rejected"];
    assert!(rejected["reason"].as_str().is_some_and(|reason| reason.contains("3 bytes")), "{status:#}");
    assert!(
        controller.get("/metrics").await.contains("heddle_controller_nacks_total{type=\"istio.workload.Address\"} 1")
    );
    scratch.write("shop.yaml", &SHOP.replace("10.0.0.7", "10.0.0.17"));
    expect(&mut client, &[WEB], &[]).await;
}

#[tokio::test]
async fn status_says_who_has_which_revision() {
    let (scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    let response = client.next().await.expect("a response");
    let acked = async |controller: &Controller| {
        let status = controller.status().await;
        let node = &status["nodes"][0]["types"]["istio.workload.Address"];
        (status["revision"].as_u64(), node["sent"].as_u64(), node["acked"].as_u64())
    };
    assert_eq!(acked(&controller).await, (Some(1), Some(1), Some(0)));
    client.ack(&response).await;
    controller.until(async |controller: &Controller| acked(controller).await == (Some(1), Some(1), Some(1))).await;
    // A change that does not concern the client counts as taken over.
    scratch.write("more.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: more}}");
    controller.until(async |controller: &Controller| acked(controller).await == (Some(2), Some(2), Some(2))).await;
    let status = controller.status().await;
    assert_eq!(status["nodes"][0]["id"], "sidecar~10.0.0.1~client.shop~shop.svc.cluster.local");
    drop(client);
    controller
        .until(async |controller: &Controller| controller.status().await["nodes"].as_array().is_some_and(Vec::is_empty))
        .await;
}

#[tokio::test]
async fn a_slow_subscriber_gets_the_newest_only() {
    let (scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    let first = client.next().await.expect("a response");
    for last in 20..30 {
        scratch.write("shop.yaml", &SHOP.replace("10.0.0.7", &format!("10.0.0.{last}")));
        let revision = last - 18;
        controller.until(async |controller: &Controller| controller.status().await["revision"] == revision).await;
    }
    client.silence().await;
    client.ack(&first).await;
    let response = client.next().await.expect("a response");
    assert_eq!((response.resources.len(), response.resources[0].aliases.clone()), (1, strings(&["/10.0.0.29"])));
    client.ack(&response).await;
    client.silence().await;
}

#[tokio::test]
async fn a_change_arrives_within_200_milliseconds() {
    let (scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    client.take().await;
    let mut fastest = std::time::Duration::MAX;
    for last in 40..45 {
        scratch.write("shop.yaml", &SHOP.replace("10.0.0.7", &format!("10.0.0.{last}")));
        let written = std::time::Instant::now();
        client.take().await;
        fastest = fastest.min(written.elapsed());
    }
    assert!(fastest.as_millis() < 200, "{fastest:?}");
}

#[tokio::test]
async fn callers_are_checked() {
    let (_scratch, controller) = shop().await;
    let refused = async |token: &str, pod: &str, namespace: &str| {
        let mut client = controller.connect_with(token, pod, namespace).await;
        if client.responses.is_ok() {
            client.wildcard(ADDRESSES, &[]).await;
        }
        client.next().await.expect_err("a refusal").code()
    };
    let token = controller.token("shop", "web", Some("web"));
    assert_eq!(refused("", "web", "shop").await, tonic::Code::Unauthenticated);
    assert_eq!(refused(&token[..token.len() - 8], "web", "shop").await, tonic::Code::Unauthenticated);
    assert_eq!(refused(&token, "web", "other").await, tonic::Code::PermissionDenied);
    assert_eq!(refused(&token, "client", "shop").await, tonic::Code::PermissionDenied);
    assert!(controller.get("/metrics").await.contains("heddle_controller_refused_callers_total 2"));
}

#[tokio::test]
async fn an_ending_controller_says_so_on_its_streams() {
    let (_scratch, controller) = shop().await;
    let mut client = controller.connect("client").await;
    client.wildcard(ADDRESSES, &[]).await;
    client.take().await;
    let ended = tokio::spawn(async move { client.next().await });
    controller.end().await;
    let status = ended.await.expect("no panic").expect_err("an end");
    assert_eq!(status.code(), tonic::Code::Unavailable);
}

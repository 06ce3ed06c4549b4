//! Tables: manifests in, workloads, services, policies and conditions out.

use super::*;
use crate::{condition::Severity, source::document, source::folder::Manifests};
use heddle_mesh::{
    policy::{Connection, Scope, Verdict},
    service::Port,
    workload::{Egress, Health, ProtocolHint, Tunnel},
};
use std::path::Path;

/// A meshed and an unmeshed namespace.
const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {heddle.dev/inject: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
";

fn manifests(text: &str) -> Manifests {
    let contents = document::read(&Arc::from(Path::new("m.yaml")), text);
    Manifests { objects: contents.objects, conditions: contents.conditions, ..Manifests::default() }
}

fn settings() -> Settings {
    Settings { cluster_id: "Kubernetes".into(), trust_domain: TrustDomain::default() }
}

fn mesh(text: &str) -> Translation {
    translate(&manifests(&format!("{NAMESPACES}{text}")), &settings())
}

fn pod(name: &str, ip: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         status: {{phase: Running, podIP: {ip}}}\nspec: {{serviceAccountName: {name}, containers: [{{name: c, ports: \
         [{{name: http, containerPort: 8080}}, {{name: udp, containerPort: 53, protocol: UDP}}]}}]{more}}}\n---\n"
    )
}

/// Checks that the conditions are these, as `severity line field`.
fn said(translation: &Translation, wanted: &[&str]) {
    let lines = u32::try_from(NAMESPACES.lines().count()).expect("a short text");
    let said: Vec<String> = translation
        .conditions
        .iter()
        .map(|one| format!("{:?} {} {}", one.severity, one.place.line.saturating_sub(lines), one.field))
        .collect();
    assert_eq!(said, wanted, "{:#?}", translation.conditions.iter().map(ToString::to_string).collect::<Vec<_>>());
}

fn workload<'a>(translation: &'a Translation, name: &str) -> &'a Workload {
    translation.workloads.iter().find(|workload| &*workload.name == name).expect("the workload")
}

#[test]
fn a_pod_becomes_a_workload() {
    let translation = mesh(
        "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d4f8c9b7-abcde
  namespace: shop
  labels: {app.kubernetes.io/name: store, app: web, pod-template-hash: 5d4f8c9b7}
  ownerReferences: [{kind: ReplicaSet, name: web-5d4f8c9b7, controller: true, apiVersion: apps/v1, uid: u}]
spec: {nodeName: n1, serviceAccountName: web, containers: []}
status:
  phase: Running
  podIP: 10.0.0.7
  podIPs: [{ip: 10.0.0.7}, {ip: 'fd00::7'}]
  conditions: [{type: Ready, status: 'True'}]
",
    );
    said(&translation, &[]);
    let workload = workload(&translation, "web-5d4f8c9b7-abcde");
    assert_eq!(&*workload.uid, "Kubernetes//Pod/shop/web-5d4f8c9b7-abcde");
    assert_eq!(workload.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.7", "fd00::7"]);
    assert_eq!(workload.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((&*workload.node, &*workload.locality.region, &*workload.locality.zone), ("n1", "r", "z"));
    assert_eq!((&*workload.canonical_name, &*workload.workload_name), ("store", "web"));
    assert_eq!((workload.tunnel, workload.health, workload.egress), (Tunnel::Hbone, Health::Healthy, Egress::Allow));
}

#[test]
fn who_is_meshed_and_who_is_ready() {
    let pod = |name: &str, namespace: &str, labels: &str, spec: &str, status: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
             spec: {{containers: [], {spec}}}\nstatus: {{{status}}}\n---\n"
        )
    };
    let ready =
        |status: &str| format!("podIP: 10.0.0.8, phase: Running, conditions: [{{type: Ready, status: '{status}'}}]");
    let cases = [
        (pod("a", "shop", "", "", "podIP: 10.0.0.8"), Some((Tunnel::Hbone, Health::Healthy))),
        (pod("a", "plain", "", "", "podIP: 10.0.0.8"), Some((Tunnel::None, Health::Healthy))),
        (pod("a", "shop", "heddle.dev/inject: 'false'", "", "podIP: 10.0.0.8"), Some((Tunnel::None, Health::Healthy))),
        (pod("a", "shop", "", "hostNetwork: true", "podIP: 10.0.0.8"), Some((Tunnel::None, Health::Healthy))),
        (pod("a", "shop", "", "", &ready("True")), Some((Tunnel::Hbone, Health::Healthy))),
        (pod("a", "shop", "", "", &ready("False")), Some((Tunnel::Hbone, Health::Unhealthy))),
        (pod("a", "shop", "", "", "podIP: 10.0.0.8, phase: Pending"), Some((Tunnel::Hbone, Health::Unhealthy))),
        (pod("a", "shop", "", "", "podIP: 10.0.0.8, phase: Succeeded"), None),
        (pod("a", "shop", "", "", "podIP: 10.0.0.8, phase: Failed"), None),
        (pod("a", "shop", "", "", "phase: Running"), None),
        (pod("a", "shop", "", "", "podIP: 127.0.0.1"), None),
    ];
    for (text, wanted) in cases {
        let translation = mesh(&text);
        let found = translation.workloads.first().map(|workload| (workload.tunnel, workload.health));
        assert_eq!(found, wanted, "{text}");
    }
}

#[test]
fn a_service_is_backed_by_what_it_selects() {
    let service = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, 'fd96::7']
  selector: {app: web}
  publishNotReadyAddresses: true
  ports:
  - {name: http-named, port: 80, targetPort: http}
  - {name: any, port: 9000, targetPort: 9001, appProtocol: kubernetes.io/h2c}
  - {name: same, port: 5432}
  - {name: dns, port: 53, protocol: UDP}
";
    let translation = mesh(&format!("{}{}{service}", pod("web", "10.0.0.7", ""), pod("other", "10.0.0.8", "")));
    said(&translation, &[]);
    let service = &translation.services[0];
    assert_eq!(service.name.to_string(), "shop/web.shop.svc.cluster.local");
    assert_eq!(service.addresses.len(), 2);
    assert!(service.load_balancing.unhealthy_allowed && !service.load_balancing.passthrough);
    let port = |number, target, protocol| Port { number, target, protocol };
    let wanted = [
        port(80, None, ProtocolHint::Http1),
        port(9000, Some(9001), ProtocolHint::Http2),
        port(5432, Some(5432), ProtocolHint::Unknown),
    ];
    assert_eq!(service.ports, wanted);
    let web = workload(&translation, "web");
    let targets = [80, 9000, 5432, 53].map(|port| web.target_port(&service.name, port));
    assert_eq!(targets, [Some(8080), Some(9001), Some(5432), None]);
    assert!(workload(&translation, "other").services.is_empty());
}

#[test]
fn endpoint_slices_win_over_the_selector() {
    let text = format!(
        "{}{}{}
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{clusterIP: None, selector: {{app: a}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 7777, protocol: TCP}}]
endpoints:
- {{addresses: [10.0.0.2], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: b, namespace: shop}}}}
- {{addresses: [10.0.0.3], conditions: {{ready: false, serving: true, terminating: true}}}}
- {{addresses: [192.0.2.9]}}
- {{addresses: [10.0.0.98], targetRef: {{kind: Pod, name: gone, namespace: shop}}}}
",
        pod("a", "10.0.0.1", ""),
        pod("b", "10.0.0.2", ""),
        pod("c", "10.0.0.3", "")
    );
    let translation = mesh(&text);
    let service = &translation.services[0].name;
    assert!(translation.services[0].addresses.is_empty());
    let targets = ["a", "b", "c"].map(|name| workload(&translation, name).target_port(service, 80));
    assert_eq!(targets, [None, Some(7777), None]);
    assert_eq!(translation.conditions.len(), 1);
    assert_eq!(translation.conditions[0].field, "endpoints[3]");
    // An address of no pod is an endpoint all the same, in plain TCP.
    let external = workload(&translation, "192.0.2.9");
    assert_eq!(&*external.uid, "Kubernetes/discovery.k8s.io/EndpointSlice/shop/192.0.2.9");
    assert_eq!((external.target_port(service, 80), external.tunnel), (Some(7777), Tunnel::None));
}

#[test]
fn strict_is_the_default_and_the_most_specific_policy_wins() {
    let policy = |name: &str, namespace: &str, created: &str, spec: &str| {
        format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: {name}, namespace: {namespace}{created}}}\n\
             spec: {{{spec}}}\n---\n"
        )
    };
    let mode = |mode: &str| format!("mtls: {{mode: {mode}}}");
    let web = "selector: {matchLabels: {app: web}}, ";
    let cases: [(Vec<String>, Tunnel, &[&str]); 9] = [
        (vec![], Tunnel::Hbone, &["shop/heddle_strict_all"]),
        (vec![policy("a", "heddle-system", "", &mode("Permissive"))], Tunnel::Hbone, &[]),
        (
            vec![policy("a", "heddle-system", "", &mode("Permissive")), policy("b", "shop", "", &mode("Strict"))],
            Tunnel::Hbone,
            &["shop/heddle_strict_all"],
        ),
        (
            vec![
                policy("a", "shop", "", &mode("Strict")),
                policy("b", "shop", "", &format!("{web}{}", mode("Disabled"))),
            ],
            Tunnel::None,
            &[],
        ),
        (vec![policy("a", "plain", "", &mode("Disabled"))], Tunnel::Hbone, &["shop/heddle_strict_all"]),
        (
            vec![policy("a", "shop", "", "portLevelMtls: {'8080': {mode: Permissive}, '9090': {mode: Strict}}")],
            Tunnel::Hbone,
            &["shop/heddle_strict_except_8080"],
        ),
        (
            vec![policy("a", "shop", "", "mtls: {mode: Permissive}, portLevelMtls: {'8080': {mode: Strict}}")],
            Tunnel::Hbone,
            &["shop/heddle_strict_only_8080"],
        ),
        // Of two alike the oldest.
        (
            vec![
                policy("a", "shop", ", creationTimestamp: '2026-02-01T00:00:00Z'", &mode("Permissive")),
                policy("b", "shop", ", creationTimestamp: '2026-01-01T00:00:00Z'", &mode("Strict")),
            ],
            Tunnel::Hbone,
            &["shop/heddle_strict_all"],
        ),
        // A setting that the most specific one leaves open comes from the next.
        (
            vec![
                policy("a", "shop", "", &mode("Permissive")),
                policy("b", "shop", "", &format!("{web}egress: {{mode: Deny}}")),
            ],
            Tunnel::Hbone,
            &[],
        ),
    ];
    for (policies, tunnel, wanted) in cases {
        let text = format!("{}{}", policies.concat(), pod("web", "10.0.0.7", ""));
        let translation = mesh(&text);
        let web = workload(&translation, "web");
        let listed: Vec<String> = web.policies.iter().map(ToString::to_string).collect();
        assert_eq!(
            (web.tunnel, listed.as_slice()),
            (tunnel, wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().as_slice()),
            "{text}"
        );
        assert_eq!(web.egress == Egress::Deny, text.contains("egress"));
        assert!(
            translation.conditions.iter().all(|one| one.severity != Severity::Mistake),
            "{:?}",
            translation.conditions
        );
    }
}

#[test]
fn strict_denies_plaintext_and_nothing_else() {
    let policy = "apiVersion: heddle.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: a, namespace: shop}\n\
                  spec: {portLevelMtls: {'8080': {mode: Permissive}}}\n---\n";
    let translation = mesh(&format!("{policy}{}", pod("web", "10.0.0.7", "")));
    let mut mesh = heddle_mesh::Mesh::default();
    translation.policies.iter().for_each(|policy| mesh.insert_policy(policy.clone()));
    let may = |identity: Option<&str>, port: u16| {
        let connection = Connection {
            source: "10.0.0.9:1".parse().expect("an address"),
            identity: identity.map(|id| id.parse().expect("an identity")),
            destination: (workload(&translation, "web").addresses[0], port).into(),
        };
        matches!(
            heddle_mesh::policy::authorize(&mesh, workload(&translation, "web"), &connection),
            Verdict::Allowed { .. }
        )
    };
    let peer = Some("spiffe://cluster.local/ns/shop/sa/client");
    assert_eq!([may(peer, 9000), may(peer, 8080), may(None, 8080), may(None, 9000)], [true, true, true, false]);
}

#[test]
fn authorization_policies_have_their_scope_and_match_whom_they_name() {
    let policy = |name: &str, namespace: &str, spec: &str| {
        format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {spec}\n---\n"
        )
    };
    let text = [
        policy("all", "heddle-system", "{action: Deny, rules: [{from: [{ipBlocks: [192.0.2.0/24]}]}]}"),
        policy("namespace", "shop", "{dryRun: true, rules: [{}]}"),
        policy(
            "web",
            "shop",
            "{selector: {matchLabels: {app: web}}, rules: [{from: [{principals: ['spiffe://cluster.local/ns/shop/*']}, \
             {namespaces: ['*-ops'], notServiceAccounts: [x-ops/bad]}], to: [{ports: [8080]}]}]}",
        ),
        pod("web", "10.0.0.7", ""),
        pod("db", "10.0.0.8", ""),
    ];
    let translation = mesh(&text.concat());
    said(&translation, &[]);
    let scopes: Vec<(String, Scope)> =
        translation.policies.iter().map(|policy| (policy.name.to_string(), policy.scope)).collect();
    let wanted = [
        ("heddle-system/all", Scope::Global),
        ("shop/heddle_strict_all", Scope::WorkloadSelector),
        ("shop/namespace", Scope::Namespace),
        ("shop/web", Scope::WorkloadSelector),
    ];
    assert_eq!(scopes, wanted.map(|(name, scope)| (name.to_owned(), scope)));
    let listed =
        |name: &str| workload(&translation, name).policies.iter().map(|name| name.name.to_string()).collect::<Vec<_>>();
    assert_eq!(
        (listed("web"), listed("db")),
        (vec!["heddle_strict_all".into(), "web".into()], vec!["heddle_strict_all".into()])
    );

    let mut mesh = heddle_mesh::Mesh::default();
    translation.policies.iter().for_each(|policy| mesh.insert_policy(policy.clone()));
    let may = |identity: &str, source: &str, port: u16| {
        let connection = Connection {
            source: source.parse().expect("an address"),
            identity: Some(identity.parse().expect("an identity")),
            destination: (workload(&translation, "web").addresses[0], port).into(),
        };
        matches!(
            heddle_mesh::policy::authorize(&mesh, workload(&translation, "web"), &connection),
            Verdict::Allowed { .. }
        )
    };
    let cases = [
        ("spiffe://cluster.local/ns/shop/sa/any", "10.0.0.1:1", 8080, true),
        ("spiffe://cluster.local/ns/shop/sa/any", "10.0.0.1:1", 8081, false),
        ("spiffe://cluster.local/ns/shop/sa/any", "192.0.2.1:1", 8080, false),
        ("spiffe://other.domain/ns/shop/sa/any", "10.0.0.1:1", 8080, false),
        ("spiffe://cluster.local/ns/x-ops/sa/good", "10.0.0.1:1", 8080, true),
        ("spiffe://cluster.local/ns/x-ops/sa/bad", "10.0.0.1:1", 8080, false),
        ("spiffe://cluster.local/ns/ops/sa/good", "10.0.0.1:1", 8080, false),
    ];
    for (identity, source, port, wanted) in cases {
        assert_eq!(may(identity, source, port), wanted, "{identity} from {source} to {port}");
    }
}

#[test]
fn external_names_and_foreign_kinds_are_notes() {
    let translation = mesh(
        "apiVersion: v1\nkind: Service\nmetadata: {name: far, namespace: shop}\nspec: {type: ExternalName, externalName: x.example}\n\
         ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: shop}\n",
    );
    said(&translation, &["Note 4 spec.type", "Note 6 apiVersion"]);
    assert!(translation.services.is_empty());
}

#[test]
fn a_port_that_no_pod_has_is_a_warning() {
    let policy = "apiVersion: heddle.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: a, namespace: shop}\nspec:\n  portLevelMtls:\n    \
                  '80': {mode: Permissive}\n    '8080': {mode: Disabled}\n---\n";
    let translation = mesh(&format!("{policy}{}", pod("web", "10.0.0.7", "")));
    said(&translation, &["Warning 6 spec.portLevelMtls.80", "Warning 7 spec.portLevelMtls.8080"]);
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let parts = [pod("web", "10.0.0.7", ""), pod("db", "10.0.0.8", ""), pod("x", "10.0.0.9", "")];
    let forth = mesh(&parts.concat());
    let back = mesh(&parts.iter().rev().map(String::as_str).collect::<String>());
    assert_eq!((forth.workloads, forth.policies), (back.workloads, back.policies));
}

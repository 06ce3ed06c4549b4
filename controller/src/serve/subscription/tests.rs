//! What a client is sent, step by step.

use super::*;
use crate::{
    source::{document, folder::Manifests},
    translate::{Settings, translate},
};
use std::path::Path;

fn snapshot(pods: &[(&str, &str)]) -> Snapshot {
    let pod = |(name, ip): &(&str, &str)| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: n}}, status: {{podIP: {ip}}}}}\n---\n"
        )
    };
    let text: String = pods.iter().map(pod).collect();
    let contents = document::read(&Arc::from(Path::new("m.yaml")), &text);
    let manifests = Manifests { objects: contents.objects, ..Manifests::default() };
    let settings = Settings { cluster_id: "k".into(), trust_domain: heddle_mesh::identity::TrustDomain::default() };
    Snapshot::new(&Snapshot::default(), &translate(&manifests, &settings), 1)
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn sent(subscription: &mut Subscription, snapshot: &Snapshot) -> Option<(Vec<String>, Vec<String>)> {
    let delta = subscription.delta(snapshot, true)?;
    Some((delta.resources.iter().map(|resource| resource.name.clone()).collect(), delta.removed))
}

fn request(subscription: &mut Subscription, subscribe: &[&str], unsubscribe: &[&str], snapshot: &Snapshot) -> bool {
    subscription.request(&strings(subscribe), &strings(unsubscribe), &BTreeMap::new(), snapshot)
}

#[test]
fn wildcard_is_answered_even_with_nothing_and_once() {
    let empty = Snapshot::default();
    let mut subscription = Subscription::new(View::Addresses);
    assert_eq!(sent(&mut subscription, &empty), None);
    assert!(request(&mut subscription, &[], &[], &empty));
    assert_eq!(sent(&mut subscription, &empty), Some((vec![], vec![])));
    assert_eq!(sent(&mut subscription, &empty), None);
    assert!(!request(&mut subscription, &[], &[], &empty));
}

#[test]
fn wildcard_can_be_left_and_joined() {
    let two = snapshot(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    let mut subscription = Subscription::new(View::Addresses);
    request(&mut subscription, &["*"], &[], &two);
    assert_eq!(sent(&mut subscription, &two), Some((strings(&["k//Pod/n/a", "k//Pod/n/b"]), vec![])));
    request(&mut subscription, &["/10.0.0.1"], &["*"], &two);
    // Asked for anew, so it is sent anew; what is not followed any more is taken away.
    assert_eq!(sent(&mut subscription, &two), Some((strings(&["k//Pod/n/a"]), strings(&["k//Pod/n/b"]))));
    request(&mut subscription, &[], &["/10.0.0.1"], &two);
    assert_eq!(sent(&mut subscription, &two), Some((vec![], strings(&["k//Pod/n/a"]))));
}

#[test]
fn removals_can_wait() {
    let (two, one) = (snapshot(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]), snapshot(&[("a", "10.0.0.3")]));
    let mut subscription = Subscription::new(View::Addresses);
    request(&mut subscription, &[], &[], &two);
    sent(&mut subscription, &two);
    let additions = subscription.delta(&one, false).expect("a change");
    assert_eq!((additions.resources.len(), additions.removed.len()), (1, 0));
    assert_eq!(sent(&mut subscription, &one), Some((vec![], strings(&["k//Pod/n/b"]))));
}

#[test]
fn an_address_that_moves_is_followed() {
    let before = snapshot(&[("a", "10.0.0.1")]);
    let after = snapshot(&[("b", "10.0.0.1")]);
    let mut subscription = Subscription::new(View::Addresses);
    request(&mut subscription, &["*", "/10.0.0.1"], &["*"], &before);
    assert_eq!(sent(&mut subscription, &before), Some((strings(&["k//Pod/n/a"]), vec![])));
    assert_eq!(sent(&mut subscription, &after), Some((strings(&["k//Pod/n/b"]), strings(&["k//Pod/n/a"]))));
}

#[test]
fn unchanged_resources_are_shared_between_snapshots() {
    let before = snapshot(&[("a", "10.0.0.1")]);
    let contents = document::read(
        &Arc::from(Path::new("m.yaml")),
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: n}, status: {podIP: 10.0.0.1}}",
    );
    let manifests = Manifests { objects: contents.objects, ..Manifests::default() };
    let settings = Settings { cluster_id: "k".into(), trust_domain: heddle_mesh::identity::TrustDomain::default() };
    let after = Snapshot::new(&before, &translate(&manifests, &settings), 2);
    let (before, after) =
        (before.addresses().next().expect("a resource"), after.addresses().next().expect("a resource"));
    assert!(Arc::ptr_eq(before, after));
}

//! The plugin in a chain behind a real bridge, driven by a real runtime's CNI library.

pub(crate) mod node;
mod protocol;
mod removal;
mod tools;

use node::{Node, Sandbox};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt};

/// The annotations of a pod that asks for this mode.
pub(crate) fn asks(mode: &str) -> Value {
    json!({ "heddle.dev/capture": mode, "kubernetes.io/config.source": "api" })
}

/// Each mode, with the options of `install` that a node with such pods needs.
pub(crate) const MODES: [&str; 2] = ["tproxy", "ebpf"];

/// Removes a part of a pod's capture by hand, as somebody might; what is told to be missing then.
pub(crate) fn damage(node: &Node, pod: &Sandbox, mode: &str) -> &'static str {
    if mode == "tproxy" {
        pod.netns.run("ip rule del fwmark 0x539 lookup 133");
        "the policy rule is missing"
    } else {
        let pin = node.folder.join(&format!("bpf/heddle/{}/link_connect4", pod.uid));
        fs::remove_file(pin).expect("it is pinned there");
        "connect4"
    }
}

/// That nothing of ours is in the pod, or of the pod on the node.
pub(crate) fn assert_nothing_left(node: &Node, pod: &Sandbox) {
    assert_eq!(pod.ruleset(), "");
    assert!(!pod.netns.run("ip rule").contains("0x539") && !pod.netns.run("ip -6 rule").contains("0x539"));
    assert_eq!(node.pins(), [""; 0]);
    assert_eq!(node.folder.names("state"), [""; 0]);
}

/// That capture is in force in this mode, and nothing of the other.
pub(crate) fn assert_captured(node: &Node, pod: &Sandbox, mode: &str) {
    if mode == "tproxy" {
        assert!(pod.ruleset().contains("table inet heddle"), "{}", pod.ruleset());
        assert_eq!(node.pins(), [""; 0]);
    } else {
        assert_eq!(pod.ruleset(), "");
        assert_eq!(node.pins(), [pod.uid.as_str()]);
        assert!(node.folder.names(&format!("bpf/heddle/{}", pod.uid)).contains(&"link_connect4".to_owned()));
    }
}

#[test]
fn a_pod_is_captured_when_its_network_is_made_and_nothing_is_left_when_it_goes() {
    for version in ["1.1.0", "0.4.0", "0.3.1"] {
        for mode in MODES {
            let node = Node::bare(version);
            node.install("");
            let pod = node.pod(asks(mode));
            let result: Value = serde_json::from_str(&node.runtime("add", &pod).succeeds()).expect("it is JSON");
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["ips"][0]["address"], "10.79.0.2/24", "the bridge's result is handed on: {result}");
            assert_captured(&node, &pod, mode);
            let records = node.folder.names("state");
            assert_eq!(records.len(), 1, "{records:?}");
            let record = node.folder.join(&format!("state/{}", records[0]));
            assert_eq!(fs::metadata(&record).expect("it is there").permissions().mode() & 0o777, 0o600);
            if version != "0.3.1" {
                node.runtime("check", &pod).succeeds();
            }
            for _ in 0..2 {
                node.runtime("del", &pod).succeeds();
                assert_nothing_left(&node, &pod);
            }
        }
    }
}

/// Runtimes may make the loopback network at the same time as the pod's.
#[test]
fn a_pod_whose_loopback_is_still_down_is_captured() {
    for mode in MODES {
        let node = Node::with_plugin("");
        let pod = node.pod(asks(mode));
        pod.netns.run("ip link set lo down");
        node.runtime("add", &pod).succeeds();
        assert_captured(&node, &pod, mode);
        node.runtime("check", &pod).succeeds();
    }
}

#[test]
fn check_fails_when_a_part_was_removed_by_hand() {
    for mode in MODES {
        let node = Node::with_plugin("");
        let pod = node.pod(asks(mode));
        node.runtime("add", &pod).succeeds();
        node.runtime("check", &pod).succeeds();
        let missing = damage(&node, &pod, mode);
        let told = node.runtime("check", &pod).fails();
        assert!(told.contains("capture is not in force as planned") && told.contains(missing), "{mode}: {told}");
        node.runtime("del", &pod).succeeds();
        assert_nothing_left(&node, &pod);
    }
}

#[test]
fn only_a_pod_that_asks_is_captured() {
    let node = Node::with_plugin("");
    for annotations in [json!({}), json!(null), json!({ "heddle.dev/capture": "false" }), json!({ "a": "b" })] {
        let pod = node.pod(annotations);
        node.runtime("add", &pod).succeeds();
        node.runtime("check", &pod).succeeds();
        assert_nothing_left(&node, &pod);
        node.runtime("del", &pod).succeeds();
    }
    let all = Node::with_plugin("--select all");
    let pod = all.pod(json!({}));
    all.runtime("add", &pod).succeeds();
    assert_captured(&all, &pod, "tproxy");
}

#[test]
fn annotations_override_what_the_node_says() {
    let node = Node::with_plugin("--mode ebpf --exclude-outbound-ports 1111 --dns");
    let mut annotations = asks("tproxy");
    annotations["heddle.dev/exclude-outbound-ports"] = "2222,3333".into();
    let pod = node.pod(annotations);
    node.runtime("add", &pod).succeeds();
    let ports = pod.netns.run("nft list set inet heddle out_ports");
    assert!(ports.contains("2222, 3333") && !ports.contains("1111"), "{ports}");
    assert!(pod.ruleset().contains("tproxy to :15053"), "what the pod does not say stays as the node says");
}

#[test]
fn a_wrong_annotation_stops_the_pod_and_is_named() {
    let node = Node::with_plugin("");
    let refused = |annotations: Value, part: &str| {
        let pod = node.pod(annotations);
        let told = node.runtime("add", &pod).fails();
        assert!(told.contains(part), "{part:?} is not in {told}");
        assert_nothing_left(&node, &pod);
        // A runtime calls it after a failed ADD.
        node.runtime("del", &pod).succeeds();
    };
    refused(
        asks("iptables"),
        "pod shop/web: annotation heddle.dev/capture: `iptables` is neither tproxy, ebpf nor false",
    );
    let with = |name: &str, value: &str| {
        let mut annotations = asks("tproxy");
        annotations[name] = value.into();
        annotations
    };
    refused(with("heddle.dev/exclude-inbound-ports", "http"), "--exclude-inbound-ports: `http` is not a port");
    refused(with("heddle.dev/exclude-inbound", "1"), "annotation heddle.dev/exclude-inbound is not known");
    refused(with("heddle.dev/guard", "maybe"), "--guard: `maybe`");
}

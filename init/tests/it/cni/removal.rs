//! `DEL` and `GC` where things are missing, or belong to somebody else.

use super::{
    MODES, asks, assert_captured, assert_nothing_left,
    node::{Node, Sandbox, arguments},
};
use serde_json::{Value, json};
use std::fs;

/// Calls the plugin itself, behind a made-up plugin's result, for this container and interface.
fn call(node: &Node, pod: &Sandbox, command: &str, container: &str, interface: &str) -> crate::pod::Run {
    let netns = format!("/run/netns/{}", pod.netns.name());
    call_at(node, pod, command, container, interface, &netns)
}

fn call_at(
    node: &Node,
    pod: &Sandbox,
    command: &str,
    container: &str,
    interface: &str,
    netns: &str,
) -> crate::pod::Run {
    let arguments = arguments(pod);
    let variables = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", container),
        ("CNI_IFNAME", interface),
        ("CNI_NETNS", netns),
        ("CNI_ARGS", &arguments),
        ("CNI_PATH", "/nowhere"),
    ];
    let more = json!({
        "prevResult": { "cniVersion": "1.1.0", "ips": [] },
        "runtimeConfig": { "io.kubernetes.cri.pod-annotations": pod.annotations },
    });
    node.plugin(&variables, node.configuration(more).as_bytes())
}

#[test]
fn del_tolerates_whatever_is_missing() {
    for mode in MODES {
        let node = Node::with_plugin("");
        call(&node, &node.pod(asks(mode)), "DEL", "never-added", "eth0").succeeds();
        let pod = node.pod(asks(mode));
        // The record is lost.
        call(&node, &pod, "ADD", "a", "eth0").succeeds();
        fs::remove_dir_all(node.folder.join("state")).expect("it is there");
        call(&node, &pod, "DEL", "a", "eth0").succeeds();
        assert_nothing_left(&node, &pod);
        // The cgroup is gone.
        let pod = node.pod(asks(mode));
        call(&node, &pod, "ADD", "b", "eth0").succeeds();
        fs::remove_dir(node.cgroup(&pod.uid)).expect("no process is in it");
        call(&node, &pod, "DEL", "b", "eth0").succeeds();
        assert_nothing_left(&node, &pod);
        // The network namespace is gone, and the runtime does not name it any more.
        for netns in ["/run/netns/heddle-none", ""] {
            let gone = node.pod(asks(mode));
            call(&node, &gone, "ADD", "c", "eth0").succeeds();
            let (uid, annotations) = (gone.uid.clone(), gone.annotations.clone());
            drop(gone);
            let gone = Sandbox { uid, annotations, netns: crate::netns::Namespace::new() };
            call_at(&node, &gone, "DEL", "c", "eth0", netns).succeeds();
            assert_nothing_left(&node, &gone);
        }
        // A record that was being written when its process was killed.
        fs::write(node.folder.join("state/.d.json.1.heddle-tmp"), "{").expect("the folder is there");
        call(&node, &pod, "DEL", "d", "eth0").succeeds();
        assert_nothing_left(&node, &pod);
    }
}

#[test]
fn a_pod_is_released_with_its_last_interface() {
    let node = Node::with_plugin("");
    let pod = node.pod(asks("tproxy"));
    call(&node, &pod, "ADD", "a", "eth0").succeeds();
    call(&node, &pod, "ADD", "a", "net1").succeeds();
    call(&node, &pod, "DEL", "a", "eth0").succeeds();
    call(&node, &pod, "DEL", "a", "net2").succeeds();
    assert_captured(&node, &pod, "tproxy");
    call(&node, &pod, "CHECK", "a", "net1").succeeds();
    call(&node, &pod, "DEL", "a", "net1").succeeds();
    assert_nothing_left(&node, &pod);
}

/// A kubelet makes a new sandbox for a pod whose old one died, and stops the old one whenever it comes to it.
#[test]
fn the_end_of_an_old_sandbox_leaves_the_pods_new_one_captured() {
    let node = Node::with_plugin("");
    let old = node.pod(asks("ebpf"));
    let new = Sandbox { netns: crate::netns::Namespace::new(), uid: old.uid.clone(), annotations: asks("ebpf") };
    call(&node, &old, "ADD", "old", "eth0").succeeds();
    call(&node, &new, "ADD", "new", "eth0").succeeds();
    call(&node, &new, "CHECK", "new", "eth0").succeeds();
    call(&node, &old, "DEL", "old", "eth0").succeeds();
    assert_captured(&node, &new, "ebpf");
    call(&node, &new, "CHECK", "new", "eth0").succeeds();
    call(&node, &new, "DEL", "new", "eth0").succeeds();
    assert_nothing_left(&node, &new);
}

#[test]
fn gc_removes_what_the_runtime_does_not_list() {
    for mode in MODES {
        let node = Node::with_plugin("");
        let (stays, goes) = (node.pod(asks(mode)), node.pod(asks(mode)));
        call(&node, &stays, "ADD", "stays", "eth0").succeeds();
        call(&node, &goes, "ADD", "goes", "eth0").succeeds();
        let gc = |more: Value| {
            node.plugin(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/nowhere")], node.configuration(more).as_bytes())
                .succeeds()
        };
        // Of another network, or with no list, nothing is known to be stale.
        gc(json!({ "name": "other", "cni.dev/valid-attachments": [] }));
        gc(json!({}));
        assert_eq!(node.folder.names("state"), ["goes.json", "stays.json"]);
        gc(json!({ "cni.dev/valid-attachments": [{ "containerID": "stays", "ifname": "eth0" }] }));
        assert_captured(&node, &stays, mode);
        assert_eq!(node.folder.names("state"), ["stays.json"]);
        assert_eq!(goes.ruleset(), "");
        gc(json!({ "cni.dev/valid-attachments": null }));
        assert_nothing_left(&node, &stays);
    }
}

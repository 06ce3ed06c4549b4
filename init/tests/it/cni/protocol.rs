//! The protocol itself: what a runtime, or somebody hostile, may say, and the JSON that it gets.

use super::{
    asks,
    node::{Node, arguments},
};
use crate::pod::Run;
use serde_json::{Value, json};

/// The error that a call ended with: its code and details. Nothing else is on standard output.
fn error(run: Run) -> (u64, String) {
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.stderr, "");
    let error: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout));
    assert!(error["cniVersion"].is_string() && error["msg"].is_string(), "{error}");
    (error["code"].as_u64().expect("a number"), error["details"].as_str().expect("a text").to_owned())
}

const VARIABLES: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "abc"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_NETNS", "/run/netns/heddle-none"),
    ("CNI_PATH", "/nowhere"),
];

fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    let others = VARIABLES.iter().copied().filter(|(other, _)| *other != name);
    others.chain([(name, value)]).collect()
}

#[test]
fn hostile_input_is_answered_in_json_and_changes_nothing() {
    let node = Node::with_plugin("");
    let huge = format!("{{\"cniVersion\":\"1.1.0\",\"name\":\"{}\"}}", "n".repeat(5 << 20));
    let deep = format!("{{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"capture\":{}", "[".repeat(200_000));
    let unknown = node.configuration(json!({ "modes": "ebpf" }));
    let wrong = node.configuration(json!({ "capture": { "dns": "perhaps" } }));
    let inputs: [(&[u8], u64, &str); 10] = [
        (b"", 6, "EOF"),
        (b"null", 6, "null"),
        (b"\xff\xfe{}", 6, "utf-8"),
        (b"{\"cniVersion\":", 6, "EOF"),
        (deep.as_bytes(), 6, "line 1"),
        (huge.as_bytes(), 6, "more than 4194304 bytes"),
        (b"{\"cniVersion\":\"9.9.9\",\"name\":\"n\"}", 1, "`9.9.9`"),
        (unknown.as_bytes(), 2, "modes: \"ebpf\" is not known"),
        (wrong.as_bytes(), 7, "capture: "),
        (b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"runtimeConfig\":[1,2]}", 7, "runtimeConfig: "),
    ];
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for (input, code, part) in &inputs {
            let told = error(node.plugin(&with("CNI_COMMAND", command), input));
            assert!(told.0 == *code && told.1.contains(part), "{command}, {part}: {told:?}");
        }
    }
    assert_eq!(node.folder.names("state"), [""; 0]);
}

#[test]
fn wrong_variables_are_named() {
    let node = Node::with_plugin("");
    let input = node.configuration(json!({ "prevResult": {} }));
    for (variables, part) in [
        (with("CNI_COMMAND", "EXPLODE"), "CNI_COMMAND=`EXPLODE`"),
        (with("CNI_COMMAND", ""), "CNI_COMMAND=``"),
        (with("CNI_CONTAINERID", "../../etc/x"), "CNI_CONTAINERID=`../../etc/x`"),
        (with("CNI_CONTAINERID", ""), "CNI_CONTAINERID is missing"),
        (with("CNI_IFNAME", "a/b"), "CNI_IFNAME=`a/b`"),
        (with("CNI_NETNS", "relative"), "CNI_NETNS=`relative`"),
        (with("CNI_ARGS", "nonsense"), "CNI_ARGS has `nonsense`"),
    ] {
        let told = error(node.plugin(&variables, input.as_bytes()));
        assert!(told.0 == 4 && told.1.contains(part), "{part}: {told:?}");
    }
}

#[test]
fn what_add_needs_is_told_when_it_is_missing() {
    let node = Node::with_plugin("--mode ebpf");
    let pod = node.pod(asks("ebpf"));
    let add = |netns: &str, arguments: &str, more: Value| {
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "abc"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", netns),
            ("CNI_ARGS", arguments),
        ];
        error(node.plugin(&variables, node.configuration(more).as_bytes()))
    };
    let netns = format!("/run/netns/{}", pod.netns.name());
    let annotated =
        |mode| json!({ "prevResult": {}, "runtimeConfig": { "io.kubernetes.cri.pod-annotations": asks(mode) } });
    let all = arguments(&pod);
    for (told, code, part) in [
        (add(&netns, &all, json!({})), 7, "prevResult is missing"),
        (add(&netns, &all, json!({ "prevResult": {} })), 7, "the runtime handed over no pod annotations"),
        (
            add("/run/netns/heddle-none", &all, annotated("ebpf")),
            8,
            "cannot open the network namespace /run/netns/heddle-none",
        ),
        (add("/proc/self/status", &all, annotated("ebpf")), 8, "/proc/self/status is not a network namespace"),
        (add("/proc/self/ns/mnt", &all, annotated("ebpf")), 8, "/proc/self/ns/mnt is not a network namespace"),
        (add("/proc/self/ns/net", &all, annotated("tproxy")), 8, "is the network namespace of heddle-init itself"),
        (add(&netns, "", annotated("ebpf")), 4, "K8S_POD_UID is not in CNI_ARGS"),
        (add(&netns, "K8S_POD_UID=../x", annotated("ebpf")), 7, "`../x` is not a UID"),
        (add(&netns, "K8S_POD_UID=0-0-0", annotated("ebpf")), 100, "no cgroup of pod 0-0-0"),
    ] {
        assert!(told.0 == code && told.1.contains(part), "{part}: {told:?}");
    }
    assert_eq!(node.folder.names("state"), [""; 0]);
    assert_eq!(node.pins(), [""; 0]);
}

#[test]
fn versions_are_told_even_to_who_says_none() {
    let node = Node::with_plugin("");
    for (input, version) in [("", "1.1.0"), ("{\"cniVersion\":\"0.3.1\"}", "0.3.1"), ("nonsense", "1.1.0")] {
        let told = node.plugin(&[("CNI_COMMAND", "VERSION")], input.as_bytes()).succeeds();
        let told: Value = serde_json::from_str(&told).expect("it is JSON");
        assert_eq!(told["cniVersion"], version);
        assert_eq!(told["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}

#[test]
fn newer_commands_are_refused_in_older_versions() {
    let node = Node::with_plugin("");
    for (command, version, is_known) in [("CHECK", "0.3.1", false), ("GC", "1.0.0", false), ("GC", "1.1.0", true)] {
        let input = node.configuration(json!({ "cniVersion": version }));
        let run = node.plugin(&with("CNI_COMMAND", command), input.as_bytes());
        if is_known {
            assert_eq!(run.succeeds(), "");
        } else {
            let told = error(run);
            assert!(told.0 == 1 && told.1.starts_with(&format!("{command} came with")), "{told:?}");
        }
    }
}

#[test]
fn status_says_what_the_node_lacks_for_its_mode() {
    let node = Node::with_plugin("");
    let status = |more: Value| node.plugin(&[("CNI_COMMAND", "STATUS")], node.configuration(more).as_bytes());
    for capture in [json!({ "mode": "tproxy" }), json!({ "mode": "ebpf" }), json!({ "guard": "on" })] {
        for _ in 0..2 {
            assert_eq!(status(json!({ "capture": capture })).succeeds(), "");
        }
    }
    assert_eq!(node.pins(), [""; 0]);
    let told = error(status(json!({ "capture": { "mode": "ebpf" }, "bpffs": node.folder.join("conf") })));
    assert!(told.0 == 50 && told.1.contains("conf is not a bpffs"), "{told:?}");
    let told = error(status(json!({ "capture": { "mode": "nat" } })));
    assert!(told.0 == 50 && told.1.contains("`nat` is not a mode"), "{told:?}");
}

//! The agent on a node: it repairs, captures late, sweeps, and leaves alone what is not ours.

use crate::{
    cni::{MODES, asks, assert_captured, assert_nothing_left, damage, node::Node},
    netns::run,
};
use serde_json::json;
use std::{fs, process::Command};

#[test]
fn what_is_removed_by_hand_is_repaired_and_what_is_not_ours_stays() {
    for mode in MODES {
        let node = Node::with_plugin("");
        let pod = node.pod(asks(mode));
        node.runtime("add", &pod).succeeds();
        pod.netns.run("nft add table inet foreign");
        pod.netns.run("ip rule add fwmark 0x1 lookup 100 priority 100");
        let agent = node.agent(mode, "");
        for round in 1..=2 {
            let missing = damage(&node, &pod, mode);
            let log = agent.says(&format!("repaired {round}"));
            assert!(log.contains("pod shop/web: repaired, because") && log.contains(missing), "{log}");
            node.runtime("check", &pod).succeeds();
        }
        assert!(pod.ruleset().contains("table inet foreign"), "{}", pod.ruleset());
        assert!(pod.netns.run("ip rule").contains("fwmark 0x1 lookup 100"));
        node.runtime("del", &pod).succeeds();
        pod.netns.run("nft delete table inet foreign");
        assert_nothing_left(&node, &pod);
        assert_eq!(agent.end(), Some(0));
    }
}

#[test]
fn a_whole_table_and_all_pins_come_back() {
    for mode in MODES {
        let node = Node::with_plugin("");
        let pod = node.pod(asks(mode));
        node.runtime("add", &pod).succeeds();
        let agent = node.agent(mode, "");
        if mode == "tproxy" {
            pod.netns.run("nft flush ruleset");
        } else {
            fs::remove_dir_all(node.folder.join("bpf/heddle")).expect("it is there");
        }
        agent.says("repaired 1");
        node.runtime("check", &pod).succeeds();
        assert_captured(&node, &pod, mode);
    }
}

#[test]
fn a_pod_that_started_before_the_plugin_is_captured_and_another_is_not() {
    for mode in MODES {
        let node = Node::bare("1.1.0");
        let (asking, silent) = (node.pod(asks(mode)), node.pod(json!({ "a": "b" })));
        // Without the plugin the runtime hands annotations to nobody, but keeps them.
        node.runtime("add", &asking).succeeds();
        node.runtime("add", &silent).succeeds();
        assert_nothing_left(&node, &asking);
        let agent = node.agent(mode, "--install");
        let log = agent.says("pod shop/web: captured late, it started before the plugin was in place");
        assert!(log.contains("put heddle-init into"), "{log}");
        assert_captured(&node, &asking, mode);
        assert_eq!(silent.ruleset(), "");
        // From here on it is a pod like others.
        damage(&node, &asking, mode);
        agent.says("repaired 1");
        node.runtime("check", &asking).succeeds();
        node.runtime("del", &asking).succeeds();
        node.runtime("del", &silent).succeeds();
        assert_nothing_left(&node, &asking);
        assert!(agent.log().contains("captured late 1"), "{}", agent.log());
        assert_eq!(agent.end(), Some(0));
        assert_nothing_left(&node, &asking);
    }
}

#[test]
fn what_a_dead_pod_left_is_swept_and_a_live_ones_pins_are_not() {
    let node = Node::with_plugin("");
    let (dies, lives) = (node.pod(asks("ebpf")), node.pod(asks("ebpf")));
    node.runtime("add", &dies).succeeds();
    node.runtime("add", &lives).succeeds();
    // As an init container leaves a pod: no record.
    let unrecorded = node.pod(asks("ebpf"));
    node.runtime("add", &unrecorded).succeeds();
    let records = |uid: &str| {
        let names = node.folder.names("state").into_iter();
        names.filter(|name| node.folder.read(&format!("state/{name}")).contains(uid)).collect::<Vec<_>>()
    };
    fs::remove_file(node.folder.join("state").join(&records(&unrecorded.uid)[0])).expect("it is there");
    // Nor does its runtime know of it.
    let results = node.folder.names("cache/results").into_iter().map(|name| format!("cache/results/{name}"));
    let result = results.into_iter().find(|name| node.folder.read(name).contains(&unrecorded.uid));
    fs::remove_file(node.folder.join(&result.expect("libcni keeps it"))).expect("it is there");
    let agent = node.agent("ebpf", "");
    // The network namespace alone: the pod's cgroup lives, and with it what captures. That is no dead pod.
    let (uid, netns) = (dies.uid.clone(), dies.netns);
    drop(netns);
    agent.says("its network namespace is gone, but");
    assert!(node.pins().contains(&uid));
    fs::remove_dir(node.cgroup(&uid)).expect("no process is in it");
    agent.says("swept 1");
    let gone = unrecorded.uid.clone();
    drop(unrecorded.netns);
    fs::remove_dir(node.cgroup(&gone)).expect("no process is in it");
    agent.says("swept 2");
    assert_eq!(node.pins(), [lives.uid.as_str()]);
    assert_eq!(node.folder.names("state"), records(&lives.uid));
    node.runtime("check", &lives).succeeds();
    assert_eq!(agent.end(), Some(0));
    assert_captured(&node, &lives, "ebpf");
}

#[test]
fn a_record_of_a_pod_whose_namespace_is_gone_is_swept() {
    let node = Node::with_plugin("");
    let pod = node.pod(asks("tproxy"));
    node.runtime("add", &pod).succeeds();
    let agent = node.agent("tproxy", "");
    drop(pod);
    agent.says("pod shop/web: is gone");
    assert_eq!(node.folder.names("state"), [""; 0]);
}

#[test]
fn one_that_fails_does_not_stop_the_others_and_is_told_once() {
    let node = Node::with_plugin("");
    let pod = node.pod(asks("tproxy"));
    node.runtime("add", &pod).succeeds();
    node.folder.write("state/0broken.json", "{");
    node.folder.write("state/1newer.json", "{\"schema\":2}");
    fs::create_dir(node.folder.join("cache/results/x")).expect("the runtime made the folder");
    node.folder.write("cache/results/broken", "{");
    let agent = node.agent("tproxy", "");
    for round in 1..=3 {
        damage(&node, &pod, "tproxy");
        agent.says(&format!("repaired {round}"));
    }
    let log = agent.log();
    for part in ["0broken.json is not a record", "its schema is 2", "results/broken is not a CNI result"] {
        assert_eq!(log.matches(part).count(), 1, "{part}: {log}");
    }
    assert_eq!(agent.end(), Some(0));
}

#[test]
fn the_agent_has_the_rights_it_needs_or_says_which() {
    let node = Node::with_plugin("");
    let pod = node.pod(asks("ebpf"));
    node.runtime("add", &pod).succeeds();
    damage(&node, &pod, "ebpf");
    let agent = node.agent_with("-all,+net_admin,+bpf", "ebpf", "");
    agent.says("that needs CAP_SYS_ADMIN");
    drop(agent);
    let agent = node.agent_with("-all,+sys_admin", "ebpf", "");
    agent.says("CAP_NET_ADMIN is missing");
    drop(agent);
    let agent = node.agent("ebpf", "");
    agent.says("repaired 1");
    assert_eq!(agent.end(), Some(0));
}

#[test]
fn wrong_options_are_told_at_once() {
    let node = Node::bare("1.1.0");
    let fails = |options: &[&str], code: i32, part: &str| {
        let output = Command::new(crate::cni::node::BINARY).args(node.options("agent")).args(options).output();
        let output = output.expect("it was built");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && told.contains(part), "{part}: {output:?}");
    };
    fails(&["--interval", "1"], 2, "cannot be used multiple times");
    fails(&["--mode", "nat"], 1, "`nat` is not a mode");
    fails(&["--pod-uid", "1-2"], 1, "--pod-uid: every pod has its own");
    fails(&["--install", "--exclude-inbound-ports", "x"], 1, "`x` is not a port");
    run(Command::new("rm").arg("-r").arg(node.folder.join("conf")));
    fails(&["--install"], 1, "cannot watch");
}

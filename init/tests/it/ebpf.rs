//! Mode `ebpf` of the built program: what it puts in place, finds missing, refuses and takes away, with exactly its rights.

use crate::{cni::node::cgroup_mount, netns::run, pod::Pod, pod::Run};
use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// A pod with a cgroup as a kubelet makes it, one of a container in it, and a bpffs.
struct Captured {
    pod: Pod,
    uid: String,
    cgroup: PathBuf,
    bpffs: PathBuf,
}

impl Captured {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let uid = format!("eb9f-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let cgroup = cgroup_mount().join(format!("heddle-ebpf-{uid}")).join(format!("pod{uid}"));
        fs::create_dir_all(cgroup.join("init")).expect("these tests need root, and a cgroup2 that is mounted");
        let bpffs = std::env::temp_dir().join(format!("heddle-bpf-{uid}"));
        fs::create_dir(&bpffs).expect("the folder for temporary files takes a folder");
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs));
        Self { pod: Pod::new(), uid, cgroup, bpffs }
    }

    /// Runs `heddle-init` as an init container of the pod.
    fn init(&self, line: &str) -> Run {
        self.init_with("+bpf,+net_admin", &format!("{line} --mode ebpf --bpffs {}", self.bpffs.display()))
    }

    fn init_with(&self, capabilities: &str, line: &str) -> Run {
        let into = "echo $$ > \"$0\" && exec \"$@\"";
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.pod.inside.name()))
            .args(["sh", "-c", into])
            .arg(self.cgroup.join("init/cgroup.procs"))
            .args([
                "setpriv",
                &format!("--bounding-set=-all,{capabilities}"),
                "--inh-caps=-all",
                "--no-new-privs",
                "--",
            ])
            .arg(env!("CARGO_BIN_EXE_heddle-init"))
            .args(line.split_whitespace());
        Run::of(&mut command)
    }

    fn pins(&self) -> PathBuf {
        self.bpffs.join("heddle").join(&self.uid)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.pins()).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn links(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.starts_with("link_")).collect()
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(&self.bpffs).output();
        let _ = fs::remove_dir(&self.bpffs);
        for path in [self.cgroup.join("init"), self.cgroup.join("app"), self.cgroup.clone()] {
            let _ = fs::remove_dir(path);
        }
        if let Some(parent) = self.cgroup.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

#[test]
fn the_pods_cgroup_is_found_and_both_families_are_proved() {
    let captured = Captured::new();
    captured.init("apply").succeeds();
    // Its name came from the directory above that of our own container.
    assert!(captured.pins().is_dir());
    let told = captured.init("verify").succeeds();
    for probe in ["192.0.2.1:9", "[2001:db8::1]:9"] {
        let refused = format!("{probe}: a connection was captured, and refused, since the proxy does not listen");
        assert!(told.contains(&refused), "{refused:?} is not in:\n{told}");
    }
    assert_eq!(captured.pod.inside.run("nft list ruleset"), "");
}

#[test]
fn a_second_apply_changes_no_link() {
    let captured = Captured::new();
    captured.init("apply").succeeds();
    let before = captured.names();
    let count = |captured: &Captured| {
        run(Command::new("bpftool").args(["cgroup", "show"]).arg(&captured.cgroup)).lines().count()
    };
    let attached = count(&captured);
    captured.init(&format!("apply --pod-uid {}", captured.uid)).succeeds();
    assert_eq!((captured.names(), count(&captured)), (before, attached));
    assert_eq!(attached - 1, captured.links().len() - 1, "a heading, and all links but that on the namespace");
}

#[test]
fn options_that_change_are_taken_over() {
    let captured = Captured::new();
    captured.init("apply --dns --exclude-outbound-cidrs 10.0.0.0/8 --exclude-inbound-ports 22").succeeds();
    assert!(captured.links().contains(&"link_recvmsg4".to_owned()));
    let stderr = captured.init("verify").fails();
    for expected in [
        "program recvmsg4 is attached and not planned",
        "map settings has not the planned flags and addresses",
        "map out_networks has not the planned entries",
        "map in_ports has not the planned entries",
    ] {
        assert!(stderr.contains(expected), "{expected:?} is not in:\n{stderr}");
    }
    captured.init("apply").succeeds();
    captured.init("verify").succeeds();
    assert!(!captured.links().contains(&"link_recvmsg4".to_owned()));
}

#[test]
fn every_program_is_missed_and_comes_back() {
    let captured = Captured::new();
    captured.init("apply --dns").succeeds();
    for link in captured.links() {
        fs::remove_file(captured.pins().join(&link)).expect("it is there");
        let stderr = captured.init("verify --dns").fails();
        let name = link.trim_start_matches("link_");
        let reason = format!("program {name} is not attached: its link is gone");
        assert!(stderr.contains(&reason), "{reason:?} is not in:\n{stderr}");
        captured.init("apply --dns").succeeds();
        captured.init("verify --dns").succeeds();
    }
}

#[test]
fn undo_leaves_nothing_whatever_the_mode() {
    let captured = Captured::new();
    for mode in ["ebpf", "tproxy"] {
        captured.init("apply").succeeds();
        let undo = format!("undo --mode {mode} --pod-uid {} --bpffs {}", captured.uid, captured.bpffs.display());
        captured.init_with("+bpf,+net_admin", &undo).succeeds();
        assert!(!captured.pins().exists(), "after undo --mode {mode}");
        let attached = run(Command::new("bpftool").args(["cgroup", "show"]).arg(&captured.cgroup));
        assert_eq!(attached.lines().filter(|line| line.contains("multi")).count(), 0, "{attached}");
    }
    captured.init("undo").succeeds();
}

#[test]
fn the_guard_goes_beside_nftables() {
    let captured = Captured::new();
    let options = format!("--guard on --bpffs {}", captured.bpffs.display());
    captured.init_with("+bpf,+net_admin", &format!("apply {options}")).succeeds();
    captured.init_with("+bpf,+net_admin", &format!("verify {options}")).succeeds();
    assert!(captured.links().contains(&"link_egress".to_owned()));
    assert!(!captured.links().contains(&"link_sk_lookup".to_owned()));
    captured.init_with("+bpf,+net_admin", &format!("undo {options}")).succeeds();
    assert!(!captured.pins().exists());
}

#[test]
fn what_is_missing_is_named() {
    let captured = Captured::new();
    let bpffs = captured.bpffs.display().to_string();
    let cases = [
        ("+net_admin", format!("--mode ebpf --bpffs {bpffs}"), "CAP_BPF is missing"),
        ("+bpf", format!("--mode ebpf --bpffs {bpffs}"), "CAP_NET_ADMIN is missing"),
        ("+bpf,+net_admin", "--mode ebpf --bpffs /tmp".to_owned(), "/tmp is not a bpffs"),
        (
            "+bpf,+net_admin",
            format!("--mode ebpf --bpffs {bpffs} --pod-uid 00000000-none"),
            "no cgroup of pod 00000000-none is under",
        ),
        ("+bpf,+net_admin", format!("--mode ebpf --bpffs {bpffs} --cgroup /tmp"), "/tmp is not a directory of cgroup2"),
    ];
    for (capabilities, options, expected) in cases {
        let stderr = captured.init_with(capabilities, &format!("apply {options}")).fails();
        assert!(stderr.contains(expected), "{expected:?} is not in:\n{stderr}");
        assert_eq!(captured.names(), Vec::<String>::new(), "after {options}");
    }
}

#[test]
fn pins_of_another_version_are_left_alone() {
    let captured = Captured::new();
    captured.init("apply").succeeds();
    let settings = captured.pins().join("settings");
    let mut update = Command::new("bpftool");
    update.args(["map", "update", "pinned"]).arg(&settings).args(["key", "0", "0", "0", "0", "value", "99"]);
    run(update.args(vec!["0"; 39]));
    let stderr = captured.init("apply").fails();
    assert!(stderr.contains("was made by another version of heddle-init (records of version 99, not 1)"), "{stderr}");
    assert!(!captured.links().is_empty(), "what captures goes on capturing");
}

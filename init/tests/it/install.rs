//! The installer and the node's lists.

use crate::{
    cni::{
        asks,
        node::{BINARY, Folder, Node, wait_for},
    },
    netns::run,
    pod::Run,
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::{Child, Command, Stdio},
};

/// A list as flannel writes it, with what nobody knows.
const FLANNEL: &str = "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\n      \"type\": \"flannel\",\n      \
    \"delegate\": {\n        \"hairpinMode\": true,\n        \"isDefaultGateway\": true\n      }\n    },\n    {\n      \"type\": \"portmap\",\n      \
    \"capabilities\": {\n        \"portMappings\": true\n      }\n    }\n  ],\n  \"x-unknown\": 12345678901234567890123\n}\n";
const COMPACT: &str =
    "{\"cniVersion\":\"1.0.0\",\"name\":\"k8s\",\"plugins\":[{\"type\":\"calico\"},{\"type\":\"bandwidth\"}]}";
const SINGLE: &str = "{ \"cniVersion\": \"0.4.0\", \"name\": \"crio\", \"type\": \"bridge\", \"ipam\": {} }\n";

struct Places(Folder);

impl Places {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Folder::new();
        for name in ["conf", "bin"] {
            fs::create_dir(folder.join(name)).expect("the folder is new");
        }
        for (name, text) in files {
            folder.write(&format!("conf/{name}"), text);
        }
        Self(folder)
    }

    fn command(&self, options: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("install");
        for (option, name) in
            [("--cni-bin", "bin"), ("--cni-conf", "conf"), ("--state-directory", "state"), ("--cni-cache", "cache")]
        {
            command.arg(option).arg(self.0.join(name));
        }
        command.args(options.split_whitespace());
        command
    }

    fn install(&self, options: &str) -> Run {
        Run::of(&mut self.command(options))
    }

    /// The types of the plugins in a list.
    fn plugins(&self, name: &str) -> Vec<String> {
        let text = self.0.read(&format!("conf/{name}"));
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
        let plugins = list["plugins"].as_array().expect("a list has plugins").iter();
        plugins.map(|plugin| plugin["type"].as_str().expect("a plugin has a type").to_owned()).collect()
    }

    fn has_ours(&self, name: &str) -> bool {
        fs::read_to_string(self.0.join(&format!("conf/{name}"))).is_ok_and(|text| text.contains("heddle-init"))
    }

    /// Starts `install --watch`. Its output goes to a file.
    fn watch(&self) -> Watching<'_> {
        let log = fs::File::create(self.0.join("log")).expect("the folder is there");
        let mut command = self.command("--watch");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be opened twice")).stderr(log);
        Watching { child: command.spawn().expect("it was built"), places: self }
    }
}

struct Watching<'a> {
    child: Child,
    places: &'a Places,
}

impl Watching<'_> {
    fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        wait_for(what, || condition().then_some(()), || self.places.0.read("log"));
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_plugin_comes_last_and_its_removal_leaves_every_byte_as_it_was() {
    for text in [FLANNEL, COMPACT] {
        let places = Places::new(&[("10-net.conflist", text), ("20-later.conflist", COMPACT), ("README", "")]);
        let list = places.0.join("conf/10-net.conflist");
        fs::set_permissions(&list, fs::Permissions::from_mode(0o640)).expect("it is ours");
        let told = places.install("--mode ebpf --exclude-inbound-ports 22").succeeds();
        assert!(told.contains("put heddle-init into") && told.contains("10-net.conflist"), "{told}");
        assert_eq!(places.plugins("10-net.conflist").last().map(String::as_str), Some("heddle-init"));
        assert!(!places.has_ours("20-later.conflist"), "the runtime takes the first alone");
        assert_eq!(fs::metadata(&list).expect("it is there").permissions().mode() & 0o777, 0o640);
        let binary = places.0.join("bin/heddle-init");
        assert_eq!(fs::metadata(&binary).expect("it is there").permissions().mode() & 0o777, 0o755);
        assert!(fs::read(&binary).expect("it is there") == fs::read(BINARY).expect("it is there"));
        assert!(places.install("--mode ebpf --exclude-inbound-ports 22").succeeds().contains("in place already"));
        // Other options replace the former ones.
        places.install("--select all").succeeds();
        let text_now = places.0.read("conf/10-net.conflist");
        assert!(text_now.contains("\"select\":\"all\"") && text_now.matches("heddle-init").count() == 1, "{text_now}");
        places.install("--remove").succeeds();
        assert_eq!(places.0.read("conf/10-net.conflist"), text);
        assert_eq!(places.0.names("bin"), [""; 0]);
        assert_eq!(places.0.names("conf"), ["10-net.conflist", "20-later.conflist", "README"]);
        assert!(places.install("--remove").succeeds().contains("nothing of heddle-init was there"));
    }
}

#[test]
fn a_single_plugins_configuration_becomes_a_list_and_is_given_back() {
    let places = Places::new(&[("10-crio.conf", SINGLE), ("10-crio.conflist", COMPACT), ("99-loopback.conf", "{}")]);
    places.install("").succeeds();
    assert_eq!(places.plugins("10-crio.conf.conflist"), ["bridge", "heddle-init"]);
    assert!(!places.0.join("conf/10-crio.conf").exists(), "the runtime would take it first");
    assert!(!places.has_ours("10-crio.conflist"));
    assert!(places.install("").succeeds().contains("in place already"));
    // The other CNI writes its file again.
    places.0.write("conf/10-crio.conf", &SINGLE.replace("bridge", "ptp"));
    places.install("").succeeds();
    assert_eq!(places.plugins("10-crio.conf.conflist"), ["ptp", "heddle-init"]);
    places.install("--remove").succeeds();
    assert_eq!(places.0.read("conf/10-crio.conf"), SINGLE.replace("bridge", "ptp"));
    assert_eq!(places.0.names("conf"), ["10-crio.conf", "10-crio.conflist", "99-loopback.conf"]);
}

#[test]
fn a_list_of_a_certain_name_can_be_asked_for() {
    let places = Places::new(&[("10-net.conflist", COMPACT), ("20-net.conflist", FLANNEL), ("30-net.conf", SINGLE)]);
    places.install("--conflist 20-net.conflist").succeeds();
    assert!(places.has_ours("20-net.conflist") && !places.has_ours("10-net.conflist"));
    // Asked for another one, it leaves the first as it was.
    for _ in 0..2 {
        places.install("--conflist 30-net.conf").succeeds();
        assert_eq!(places.plugins("30-net.conf.conflist"), ["bridge", "heddle-init"]);
        assert_eq!(places.0.read("conf/20-net.conflist"), FLANNEL);
    }
    let told = places.install("--conflist 40-net.conflist").fails();
    assert!(told.contains("yet that is called 40-net.conflist"), "{told}");
}

#[test]
fn a_link_stays_a_link() {
    let places = Places::new(&[]);
    places.0.write("real", FLANNEL);
    symlink(places.0.join("real"), places.0.join("conf/10-net.conflist")).expect("the folder is there");
    places.install("").succeeds();
    assert!(fs::symlink_metadata(places.0.join("conf/10-net.conflist")).expect("it is there").is_symlink());
    assert!(places.0.read("real").contains("heddle-init"));
    places.install("--remove").succeeds();
    assert_eq!(places.0.read("real"), FLANNEL);
}

#[test]
fn what_cannot_be_used_is_told_and_left_alone() {
    let fails = |files: &[(&str, &str)], part: &str| {
        let places = Places::new(files);
        let told = places.install("").fails();
        assert!(told.contains(part), "{part:?} is not in {told}");
        for (name, text) in files {
            assert_eq!(places.0.read(&format!("conf/{name}")), *text);
        }
    };
    let loopback = "{\"cniVersion\":\"0.3.1\",\"name\":\"lo\",\"type\":\"loopback\"}";
    fails(&[], "no network configuration is in");
    fails(&[("99-loopback.conf", loopback)], "no network configuration is in");
    fails(
        &[("10-a.conflist", "{\"name\":"), ("20-b.conflist", COMPACT)],
        "10-a.conflist: it is not a network configuration",
    );
    fails(
        &[("10-a.conflist", "{\"name\":\"a\",\"cniVersion\":\"1.0.0\"}")],
        "10-a.conflist: it has no plugins of its own",
    );
    fails(&[("10-a.conflist", &COMPACT.replace("1.0.0", "0.2.0"))], "its cniVersion is `0.2.0`");
    let places = Places::new(&[("10-a.conflist", COMPACT)]);
    fs::remove_dir(places.0.join("bin")).expect("it is empty");
    let told = places.install("").fails();
    assert!(
        told.contains("cannot write") && !places.has_ours("10-a.conflist"),
        "no list names a binary that is not there: {told}"
    );
}

#[test]
fn watching_waits_for_a_list_and_puts_back_what_others_take_away() {
    let places = Places::new(&[]);
    let mut watching = places.watch();
    watching.wait_for("the message that there is no list", || {
        places.0.read("log").contains("no network configuration is in")
    });
    // Another CNI writes in pieces.
    places.0.write("conf/10-net.conflist", &FLANNEL[..40]);
    watching.wait_for("the message about half a list", || {
        places.0.read("log").contains("it is not a network configuration")
    });
    places.0.write("conf/10-net.conflist", FLANNEL);
    watching.wait_for("the plugin", || places.has_ours("10-net.conflist"));
    for text in [COMPACT, FLANNEL] {
        places.0.write("conf/new", text);
        fs::rename(places.0.join("conf/new"), places.0.join("conf/10-net.conflist")).expect("both are there");
        watching.wait_for("the plugin in the new list", || places.has_ours("10-net.conflist"));
    }
    fs::remove_file(places.0.join("bin/heddle-init")).expect("it is there");
    watching.wait_for("the binary", || places.0.join("bin/heddle-init").exists());
    // One that the runtime takes before it.
    places.0.write("conf/05-net.conflist", COMPACT);
    watching.wait_for("the plugin in the first list", || places.has_ours("05-net.conflist"));
    watching.wait_for("the second list as it was", || places.0.read("conf/10-net.conflist") == FLANNEL);
    run(Command::new("kill").arg(watching.child.id().to_string()));
    assert_eq!(watching.child.wait().expect("it is our child").code(), Some(0));
    assert!(places.has_ours("05-net.conflist"), "who ends leaves everything in place");
}

#[test]
fn the_binary_stays_while_pods_are_there_that_it_captured() {
    let node = Node::with_plugin("");
    let pod = node.pod(asks("tproxy"));
    node.runtime("add", &pod).succeeds();
    let remove = || Run::of(Command::new(BINARY).args(node.options("install")).arg("--remove")).succeeds();
    let told = remove();
    assert!(
        told.contains("kept") && told.contains("1 pods of this node were started with it and 1 are captured"),
        "{told}"
    );
    assert!(!node.folder.read("conf/10-mesh.conflist").contains("heddle-init"));
    assert_eq!(node.folder.names("bin"), ["heddle-init"]);
    fs::remove_dir_all(node.folder.join("state")).expect("it is there");
    assert!(remove().contains("1 pods of this node were started with it and 0 are captured"));
    // The list has our plugin no more, so that the runtime's library ends the pod without it.
    node.runtime("del", &pod).succeeds();
    assert!(remove().contains("removed"));
    assert_eq!(node.folder.names("bin"), [""; 0]);
}

//! A node, as far as CNI is concerned: folders for its configuration, state and cache, a network namespace with the bridge in
//! it, a bpffs, and the cgroups of its pods. All of it is ours and goes with the value.

use super::tools;
use crate::{
    netns::{Namespace, run},
    pod::Run,
};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_heddle-init");

/// A network of one bridge, in the version that most of today's lists are written in, and with what tests need.
pub(crate) const BRIDGE: &str = r#"{
  "cniVersion": "CNI_VERSION",
  "name": "mesh",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "DATA",
        "ranges": [[{"subnet": "10.79.0.0/24"}], [{"subnet": "fd79::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    }
  ]
}
"#;

/// A folder that goes with its value, with all that is mounted in it.
pub(crate) struct Folder(PathBuf);

/// A node.
pub(crate) struct Node {
    host: Namespace,
    pub(crate) folder: Folder,
    cgroups: PathBuf,
}

/// A pod of it: a network namespace, and for the runtime a UID and annotations.
pub(crate) struct Sandbox {
    pub(crate) netns: Namespace,
    pub(crate) uid: String,
    pub(crate) annotations: Value,
}

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("heddle-cni-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("the folder for temporary files takes a folder");
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.join(name), text).expect("the folder is there");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The names in one of its folders, in order; none when it is not there.
    pub(crate) fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.join(name)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(self.join("bpf")).output();
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Node {
    /// A node with its network, without the plugin.
    pub(crate) fn bare(cni_version: &str) -> Self {
        let folder = Folder::new();
        for name in ["conf", "bin", "cache", "data", "bpf"] {
            fs::create_dir(folder.join(name)).expect("the folder is new");
        }
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.join("bpf")));
        let data = folder.join("data");
        let list = BRIDGE.replace("CNI_VERSION", cni_version).replace("DATA", &data.display().to_string());
        folder.write("conf/10-mesh.conflist", &list);
        let cgroups = cgroup_mount().join(folder.0.file_name().expect("it has a name"));
        fs::create_dir(&cgroups).expect("these tests need root, and a cgroup2 that is mounted");
        Self { host: Namespace::new(), folder, cgroups }
    }

    /// A node with the plugin in its list, and these options of `install`.
    pub(crate) fn with_plugin(options: &str) -> Self {
        let node = Self::bare("1.1.0");
        node.install(options);
        node
    }

    pub(crate) fn install(&self, options: &str) {
        Run::of(Command::new(BINARY).args(self.options("install")).args(options.split_whitespace())).succeeds();
    }

    /// A command of `heddle-init` with the options that say where this node has everything.
    pub(crate) fn options(&self, command: &str) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut words = vec![command.to_owned()];
        let places = [
            ("cni-bin", "bin"),
            ("cni-conf", "conf"),
            ("cni-cache", "cache"),
            ("state-directory", "state"),
            ("bpffs", "bpf"),
        ];
        words.extend(places.iter().flat_map(|(option, name)| [format!("--{option}"), path(name)]));
        if command == "agent" {
            words.extend(["--interval".to_owned(), "100ms".to_owned()]);
        }
        words
    }

    /// A pod whose annotations are these, with a cgroup as a kubelet makes it.
    pub(crate) fn pod(&self, annotations: Value) -> Sandbox {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let uid = format!("0d15ea5e-{}-{number}", std::process::id());
        fs::create_dir_all(self.cgroup(&uid)).expect("cgroups can be made");
        Sandbox { netns: Namespace::new(), uid, annotations }
    }

    /// The cgroup of a pod.
    pub(crate) fn cgroup(&self, uid: &str) -> PathBuf {
        self.cgroups.join("kubepods").join(format!("pod{uid}"))
    }

    /// What a runtime does with a pod, by its CNI library: `add`, `check`, `del`.
    pub(crate) fn runtime(&self, command: &str, pod: &Sandbox) -> Run {
        let netns = format!("/run/netns/{}", pod.netns.name());
        let mut tool = self.in_host(&[
            tools::folder().join("cnitool").display().to_string(),
            command.to_owned(),
            "mesh".to_owned(),
            netns,
        ]);
        let capabilities = serde_json::json!({ "io.kubernetes.cri.pod-annotations": pod.annotations });
        tool.env("NETCONFPATH", self.folder.join("conf"))
            .env("CNI_PATH", format!("{}:{}", self.folder.join("bin").display(), tools::folder().display()))
            .env("CAP_ARGS", capabilities.to_string())
            .env("CNI_ARGS", arguments(pod));
        Run::of(&mut tool)
    }

    /// A command on the node's network, where `/var/lib/cni`, which libcni's cache is in, is this node's.
    fn in_host(&self, words: &[String]) -> Command {
        let script =
            "mount -t tmpfs none /var/lib && mkdir /var/lib/cni && mount --bind \"$0\" /var/lib/cni && exec \"$@\"";
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.host.name()))
            .args(["unshare", "--mount", "--propagation", "private", "sh", "-c", script])
            .arg(self.folder.join("cache"))
            .args(words);
        command
    }

    /// The plugin itself, called with these variables and this on standard input.
    pub(crate) fn plugin(&self, variables: &[(&str, &str)], input: &[u8]) -> Run {
        let mut command = Command::new(BINARY);
        command.env_clear().envs(variables.iter().copied());
        with_input(command, input)
    }

    /// The network's configuration as a runtime hands it to our plugin, with more keys.
    pub(crate) fn configuration(&self, more: Value) -> String {
        let list: Value = serde_json::from_str(&self.folder.read("conf/10-mesh.conflist")).expect("it is JSON");
        let mut plugin = list["plugins"].as_array().expect("a list").last().expect("ours is in it").clone();
        for (key, value) in [("name", &list["name"]), ("cniVersion", &list["cniVersion"])] {
            plugin[key] = value.clone();
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            plugin[key] = value.clone();
        }
        plugin.to_string()
    }

    /// Starts the agent with exactly the rights that it needs.
    pub(crate) fn agent(&self, mode: &str, options: &str) -> Agent<'_> {
        self.agent_with("-all,+net_admin,+sys_admin", mode, options)
    }

    /// Starts the agent with these rights. Its output goes to a file.
    pub(crate) fn agent_with(&self, rights: &str, mode: &str, options: &str) -> Agent<'_> {
        let log = fs::File::create(self.folder.join("agent.log")).expect("the folder is there");
        let child = Command::new("setpriv")
            .args([&format!("--bounding-set={rights}"), "--inh-caps=-all", "--", BINARY])
            .args(self.options("agent"))
            .args(["--mode", mode])
            .args(options.split_whitespace())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("setpriv is installed");
        Agent { child, node: self }
    }

    /// The pins that are in this node's bpffs.
    pub(crate) fn pins(&self) -> Vec<String> {
        self.folder.names("bpf/heddle")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        remove_cgroups(&self.cgroups);
    }
}

impl Sandbox {
    /// What nftables has in this pod.
    pub(crate) fn ruleset(&self) -> String {
        self.netns.run("nft list ruleset")
    }
}

/// A running agent.
pub(crate) struct Agent<'a> {
    child: Child,
    node: &'a Node,
}

impl Agent<'_> {
    pub(crate) fn log(&self) -> String {
        self.node.folder.read("agent.log")
    }

    /// Waits until its log says this.
    pub(crate) fn says(&self, part: &str) -> String {
        wait_for(
            &format!("{part:?} in the agent's log"),
            || self.log().contains(part).then(|| self.log()),
            || self.log(),
        )
    }

    /// Ends it as Kubernetes does; its exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        run(Command::new("kill").arg(self.child.id().to_string()));
        self.child.wait().expect("it is our child").code()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until there is an answer. When there is none in time, tells what was waited for and how things are.
pub(crate) fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>, state: impl Fn() -> String) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}:\n{}", state());
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
}

/// Runs a command with this on its standard input.
pub(crate) fn with_input(mut command: Command, input: &[u8]) -> Run {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let output = child.wait_with_output().expect("it is our child");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Run { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// What Kubernetes' runtimes say of a pod.
pub(crate) fn arguments(pod: &Sandbox) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID={}",
        pod.uid
    )
}

/// Where cgroup2 is mounted.
pub(crate) fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 is mounted");
    line.split(' ').nth(4).expect("a mount has a place").into()
}

fn remove_cgroups(at: &Path) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(at);
}

/// Between two looks at what changes by itself.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Longest wait for what takes a second.
const DEADLINE: Duration = Duration::from_secs(20);

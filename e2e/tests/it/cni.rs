//! A pod without an init container: the CNI plugin captures it, driven by the CNI project's own library, and the agent keeps it so.

use crate::support::{PLAIN_MARKER, soon};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{
    App, Mode, Pod, TestMesh,
    mesh::PROXY_UID,
    process::{Launch, Process, Rights},
    program,
};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

scenarios! {
    a_pod_that_the_plugin_captured_is_in_the_mesh,
    the_agent_repairs_what_was_removed_in_both_directions,
}

fn a_pod_that_the_plugin_captured_is_in_the_mesh(mesh: &TestMesh) -> Result<()> {
    mesh.pod("web").serve(App::Nginx)?;
    let client = mesh.pod("client").uncaptured().start()?;
    let node = Node::prepare(mesh)?;
    node.runtime("add", &client)?;
    node.runtime("check", &client)?;
    client.proxy().start()?;
    check_rights(mesh, &client)?;

    let wire = client.capture()?;
    let reply = client.curl(&format!("http://{}/", mesh.service("web", 80)))?;
    ensure!(reply.body.contains(PLAIN_MARKER), "{reply:?}");
    wire.finish()?.check_encrypted(PLAIN_MARKER)?;
    let seen = client.curl(&format!("http://{}/peer", mesh.service("web", 80)))?.body;
    ensure!(seen.trim() == client.address().to_string(), "nginx saw {seen}");

    client.proxy().terminate()?;
    node.runtime("del", &client)?;
    ensure!(node.runtime("check", &client).is_err(), "CHECK passes after DEL");
    ensure!(ruleset(&client)?.trim().is_empty(), "{}", ruleset(&client)?);
    let pins = mesh.folder().join("bpf/heddle").join(client.uid());
    ensure!(!pins.exists(), "DEL left {}", pins.display());
    let left = fs::read_dir(node.folder.join("state"))?.count();
    ensure!(left == 0, "DEL left {left} records of pods");
    Ok(())
}

fn the_agent_repairs_what_was_removed_in_both_directions(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").uncaptured().ports(&[80]).start()?;
    let client = mesh.pod("client").start()?;
    let node = Node::prepare(mesh)?;
    node.runtime("add", &web)?;
    web.proxy().start()?;
    web.run_app(App::Nginx)?;
    let _agent = node.agent()?;
    let url = format!("http://{}/", mesh.service("web", 80));
    ensure!(client.curl(&url)?.body.contains(PLAIN_MARKER));

    // What captures inbound connections, which no probe of the proxy sees.
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let direct = format!("http://{}/", web.at(80));
    ensure!(!stranger.curl(&direct)?.body.contains(PLAIN_MARKER), "strict mTLS lets a stranger in");
    remove_inbound(mesh, &web)?;
    let mut was_open = false;
    let begun = Instant::now();
    soon("the agent's repair", || {
        let open = stranger.curl(&direct)?.body.contains(PLAIN_MARKER);
        was_open |= open;
        Ok(!open && node.runtime("check", &web).is_ok())
    })?;
    println!("inbound capture was open: {was_open}; repaired after {:?}", begun.elapsed());
    ensure!(client.curl(&url)?.body.contains(PLAIN_MARKER), "the mesh does not work after the repair");
    Ok(())
}

/// Removes what hands inbound connections to the proxy.
fn remove_inbound(mesh: &TestMesh, pod: &Pod) -> Result<()> {
    match mesh.mode() {
        Mode::Tproxy => {
            pod.exec_as(Rights::Harness, &["nft", "delete", "table", "inet", "heddle"])?.success().map(|_| ())
        }
        Mode::Ebpf => {
            let link = mesh.folder().join("bpf/heddle").join(pod.uid()).join("link_sk_lookup");
            fs::remove_file(&link).with_context(|| link.display().to_string())
        }
    }
}

/// The proxy runs with no capability at all in eBPF mode, and with exactly `NET_RAW` with TPROXY.
fn check_rights(mesh: &TestMesh, pod: &Pod) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", pod.proxy().pid()?))?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    let (uid, capabilities) = (field("Uid:"), u64::from_str_radix(&field("CapEff:"), 16)?);
    let expected = match mesh.mode() {
        Mode::Tproxy => (0, 1 << CAP_NET_RAW),
        Mode::Ebpf => (PROXY_UID, 0),
    };
    let found = (uid.split_whitespace().next().unwrap_or_default().parse::<u32>()?, capabilities);
    ensure!(found == expected, "the proxy runs as {found:?}, not {expected:?}");
    Ok(())
}

fn ruleset(pod: &Pod) -> Result<String> {
    pod.exec_as(Rights::Harness, &["nft", "list", "ruleset"])?.success()
}

/// What the runtime and the installer have on a node: a list of plugins, their programs, the runtime's cache, our state.
struct Node<'a> {
    mesh: &'a TestMesh,
    folder: PathBuf,
    tools: PathBuf,
}

impl<'a> Node<'a> {
    /// A list of one plugin, which makes no network since the pods have theirs, and ours put in by `heddle-init install`.
    fn prepare(mesh: &'a TestMesh) -> Result<Self> {
        let tools = program::go_install("cni-tools", &TOOLS)?;
        let folder = mesh.folder().join("cni");
        for part in ["conf", "bin", "cache", "state"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let list = r#"{"cniVersion":"1.1.0","name":"mesh","plugins":[{"type":"loopback"},{"type":"tuning"}]}"#;
        fs::write(folder.join("conf/10-mesh.conflist"), list)?;
        let node = Self { mesh, folder, tools };
        let mut install = Command::new(program::product("heddle-init")?);
        let output = install.arg("install").args(node.places()).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "install: {}", String::from_utf8_lossy(&output.stderr));
        Ok(node)
    }

    fn places(&self) -> Vec<String> {
        let part = |name: &str| self.folder.join(name).display().to_string();
        let bpffs = self.mesh.folder().join("bpf").display().to_string();
        [
            ("cni-bin", part("bin")),
            ("cni-conf", part("conf")),
            ("cni-cache", part("cache")),
            ("state-directory", part("state")),
            ("bpffs", bpffs),
        ]
        .into_iter()
        .flat_map(|(option, value)| [format!("--{option}"), value])
        .collect()
    }

    /// What a runtime does with a pod: `add`, `check` or `del`, with the pod's annotations and names.
    ///
    /// # Errors
    /// What the library or a plugin said.
    fn runtime(&self, command: &str, pod: &Pod) -> Result<()> {
        // libcni's cache is in a fixed place.
        let script =
            "mount -t tmpfs none /var/lib && mkdir /var/lib/cni && mount --bind \"$0\" /var/lib/cni && exec \"$@\"";
        let annotations = serde_json::json!({
            "io.kubernetes.cri.pod-annotations": { "heddle.dev/capture": self.mesh.mode().to_string() },
        });
        let arguments = [
            "IgnoreUnknown=1".to_owned(),
            "K8S_POD_NAMESPACE=shop".to_owned(),
            format!("K8S_POD_NAME={}", pod.name()),
            format!("K8S_POD_UID={}", pod.uid()),
            format!("K8S_POD_INFRA_CONTAINER_ID={}", container_id(pod)),
        ];
        let mut tool = Command::new("unshare");
        tool.args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(self.folder.join("cache"))
            .arg(self.tools.join("cnitool"))
            .args([command, "mesh"])
            .arg(pod.netns().path())
            .env("NETCONFPATH", self.folder.join("conf"))
            .env("CNI_PATH", format!("{}:{}", self.folder.join("bin").display(), self.tools.display()))
            .env("CAP_ARGS", annotations.to_string())
            .env("CNI_ARGS", arguments.join(";"));
        let output = tool.stdin(Stdio::null()).output().context("starting unshare")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "cnitool {command}: {}{}", text(&output.stdout), text(&output.stderr));
        Ok(())
    }

    /// The agent, with exactly the rights that it needs.
    fn agent(&self) -> Result<Process> {
        let rights = Rights::Capabilities(&["net_admin", "sys_admin"]);
        let launch = Launch::new(self.mesh.node(), program::product("heddle-init")?, rights);
        let options = ["--mode".to_owned(), self.mesh.mode().to_string()];
        launch.args(["agent"]).args(self.places()).args(options).spawn(&self.mesh.folder().join("logs/node.agent"))
    }
}

/// The name that the runtime gives to the pod's sandbox.
fn container_id(pod: &Pod) -> String {
    format!("sandbox-{}", pod.name())
}

/// The CNI project's library as a program, its plugin that only raises `lo`, and one that does nothing unless told: a list of
/// `loopback` alone is no network.
const TOOLS: [&str; 3] = [
    "github.com/containernetworking/cni/cnitool@v1.3.1",
    "github.com/containernetworking/plugins/plugins/main/loopback@v1.9.1",
    "github.com/containernetworking/plugins/plugins/meta/tuning@v1.9.1",
];
/// linux/capability.h
const CAP_NET_RAW: u32 = 13;

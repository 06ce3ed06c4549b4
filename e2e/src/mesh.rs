//! A mesh of a test: the node with its bridge and controller, the pods, and the folder of their manifests.

mod controller;
mod manifest;
mod shared;

pub use controller::{Controller, Node, Status, Subscription};
pub(crate) use shared::{Addresses, Shared, lock};

use crate::{artifacts, bpffs, cgroup, netns, netns::Namespace, pod, process::Rights};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// The address family that names resolve to. Pods always have an address of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The address of this family.
    pub fn pick(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }
}

/// How pods capture their traffic: a value of `heddle-init --mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// nftables TPROXY.
    Tproxy,
    /// eBPF programs on the pod's cgroup and network namespace.
    Ebpf,
}

impl Mode {
    /// What `heddle-init` needs, with or without the guard, and no more.
    pub(crate) fn init_rights(self, guard: bool) -> Rights {
        match (self, guard) {
            (Self::Tproxy, false) => Rights::Capability("net_admin"),
            (Self::Tproxy, true) | (Self::Ebpf, _) => Rights::Capabilities(&["bpf", "net_admin"]),
        }
    }

    /// What `heddle-proxy` needs, and no more.
    pub(crate) fn proxy_rights(self) -> Rights {
        match self {
            Self::Tproxy => Rights::Capability("net_raw"),
            Self::Ebpf => Rights::User(PROXY_UID, PROXY_UID),
        }
    }

    /// The user and group of `heddle-proxy`. Capabilities without file capabilities on the binary are uid 0's.
    pub(crate) fn proxy_uid(self) -> u32 {
        match self {
            Self::Tproxy => 0,
            Self::Ebpf => PROXY_UID,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tproxy => f.write_str("tproxy"),
            Self::Ebpf => f.write_str("ebpf"),
        }
    }
}

/// A mesh about to be made.
#[derive(Debug)]
pub struct Builder {
    family: Family,
    mode: Mode,
    prefix: String,
    test: String,
    manifests: Option<PathBuf>,
    controller: bool,
    outlives_us: bool,
}

impl Builder {
    /// How its pods capture.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Namespaces are called `heddle-<name>-…` instead of `heddle-<pid>-<n>-…`, and no sweep touches them.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.prefix = format!("heddle-{name}");
        self
    }

    /// What the names of its namespaces start with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The test's name, under which artifacts of a failure are kept.
    #[must_use]
    pub fn test(mut self, test: &str) -> Self {
        test.clone_into(&mut self.test);
        self
    }

    /// The controller reads a copy of this folder, and pods bring no manifests of their own.
    #[must_use]
    pub fn manifests(mut self, folder: &Path) -> Self {
        self.manifests = Some(folder.to_owned());
        self
    }

    /// No controller: only pods without a proxy can be added.
    #[must_use]
    pub fn without_controller(mut self) -> Self {
        self.controller = false;
        self
    }

    /// Processes run on when this program ends; see [`TestMesh::leave`].
    #[must_use]
    pub fn outlives_us(mut self, outlives: bool) -> Self {
        self.outlives_us = outlives;
        self
    }

    /// Makes the node, and starts the controller.
    ///
    /// # Errors
    /// Without root's rights, or when a program is missing.
    pub fn build(self) -> Result<TestMesh> {
        netns::sweep();
        let prefix = self.prefix;
        let folder = std::env::temp_dir().join(&prefix);
        for part in ["logs", "wire", "manifests", "pods", "bin"] {
            fs::create_dir_all(folder.join(part)).with_context(|| folder.join(part).display().to_string())?;
        }
        // Without a name server, a name that is not in the hosts file is unknown at once.
        fs::write(folder.join("resolv.conf"), "")?;
        let node = Namespace::create(&format!("{prefix}-node"))?;
        node.make_bridge(NODE_V4, NODE_V6)?;
        for address in [IpAddr::V4(OUTSIDE_V4), IpAddr::V6(OUTSIDE_V6)] {
            node.add_address(address)?;
        }
        let shared = Shared {
            prefix,
            folder,
            family: self.family,
            mode: self.mode,
            test: self.test,
            fixed_manifests: self.manifests.is_some(),
            outlives_us: self.outlives_us || artifacts::keep_failed(),
            node,
            controller: Mutex::new(None),
            pods: Mutex::new(Vec::new()),
            bpffs: Mutex::new(None),
            names: Mutex::new(BTreeMap::new()),
            failed: AtomicBool::new(false),
            left: AtomicBool::new(false),
        };
        shared.write_hosts()?;
        let mesh = TestMesh { shared: Arc::new(shared) };
        if let Some(folder) = &self.manifests {
            for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
                let entry = entry?;
                fs::copy(entry.path(), mesh.shared.folder.join("manifests").join(entry.file_name()))?;
            }
        }
        if self.controller {
            mesh.controller().start()?;
        }
        if self.controller && self.manifests.is_some() {
            mesh.controller().status()?.check_manifests()?;
        }
        Ok(mesh)
    }
}

/// A running mesh. Dropping it ends everything in it.
#[derive(Debug)]
pub struct TestMesh {
    shared: Arc<Shared>,
}

impl TestMesh {
    /// A mesh whose names resolve to this family.
    pub fn builder(family: Family) -> Builder {
        Builder {
            family,
            mode: Mode::Tproxy,
            prefix: format!("heddle-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
            test: "mesh".to_owned(),
            manifests: None,
            controller: true,
            outlives_us: false,
        }
    }

    /// Adds a pod of this name. It is a meshed one in namespace [`NAMESPACE`], with a service account of its own name.
    pub fn pod(&self, name: &str) -> pod::Builder {
        pod::Builder::new(self.shared.clone(), name)
    }

    /// Its controller.
    pub fn controller(&self) -> Controller<'_> {
        Controller::of(&self.shared)
    }

    /// The node: the other side of every pod's wire, where whoever is not in the mesh lives.
    pub fn node(&self) -> &Namespace {
        &self.shared.node
    }

    /// An address on the node that no manifest knows.
    pub fn outside(&self) -> IpAddr {
        self.shared.family.pick(OUTSIDE_V4, OUTSIDE_V6)
    }

    /// The family that names resolve to.
    pub fn family(&self) -> Family {
        self.shared.family
    }

    /// How its pods capture.
    pub fn mode(&self) -> Mode {
        self.shared.mode
    }

    /// The folder of this mesh: logs, manifests, captures.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// The virtual address of a service.
    ///
    /// # Panics
    /// When no pod backs one of this name.
    pub fn service(&self, name: &str, port: u16) -> SocketAddr {
        let names = lock(&self.shared.names);
        let Some((v4, v6)) = names.get(name) else { panic!("no pod backs a service `{name}`") };
        SocketAddr::new(self.shared.family.pick(*v4, *v6), port)
    }

    /// Puts a file of `e2e/manifests/tests` into the controller's folder, and waits until every proxy has acknowledged it.
    ///
    /// # Errors
    /// When there is no such file, or that takes longer than the usual patience.
    pub fn apply(&self, file: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/tests").join(file);
        let manifests = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        self.controller().change(|| self.shared.write_manifest(file, &manifests))
    }

    /// Takes manifests of [`TestMesh::apply`] away again, and waits as it does.
    ///
    /// # Errors
    /// As [`TestMesh::apply`], or when there is no such file.
    pub fn delete(&self, file: &str) -> Result<()> {
        let path = self.shared.folder.join("manifests").join(file);
        self.controller().change(|| fs::remove_file(&path).map(|()| true).with_context(|| path.display().to_string()))
    }

    /// Ends a test: a failure is noted, so that its artifacts are kept, and reported. A panic of any program is one.
    ///
    /// # Panics
    /// When the result is an error.
    pub fn conclude(&self, result: Result<()>) {
        if let Err(error) = result.and_then(|()| self.check_no_panic()) {
            self.shared.failed.store(true, Ordering::Relaxed);
            panic!("{}: {error:?}", self.shared.test);
        }
    }

    fn check_no_panic(&self) -> Result<()> {
        for log in self.shared.folder.join("logs").read_dir()? {
            let path = log?.path();
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let panic = text.lines().find(|line| line.starts_with("thread '") && line.contains("panicked at"));
            ensure!(panic.is_none(), "{}: {}", path.display(), panic.unwrap_or_default());
        }
        Ok(())
    }

    /// Leaves the whole mesh running; [`remove`] takes it down. For a mesh that was made to outlive us.
    pub fn leave(self) {
        self.shared.left.store(true, Ordering::Relaxed);
    }
}

impl Drop for TestMesh {
    fn drop(&mut self) {
        let failed = self.shared.failed.load(Ordering::Relaxed) || std::thread::panicking();
        if failed {
            artifacts::keep(&self.shared);
        }
        // What is left runs on: the process handles are forgotten, and the namespaces with their pods.
        if self.shared.left.load(Ordering::Relaxed) || (failed && artifacts::keep_failed()) {
            std::mem::forget(self.shared.clone());
            return;
        }
        for pod in lock(&self.shared.pods).drain(..) {
            pod.end();
        }
        lock(&self.shared.controller).take();
        lock(&self.shared.bpffs).take();
        if let Err(error) = fs::remove_dir_all(&self.shared.folder) {
            eprintln!("cannot remove {}: {error}", self.shared.folder.display());
        }
    }
}

/// Takes down whatever there is of the mesh with this prefix, and says how many namespaces that were.
///
/// # Errors
/// When a process does not end.
pub fn remove(prefix: &str) -> Result<usize> {
    let namespaces = netns::list(&format!("{prefix}-"));
    for namespace in &namespaces {
        netns::remove(namespace)?;
    }
    cgroup::sweep(|name| name == prefix)?;
    let folder = std::env::temp_dir().join(prefix);
    bpffs::unmount(&folder.join(bpffs::FOLDER))?;
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(folder.display().to_string()),
        _ => Ok(namespaces.len()),
    }
}

/// The Kubernetes namespace that pods are in unless they say otherwise.
pub const NAMESPACE: &str = "shop";
/// The node's addresses on the bridge: the pods' gateway, and the controller's.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// As [`NODE_V4`].
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// The user and group of a proxy that needs no capability.
pub const PROXY_UID: u32 = 1337;
/// TEST-NET-2 (RFC 5737): a host outside of the mesh, which lives on the node.
const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The documentation block (RFC 3849).
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

static NEXT: AtomicU32 = AtomicU32::new(0);

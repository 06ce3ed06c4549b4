//! How a pod is asked for and made.

use super::{Pod, State};
use crate::{
    App,
    cgroup::{self, PodCgroup},
    mesh::{Addresses, NAMESPACE, NODE_V4, NODE_V6, Shared, lock},
    netns::Namespace,
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicU32},
};

/// A pod about to be made.
#[derive(Debug)]
pub struct Builder {
    shared: Arc<Shared>,
    name: String,
    namespace: String,
    service_account: Option<String>,
    labels: BTreeMap<String, String>,
    ports: Vec<u16>,
    meshed: bool,
    captured: bool,
    init_arguments: Vec<String>,
    proxy_arguments: Vec<String>,
}

impl Builder {
    pub(crate) fn new(shared: Arc<Shared>, name: &str) -> Self {
        Self {
            shared,
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            service_account: None,
            labels: BTreeMap::new(),
            ports: Vec::new(),
            meshed: true,
            captured: true,
            init_arguments: Vec::new(),
            proxy_arguments: Vec::new(),
        }
    }

    /// Its Kubernetes namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Its service account; else one of the pod's own name.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        self.service_account = Some(name.to_owned());
        self
    }

    /// Adds a label. The label `app` is the pod's name.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds ports to the service of the pod's name, which exists as soon as it has a port.
    #[must_use]
    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.ports.extend(ports);
        self
    }

    /// Leaves it out of the mesh: no init, no proxy, and a label that says so.
    #[must_use]
    pub fn unmeshed(mut self) -> Self {
        (self.meshed, self.captured) = (false, false);
        self.label("heddle.dev/inject", "false")
    }

    /// Starts neither init nor proxy, though the manifests call it meshed: for a test that starts them itself.
    #[must_use]
    pub fn uncaptured(mut self) -> Self {
        self.captured = false;
        self
    }

    /// Options for `heddle-init`.
    #[must_use]
    pub fn init_args(mut self, arguments: &[&str]) -> Self {
        self.init_arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Options for `heddle-proxy`.
    #[must_use]
    pub fn proxy_args(mut self, arguments: &[&str]) -> Self {
        self.proxy_arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Makes it, runs init and starts the proxy, and waits for the proxy's readiness.
    ///
    /// # Errors
    /// What did not work, with what the program said.
    pub fn start(self) -> Result<Pod> {
        let pod = self.make()?;
        if pod.state.captured {
            pod.init("apply")?.success()?;
            pod.proxy().start()?;
        }
        Ok(pod)
    }

    /// As [`Builder::start`], then starts an application and waits until it listens.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn serve(mut self, app: App) -> Result<Pod> {
        self.ports.extend(app.ports());
        let pod = self.start()?;
        pod.run_app(app)?;
        Ok(pod)
    }

    fn make(self) -> Result<Pod> {
        let shared = self.shared;
        ensure!(self.name != "node", "the name `node` is the node's");
        let mut pods = lock(&shared.pods);
        let Addresses { v4, v6, service_v4, service_v6 } = Shared::addresses(u8::try_from(pods.len())?);
        let netns = Namespace::create(&format!("{}-{}", shared.prefix, self.name))?;
        shared.node.join(&netns, &self.name, (v4, v6), (NODE_V4, NODE_V6))?;
        let folder = shared.folder.join("pods").join(&self.name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        make_private(&folder.join("proxy"), shared.mode.proxy_uid())?;
        let uid = uid(&shared.prefix, &self.name);
        let cgroup = PodCgroup::create(&shared.prefix, &uid)?;
        let service = match (self.namespace.as_str(), self.ports.is_empty()) {
            (_, true) => None,
            (NAMESPACE, false) => Some(self.name.clone()),
            (other, false) => Some(format!("{}.{other}", self.name)),
        };
        let state = Arc::new(State {
            service_account: self.service_account.unwrap_or_else(|| self.name.clone()),
            name: self.name,
            uid,
            namespace: self.namespace,
            labels: self.labels,
            ports: self.ports,
            service,
            v4,
            v6,
            ipv6: shared.family.pick(v4, v6).is_ipv6(),
            captured: self.captured,
            init_arguments: self.init_arguments,
            proxy_arguments: self.proxy_arguments,
            netns,
            folder,
            proxy_container: Mutex::new(cgroup.container(cgroup::PROXY)),
            proxy_generation: AtomicU32::new(0),
            cgroup,
            proxy: Mutex::new(None),
            apps: Mutex::new(Vec::new()),
            captures: AtomicU32::new(0),
        });
        pods.push(state.clone());
        drop(pods);
        match &state.service {
            Some(service) => shared.name(service, service_v4, service_v6)?,
            None => shared.write_hosts()?,
        }
        shared.write_pod(&state)?;
        Ok(Pod { shared, state })
    }
}

/// A folder of this user and group, for nobody else.
fn make_private(folder: &Path, owner: u32) -> Result<()> {
    let made = fs::create_dir_all(folder).and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)));
    made.and_then(|()| chown(folder, Some(owner), Some(owner))).with_context(|| folder.display().to_string())
}

/// The UID of the pod of this name: of the form that is left to its maker (RFC 9562, section 5.8: version 8).
pub fn uid(mesh: &str, pod: &str) -> String {
    let half = |salt: u8| {
        // Its keys are fixed, so the same names give the same UID in another process.
        let mut hasher = DefaultHasher::new();
        (salt, mesh, pod).hash(&mut hasher);
        hasher.finish()
    };
    let digits = format!("{:016x}{:016x}", half(0), half(1));
    let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[13..16], &digits[17..20], &digits[20..]);
    format!("{a}-{b}-8{c}-8{d}-{e}")
}

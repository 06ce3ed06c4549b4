//! A pod: a network namespace on the node's bridge, with an application in it and, when it is meshed, init and proxy.

mod proxy;

pub use proxy::{AccessEntry, Metrics, Proxy};

use crate::{
    App,
    mesh::{Addresses, NAMESPACE, NODE_V4, NODE_V6, Shared, lock},
    netns::Namespace,
    process::{Output, Process, Rights},
    program,
    traffic::{self, Reply},
    wait::{self, PATIENCE},
    wire::Capture,
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
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
        let service = match (self.namespace.as_str(), self.ports.is_empty()) {
            (_, true) => None,
            (NAMESPACE, false) => Some(self.name.clone()),
            (other, false) => Some(format!("{}.{other}", self.name)),
        };
        let state = Arc::new(State {
            service_account: self.service_account.unwrap_or_else(|| self.name.clone()),
            name: self.name,
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

/// A running pod. A handle: the pod itself ends with its mesh.
#[derive(Debug, Clone)]
pub struct Pod {
    shared: Arc<Shared>,
    state: Arc<State>,
}

/// What there is of a pod.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: Vec<u16>,
    pub(crate) service: Option<String>,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) captured: bool,
    ipv6: bool,
    init_arguments: Vec<String>,
    proxy_arguments: Vec<String>,
    netns: Namespace,
    folder: PathBuf,
    proxy: Mutex<Option<Process>>,
    apps: Mutex<Vec<Process>>,
    captures: AtomicU32,
}

impl State {
    pub(crate) fn address(&self) -> IpAddr {
        if self.ipv6 { self.v6.into() } else { self.v4.into() }
    }

    /// The label that its service selects it by.
    pub(crate) fn selector(&self) -> String {
        format!("app: {}", self.name)
    }

    /// Kills everything that runs in it.
    pub(crate) fn end(&self) {
        lock(&self.apps).clear();
        lock(&self.proxy).take();
    }
}

impl Pod {
    pub(crate) fn new(shared: Arc<Shared>, state: Arc<State>) -> Self {
        Self { shared, state }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its address in the mesh's family.
    pub fn address(&self) -> IpAddr {
        self.state.address()
    }

    /// A port at its own address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// Its identity, as its certificate says it.
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.state.namespace, self.state.service_account)
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Namespace {
        &self.state.netns
    }

    /// A folder for what its programs keep.
    pub fn folder(&self) -> &std::path::Path {
        &self.state.folder
    }

    /// Its proxy.
    pub fn proxy(&self) -> Proxy<'_> {
        Proxy::of(self)
    }

    /// Runs `heddle-init` with this subcommand and the pod's options, with the rights of an init container.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn init(&self, subcommand: &str) -> Result<Output> {
        let mode = self.shared.mode.to_string();
        self.launch(program::product("heddle-init")?, Rights::Capability("net_admin"))
            .args([subcommand, "--mode", &mode])
            .args(&self.state.init_arguments)
            .output(PATIENCE)
    }

    /// Starts an application, and waits until it listens.
    ///
    /// # Errors
    /// When it ends, or does not listen in time.
    pub fn run_app(&self, app: App) -> Result<()> {
        let mut process = app.start(self)?;
        for port in app.ports() {
            wait::until_true(&format!("{} listening on {port}", app.name()), PATIENCE, || {
                process.check_alive()?;
                Ok(traffic::listens(process.pid(), *port))
            })?;
        }
        lock(&self.state.apps).push(process);
        Ok(())
    }

    /// The process ids of its applications.
    pub fn app_pids(&self) -> Vec<u32> {
        lock(&self.state.apps).iter().map(Process::pid).collect()
    }

    /// The lines that an application wrote to its own log of what it served.
    pub fn app_log(&self, app: App) -> Vec<String> {
        let text = app.log(self).and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Runs a program to its end as an unprivileged application.
    ///
    /// # Errors
    /// When it cannot be started, or takes a minute.
    pub fn exec(&self, command: &[&str]) -> Result<Output> {
        self.exec_as(Rights::of("nobody")?, command)
    }

    /// As [`Pod::exec`], with these rights.
    ///
    /// # Errors
    /// As [`Pod::exec`].
    pub fn exec_as(&self, rights: Rights, command: &[&str]) -> Result<Output> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        self.launch(program::system(program)?, rights).args(arguments).output(Duration::from_secs(60))
    }

    /// Fetches a URL with curl.
    ///
    /// # Errors
    /// When curl cannot be started; a refusal is a [`Reply`].
    pub fn curl(&self, url: &str) -> Result<Reply> {
        self.curl_as(Rights::of("nobody")?, url)
    }

    /// As [`Pod::curl`], with these rights.
    ///
    /// # Errors
    /// As [`Pod::curl`].
    pub fn curl_as(&self, rights: Rights, url: &str) -> Result<Reply> {
        let mut command = vec!["curl"];
        command.extend(traffic::CURL_OPTIONS);
        command.push(url);
        Ok(Reply::of(self.exec_as(rights, &command)?))
    }

    /// Runs `work` on a thread in the pod, without any capability.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.state.netns.run_unprivileged(work)
    }

    /// Connects from within the pod, as an application.
    ///
    /// # Errors
    /// What connect(2) says, in [`io::Error`].
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self.run(|| TcpStream::connect_timeout(&to, CONNECT_TIMEOUT))?;
        let stream = stream.with_context(|| format!("connecting from {} to {to}", self.name()))?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        Ok(stream)
    }

    /// Listens in the pod, on all of its addresses of the mesh's family.
    ///
    /// A listener that was dropped a moment ago may live on in a child that another test has forked and that has not yet
    /// called exec, so a port that is taken is asked for again.
    ///
    /// # Errors
    /// When the port stays taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        let any: IpAddr = if self.state.ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let what = format!("port {port} free in {}", self.name());
        wait::until(&what, PATIENCE, || match self.run(|| TcpListener::bind((any, port)))? {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error).with_context(|| format!("listening on {port} in {}", self.name())),
        })
    }

    /// Starts a capture on its wire.
    ///
    /// # Errors
    /// When tcpdump does not start.
    pub fn capture(&self) -> Result<Capture<'_>> {
        let number = self.state.captures.fetch_add(1, Ordering::Relaxed);
        let file = self.shared.folder.join("wire").join(format!("{}-{number}.pcap", self.name()));
        Capture::start(&self.shared.node, self.name(), self.address(), file)
    }

    /// A program of this pod.
    pub(crate) fn launch(&self, program: PathBuf, rights: Rights) -> crate::process::Launch<'_> {
        self.shared.launch(&self.state.netns, program, rights)
    }

    /// Where a program of this pod logs to, without an extension.
    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.shared.folder.join("logs").join(format!("{}.{program}", self.name()))
    }
}

/// What a connect error was, when [`Pod::connect`] failed by one.
pub fn io_kind(error: &anyhow::Error) -> Option<io::ErrorKind> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// Longer than the proxy takes to give up on an endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No scenario is silent for longer.
const IO_TIMEOUT: Duration = Duration::from_secs(30);

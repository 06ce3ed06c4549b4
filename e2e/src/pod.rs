//! A pod: a network namespace on the node's bridge and a cgroup, with an application in it and, when it is meshed, init
//! and proxy.

mod builder;
mod proxy;

pub use builder::{Builder, uid};
pub use proxy::{AccessEntry, Metrics, Proxy};

use crate::{
    App, bpffs,
    cgroup::{self, Container, PodCgroup},
    mesh::{Mode, Shared, lock},
    netns::Namespace,
    process::{Launch, Output, Process, Rights},
    program,
    traffic::{self, Reply},
    wait::{self, PATIENCE},
    wire::Capture,
};
use anyhow::{Context, Result};
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
    /// What the kubelet and the controller know it by: a UUID of its own, the same for the pod of this name in a mesh of
    /// this name.
    pub(crate) uid: String,
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
    // Dropped in this order: a cgroup can only be removed when the programs of the namespace are gone.
    netns: Namespace,
    cgroup: PodCgroup,
    folder: PathBuf,
    proxy_container: Mutex<Container>,
    proxy_generation: AtomicU32,
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

    /// What only the proxy's container has mounted.
    fn proxy_folder(&self) -> PathBuf {
        self.folder.join("proxy")
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

    /// Its address in the other family.
    pub fn other_address(&self) -> IpAddr {
        if self.state.ipv6 { self.state.v4.into() } else { self.state.v6.into() }
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

    /// Its UID, as in its manifest.
    pub fn uid(&self) -> &str {
        &self.state.uid
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &PodCgroup {
        &self.state.cgroup
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
        let guard = guards(&self.state.init_arguments);
        let mut launch = self
            .launch(program::product("heddle-init")?, self.shared.mode.init_rights(guard))
            .container(&self.state.cgroup.container(cgroup::INIT))
            .env("HEDDLE_POD_UID", self.uid());
        if self.shared.mode == Mode::Ebpf || guard {
            launch = launch.mount(self.shared.bpffs()?, bpffs::USUAL);
        }
        let mode = self.shared.mode.to_string();
        launch.args([subcommand, "--mode", &mode]).args(&self.state.init_arguments).output(PATIENCE)
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

    /// Runs `work` on a thread in the pod, in the container of its applications, as uid 0 without any capability.
    ///
    /// # Errors
    /// When the namespace or the cgroup cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.run_as(&self.state.cgroup.container(cgroup::APP), 0, work)
    }

    /// As [`Pod::run`], in this container and as this uid and gid.
    ///
    /// # Errors
    /// As [`Pod::run`].
    pub fn run_as<T: Send>(&self, container: &Container, uid: u32, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.state.netns.run_unprivileged(container, uid, work)
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

    /// A program in the container of this pod's applications.
    pub fn launch(&self, program: PathBuf, rights: Rights) -> Launch<'_> {
        let launch = self.shared.launch(&self.state.netns, program, rights);
        launch.container(&self.state.cgroup.container(cgroup::APP)).hide(self.state.proxy_folder())
    }

    /// Where every user may see a binary of this name, once it is mounted there.
    pub(crate) fn visible(&self, binary: &str) -> Result<PathBuf> {
        self.shared.visible(binary)
    }

    /// Where a program of this pod logs to, without an extension.
    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.shared.folder.join("logs").join(format!("{}.{program}", self.name()))
    }
}

/// Whether these options of `heddle-init` ask for the guard, which needs eBPF beside TPROXY too.
fn guards(init_arguments: &[String]) -> bool {
    let mut words = init_arguments.iter().flat_map(|argument| argument.split('='));
    words.any(|word| word == "--guard") && words.next().is_some_and(|level| level != "off")
}

/// What a connect error was, when [`Pod::connect`] failed by one.
pub fn io_kind(error: &anyhow::Error) -> Option<io::ErrorKind> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

/// Longer than the proxy takes to give up on an endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No scenario is silent for longer.
const IO_TIMEOUT: Duration = Duration::from_secs(30);

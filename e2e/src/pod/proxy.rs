//! A pod's `heddle-proxy`: started with a sidecar's rights, signalled, and asked what it saw.

use super::Pod;
use crate::{
    artifacts, cgroup,
    mesh::{Controller, lock},
    process::Launch,
    program,
    traffic::http,
    wait::{self, PATIENCE},
};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::chown,
    process::ExitStatus,
    sync::atomic::Ordering,
    time::Duration,
};

/// The proxy of a pod.
#[derive(Debug, Clone, Copy)]
pub struct Proxy<'a> {
    pod: &'a Pod,
}

/// One entry of the access log.
#[derive(Debug, Clone, Deserialize)]
pub struct AccessEntry {
    /// `inbound` or `outbound`.
    pub direction: String,
    /// Reason code; `ok` when both sides ended it in order.
    pub reason: String,
    /// The error behind the reason.
    pub error: Option<String>,
    /// Who connected.
    pub source: SocketAddr,
    /// What was dialled.
    pub destination: SocketAddr,
    /// The service that stands for it.
    pub service: Option<String>,
    /// Whether the hop between the proxies was `mtls` or `plaintext`.
    pub security: String,
    /// Who the other side proved to be.
    pub peer: Option<String>,
    /// The policy that decided.
    pub policy: Option<String>,
    /// Bytes from the client.
    pub bytes_sent: u64,
    /// Bytes to the client.
    pub bytes_received: u64,
}

/// A scrape of the metrics, in Prometheus' text format.
#[derive(Debug, Clone)]
pub struct Metrics(String);

impl<'a> Proxy<'a> {
    pub(super) fn of(pod: &'a Pod) -> Self {
        Self { pod }
    }

    /// Starts it and waits for its readiness.
    ///
    /// # Errors
    /// When it ends, or is not ready in time, with the reason.
    pub fn start(self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn spawn(self) -> Result<()> {
        let Pod { shared, state } = self.pod;
        ensure!(lock(&state.proxy).is_none(), "the proxy of {} runs already", state.name);
        let controller = Controller::of(shared);
        let folder = state.proxy_folder();
        let (token, key) = (folder.join("token"), folder.join("capture.key"));
        fs::write(&token, controller.token(&state.namespace, &state.service_account, &state.name)?)?;
        let owner = Some(shared.mode.proxy_uid());
        chown(&token, owner, owner)?;
        let process = self
            .launch()?
            .args(["--mode", &shared.mode.to_string()])
            .args(["--capture-key".as_ref(), key.as_os_str()])
            .args(["--controller-address", &SocketAddr::new(shared.node_address(), 15012).to_string()])
            .args(["--controller-name", "heddle-controller.heddle-system.svc"])
            .args(["--controller-root-cert".as_ref(), controller.root_certificate().as_os_str()])
            .args(["--token-file".as_ref(), token.as_os_str()])
            .args(["--pod-name", &state.name, "--pod-namespace", &state.namespace])
            .args(["--service-account", &state.service_account, "--node-name", "node"])
            .args(["--pod-ips", &format!("{},{}", state.v4, state.v6)])
            .args(artifacts::log_level().iter().flat_map(|level| ["--log-level", level]))
            .args(&state.proxy_arguments)
            .spawn(&self.pod.log("proxy"))?;
        *lock(&state.proxy) = Some(process);
        Ok(())
    }

    /// The binary may lie where an unprivileged user must not look, so it is mounted to where one may.
    fn launch(self) -> Result<Launch<'a>> {
        let Pod { shared, state } = self.pod;
        let seen = shared.visible("heddle-proxy")?;
        let container = lock(&state.proxy_container).clone();
        let launch = shared.launch(&state.netns, &seen, shared.mode.proxy_rights());
        Ok(launch.mount(program::product("heddle-proxy")?, seen).container(&container))
    }

    /// Gives it a new container, as a kubelet does when it starts one again: a new cgroup, and the old one is removed.
    ///
    /// # Errors
    /// When it runs, or the cgroup cannot be made.
    pub fn renew_container(self) -> Result<()> {
        let state = &self.pod.state;
        ensure!(lock(&state.proxy).is_none(), "the proxy of {} runs", state.name);
        let mut container = lock(&state.proxy_container);
        let generation = state.proxy_generation.fetch_add(1, Ordering::Relaxed) + 1;
        let fresh = state.cgroup.container(&format!("{}-{generation}", cgroup::PROXY));
        fresh.make()?;
        std::mem::replace(&mut *container, fresh).remove()
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time, with the reason.
    pub fn wait_ready(self) -> Result<()> {
        let mut reason = String::new();
        let ready = wait::until_true(&format!("readiness of the proxy of {}", self.pod.name()), PATIENCE, || {
            match lock(&self.pod.state.proxy).as_mut() {
                Some(process) => process.check_alive()?,
                None => bail!("it does not run"),
            }
            Ok(match self.ready() {
                Ok((status, body)) => {
                    reason = body;
                    status == 200
                }
                Err(error) => {
                    reason = format!("{error:#}");
                    false
                }
            })
        });
        ready.with_context(|| format!("the last answer of /healthz/ready: {reason}; it said: {}", self.last_words()))
    }

    /// Status and text of its readiness, as the kubelet sees it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ready(self) -> Result<(u16, String)> {
        let at = self.pod.at(15021);
        self.pod.shared.node.run(|| http::get(at, "/healthz/ready", Duration::from_secs(2)))?
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(self) -> Result<u32> {
        let process = lock(&self.pod.state.proxy);
        process.as_ref().map(crate::process::Process::pid).context("the proxy does not run")
    }

    /// Kills it, without any chance to tidy up.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(self) -> Result<()> {
        let process = lock(&self.pod.state.proxy).take();
        process.map(drop).context("the proxy does not run")
    }

    /// Asks it to end (SIGTERM), and lets it work on; [`Proxy::wait`] sees the end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(self) -> Result<()> {
        let process = lock(&self.pod.state.proxy);
        process.as_ref().context("the proxy does not run")?.signal(libc::SIGTERM);
        Ok(())
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When that takes longer than `deadline`.
    pub fn wait(self, deadline: Duration) -> Result<ExitStatus> {
        let mut process = lock(&self.pod.state.proxy);
        let status = process.as_mut().context("the proxy does not run")?.wait(deadline)?;
        process.take();
        Ok(status)
    }

    /// What its access log says so far.
    ///
    /// # Errors
    /// When a line is no entry.
    pub fn access_log(self) -> Result<Vec<AccessEntry>> {
        let path = self.pod.log("proxy").with_added_extension("out");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        // Only whole lines: the last one may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).with_context(|| format!("access log: {line}"))).collect()
    }

    /// Waits for an entry of the access log; entries are written when connections end.
    ///
    /// # Errors
    /// When none comes in time, with what there is.
    pub fn wait_entry(self, what: &str, wanted: impl Fn(&AccessEntry) -> bool) -> Result<AccessEntry> {
        let found = wait::until(&format!("an access log entry of {}: {what}", self.pod.name()), PATIENCE, || {
            Ok(self.access_log()?.into_iter().find(&wanted))
        });
        found.with_context(|| {
            let entries = self.access_log().unwrap_or_default();
            format!("its last entries: {:#?}", &entries[entries.len().saturating_sub(5)..])
        })
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(self) -> Result<Metrics> {
        let at = self.pod.at(15020);
        let (status, text) = self.pod.shared.node.run(|| http::get(at, "/metrics", Duration::from_secs(5)))??;
        ensure!(status == 200, "/metrics answered {status}: {text}");
        Ok(Metrics(text))
    }

    /// Its configuration dump, which only the pod itself may ask for.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn config_dump(self) -> Result<serde_json::Value> {
        let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
        let (status, text) = self.pod.run(|| http::get(at, "/config_dump", Duration::from_secs(5)))??;
        ensure!(status == 200, "/config_dump answered {status}: {text}");
        serde_json::from_str(&text).context("/config_dump is no JSON")
    }

    /// Open file descriptors.
    ///
    /// # Errors
    /// When it does not run.
    pub fn fds(self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    /// Resident memory, bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn rss_bytes(self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }

    /// The end of its log.
    pub fn last_words(self) -> String {
        let process = lock(&self.pod.state.proxy);
        process.as_ref().map_or_else(|| "(it does not run)".to_owned(), crate::process::Process::last_words)
    }
}

impl Metrics {
    /// The sum of a metric's series that have all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let series = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            wanted.iter().all(|label| labels.contains(label)).then_some(())?;
            value.split(' ').next()?.parse::<f64>().ok()
        });
        series.sum()
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.0
    }
}

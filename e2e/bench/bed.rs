//! What is measured: a client's pod, a server's pod with nginx, and what stands between them.

use crate::{envoy, http, web};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{Family, Mode, Pod, TestMesh, process::Process, wait};
use std::{fmt, net::SocketAddr};

/// One of the ways from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// No proxy and no capture.
    Direct,
    /// Heddle: capture by TPROXY, a proxy at each side, a controller; strict mutual TLS.
    Heddle,
    /// The same with capture by eBPF.
    HeddleEbpf,
    /// Envoy: capture by TPROXY, a sidecar with `tcp_proxy` at each side; mutual TLS.
    Envoy,
}

impl Subject {
    /// In the order in which a round runs them.
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Heddle, Self::HeddleEbpf, Self::Envoy];

    /// As on the command line and in the results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Heddle => "heddle",
            Self::HeddleEbpf => "heddle-ebpf",
            Self::Envoy => "envoy",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A subject brought up and checked. Everything ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Bed {
    /// Which way this is.
    pub(crate) subject: Subject,
    /// Where the load comes from.
    pub(crate) client: Pod,
    server: Pod,
    web: Process,
    sidecars: Option<envoy::Sidecars>,
    // Last: processes end before their namespaces.
    _mesh: TestMesh,
}

impl Bed {
    /// Brings it up, and checks that it answers and that its wire is as readable as it must be.
    ///
    /// # Errors
    /// What failed, with what the part that failed said.
    pub(crate) fn start(subject: Subject, envoy: &envoy::Binary) -> Result<Self> {
        let bed = Self::bring_up(subject, envoy).with_context(|| format!("bringing up {subject}"))?;
        bed.check().with_context(|| format!("checking {subject} before the rounds: {}", bed.last_words()))?;
        Ok(bed)
    }

    fn bring_up(subject: Subject, envoy: &envoy::Binary) -> Result<Self> {
        let mode = if subject == Subject::HeddleEbpf { Mode::Ebpf } else { Mode::Tproxy };
        let builder = TestMesh::builder(Family::V4).mode(mode).test("bench");
        let (mesh, pods) = match subject {
            Subject::Heddle | Subject::HeddleEbpf => {
                let mesh = builder.build()?;
                let pods = ["client", "server"].map(|name| mesh.pod(name).proxy_args(&["--workers", "1"]).start());
                (mesh, pods)
            }
            Subject::Direct | Subject::Envoy => {
                let mesh = builder.without_controller().build()?;
                let pods = ["client", "server"].map(|name| mesh.pod(name).uncaptured().start());
                (mesh, pods)
            }
        };
        let [client, server] = pods;
        let (client, server) = (client?, server?);
        for pod in [&client, &server] {
            pod.netns().sysctl("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL)?;
        }
        let web = web::start(&server)?;
        let sidecars = match subject {
            Subject::Envoy => Some(envoy::Sidecars::start(envoy, &client, &server)?),
            Subject::Direct | Subject::Heddle | Subject::HeddleEbpf => None,
        };
        Ok(Self { subject, client, server, web, sidecars, _mesh: mesh })
    }

    /// Where the application listens, as the client dials it.
    pub(crate) fn application(&self) -> SocketAddr {
        self.server.at(web::PORT)
    }

    /// The client's and the server's proxy; none without proxies.
    ///
    /// # Errors
    /// When a proxy does not run.
    pub(crate) fn proxies(&self) -> Result<Option<[u32; 2]>> {
        match (self.subject, &self.sidecars) {
            (Subject::Heddle | Subject::HeddleEbpf, _) => {
                Ok(Some([self.client.proxy().pid()?, self.server.proxy().pid()?]))
            }
            (_, Some(sidecars)) => Ok(Some(sidecars.pids())),
            (_, None) => Ok(None),
        }
    }

    /// The processes that carry a request: proxies and application.
    ///
    /// # Errors
    /// When a proxy does not run.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        Ok(self.proxies()?.into_iter().flatten().chain([self.web.pid()]).collect())
    }

    /// One GET through everything, with an eye on the wire.
    fn check(&self) -> Result<()> {
        let get = || self.client.run(|| http::get_once(self.application(), web::SMALL))?;
        let mut refused = None;
        let answered = wait::until_true("an answer to a GET", wait::PATIENCE, || {
            refused = get().err();
            Ok(refused.is_none())
        });
        answered.with_context(|| format!("the last try: {:?}", refused.unwrap_or_else(|| anyhow::anyhow!("none"))))?;
        let tap = self.server.capture()?;
        let page = get()?;
        let traffic = tap.finish()?;
        ensure!(page.len() == web::SMALL_BYTES, "a page of {} bytes instead of {}", page.len(), web::SMALL_BYTES);
        match self.subject {
            // The positive control: the same look finds the page where nothing hides it.
            Subject::Direct => {
                ensure!(traffic.occurrences(web::MARKER) > 0, "the page is not readable without a proxy");
                Ok(())
            }
            Subject::Heddle | Subject::HeddleEbpf | Subject::Envoy => traffic.check_encrypted(web::MARKER),
        }
    }

    /// TLS version and cipher between the proxies, where their log tells.
    pub(crate) fn cipher(&self) -> Option<String> {
        self.sidecars.as_ref()?.cipher()
    }

    /// What the proxies said last on standard error.
    fn last_words(&self) -> String {
        match (self.subject, &self.sidecars) {
            (Subject::Heddle | Subject::HeddleEbpf, _) => {
                format!("{}\n{}", self.client.proxy().last_words(), self.server.proxy().last_words())
            }
            (_, Some(sidecars)) => sidecars.last_words(),
            (_, None) => self.web.last_words(),
        }
    }
}

/// The kernel's default may be BBR, whose pacing hides what a proxy costs in bulk.
pub(crate) const CONGESTION_CONTROL: &str = "reno";

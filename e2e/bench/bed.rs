//! What is measured: a client's pod, a server's pod with nginx, and what stands between them.

use crate::{envoy, ground::Ground, heddle, http, web};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{process::Process, wait};
use std::{fmt, fs, net::SocketAddr, path::Path};

/// One of the ways from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// No proxy and no capture.
    Direct,
    /// Heddle: capture, a proxy at each side, a controller.
    Heddle,
    /// Envoy: the same capture, a sidecar with `tcp_proxy` at each side.
    Envoy,
}

impl Subject {
    /// In the order in which a round runs them.
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Heddle, Self::Envoy];

    /// As on the command line and in the results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Heddle => "heddle",
            Self::Envoy => "envoy",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The two proxies of a subject.
#[derive(Debug)]
pub(crate) struct Proxies {
    /// In the client's pod.
    pub(crate) client: Process,
    /// In the server's pod.
    pub(crate) server: Process,
}

impl Proxies {
    /// The client's, then the server's.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.client.pid(), self.server.pid()]
    }
}

/// A subject brought up, checked once. Everything ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Bed {
    /// Which way this is.
    pub(crate) subject: Subject,
    /// What stands between the pods; nothing for [`Subject::Direct`].
    pub(crate) proxies: Option<Proxies>,
    // Processes before the ground: they end before their namespaces.
    web: Process,
    _controller: Option<Process>,
    /// The pods.
    pub(crate) ground: Ground,
}

impl Bed {
    /// Brings it up below `folder` and checks that it answers, and that its wire is as readable as it must be.
    ///
    /// # Errors
    /// What failed, with what the part that failed said.
    pub(crate) fn start(subject: Subject, folder: &Path, envoy: &Path) -> Result<Self> {
        let bed = Self::bring_up(subject, folder, envoy).with_context(|| format!("bringing up {subject}"))?;
        bed.check(folder).with_context(|| format!("checking {subject} before the bench"))?;
        Ok(bed)
    }

    fn bring_up(subject: Subject, folder: &Path, envoy: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let ground = Ground::create(subject.name())?;
        let web = web::start(&ground.server, folder)?;
        ground.wait_for_listener(web::PORT)?;
        let (controller, proxies) = match subject {
            Subject::Direct => (None, None),
            Subject::Heddle => {
                let (controller, proxies) = heddle::start(&ground, folder)?;
                (Some(controller), Some(proxies))
            }
            Subject::Envoy => (None, Some(envoy::start(&ground, folder, envoy)?)),
        };
        Ok(Self { subject, proxies, web, _controller: controller, ground })
    }

    /// Where the application listens, as the client dials it.
    pub(crate) fn application() -> SocketAddr {
        SocketAddr::new(Ground::server_address(), web::PORT)
    }

    /// The processes that carry a request: application and proxies.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let proxies = self.proxies.iter().flat_map(Proxies::pids);
        proxies.chain([self.web.pid()]).collect()
    }

    /// One GET through everything. The first may come before a proxy has its identity, so it is tried again.
    fn check(&self, folder: &Path) -> Result<()> {
        wait::until_true("an answer to a GET", wait::PATIENCE, || {
            self.ground.client.run(|| http::get_once(Self::application(), web::SMALL).is_ok())
        })
        .with_context(|| self.last_words())?;
        let traffic = self.ground.on_the_wire(folder, || {
            let body = self.ground.client.run(|| http::get_once(Self::application(), web::SMALL))??;
            ensure!(body.len() == web::SMALL_BYTES, "a page of {} bytes", body.len());
            Ok(())
        })?;
        match self.subject {
            // The positive control: the same look finds the page where nothing hides it.
            Subject::Direct => {
                ensure!(traffic.occurrences(web::MARKER) > 0, "the page is not readable without a proxy")
            }
            Subject::Heddle | Subject::Envoy => traffic.check_encrypted(web::MARKER)?,
        }
        Ok(())
    }

    /// What the proxies said last on standard error.
    fn last_words(&self) -> String {
        let said = |proxies: &Proxies| format!("{}\n{}", proxies.client.last_words(), proxies.server.last_words());
        self.proxies.as_ref().map(said).unwrap_or_default()
    }
}

//! The controller of a test's mesh: started, stopped, asked for its state.

use super::{Shared, lock};
use crate::{
    artifacts,
    process::Rights,
    program,
    traffic::http,
    wait::{self, PATIENCE},
};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    time::Duration,
};

/// The controller of a mesh.
#[derive(Debug, Clone, Copy)]
pub struct Controller<'a> {
    shared: &'a Shared,
}

/// What the controller says about itself and the proxies on it (`GET :15014/status`).
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Grows with every change of what it serves.
    pub revision: u64,
    /// How many files of manifests it has read for it.
    pub files: usize,
    /// What is wrong in them.
    pub mistakes: Vec<String>,
    /// The proxies that are connected.
    pub nodes: Vec<Node>,
}

/// One connected proxy.
#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    /// Its node id.
    pub id: String,
    /// Its subscriptions, by type.
    pub types: BTreeMap<String, Subscription>,
}

/// One proxy's subscription to one type.
#[derive(Debug, Clone, Deserialize)]
pub struct Subscription {
    /// The newest revision that it has acknowledged all of.
    pub acked: u64,
}

impl Status {
    /// Checks that the manifests are well.
    pub(super) fn check_manifests(&self) -> Result<()> {
        ensure!(self.mistakes.is_empty(), "the manifests have mistakes: {:#?}", self.mistakes);
        Ok(())
    }
}

impl<'a> Controller<'a> {
    pub(crate) fn of(shared: &'a Shared) -> Self {
        Self { shared }
    }

    /// Starts it, as an unprivileged user, and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(self) -> Result<()> {
        ensure!(lock(&self.shared.controller).is_none(), "the controller runs already");
        let state = self.state();
        if !state.exists() {
            fs::create_dir(&state)?;
            fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
            chown(&state, Some(UID), Some(UID))?;
        }
        let mut process = self
            .launch()?
            .args(["--manifests".as_ref(), self.shared.folder.join("manifests").as_os_str()])
            .args(["--state".as_ref(), state.as_os_str()])
            .args(artifacts::log_level().iter().flat_map(|level| ["--log-level", level]))
            .spawn(&self.shared.folder.join("logs/controller"))?;
        let ready = wait::until_true("the controller's readiness", PATIENCE, || {
            process.check_alive()?;
            Ok(self.get("/healthz/ready").is_ok_and(|(status, _)| status == 200))
        });
        let said = process.last_words();
        *lock(&self.shared.controller) = Some(process);
        ready.with_context(|| format!("the controller said: {said}"))
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(self) -> Result<()> {
        let process = lock(&self.shared.controller).take();
        process.map(drop).context("the controller does not run")
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(self) -> Result<u32> {
        lock(&self.shared.controller).as_ref().map(crate::process::Process::pid).context("the controller does not run")
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(self) -> Result<Status> {
        let (status, body) = self.get("/status")?;
        ensure!(status == 200, "the controller's /status answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("the controller's /status: {body}"))
    }

    /// Makes a change to its folder, and waits until it has read it and every proxy has it. The change says whether there is
    /// one; every change but a pod's adds or removes a file.
    pub(super) fn change(self, change: impl FnOnce() -> Result<bool>) -> Result<()> {
        if lock(&self.shared.controller).is_none() {
            return change().map(drop);
        }
        // Changes wait for each other, so the next revision with as many files as there are has this one in it.
        let before = self.status()?.revision;
        if !change()? {
            return Ok(());
        }
        let files = fs::read_dir(self.shared.folder.join("manifests"))?.count();
        let status = wait::until("the controller's next revision", PATIENCE, || {
            Ok(Some(self.status()?).filter(|status| status.revision > before && status.files == files))
        });
        let status = status.with_context(|| format!("the controller said: {}", self.last_words()))?;
        status.check_manifests()?;
        self.settle()
    }

    /// Waits until every connected proxy has acknowledged what the controller serves.
    ///
    /// # Errors
    /// When one has not within the usual patience, with its name.
    pub fn settle(self) -> Result<()> {
        let mut behind = Vec::new();
        let settled = wait::until_true("the proxies' acknowledgement", PATIENCE, || {
            let status = self.status()?;
            let late = |node: &&Node| node.types.values().any(|kind| kind.acked < status.revision);
            behind = status
                .nodes
                .iter()
                .filter(late)
                .map(|node| format!("{} of {}: {:?}", node.id, status.revision, node.types))
                .collect();
            Ok(behind.is_empty())
        });
        settled.with_context(|| format!("behind: {behind:?}"))
    }

    /// A token that proves this service account.
    ///
    /// # Errors
    /// When the controller's state holds no key.
    pub fn token(self, namespace: &str, service_account: &str, pod: &str) -> Result<String> {
        let launch = self.launch()?.args(["token".as_ref(), "--state".as_ref(), self.state().as_os_str()]);
        let arguments = ["--namespace", namespace, "--service-account", service_account, "--pod", pod];
        Ok(launch.args(arguments).output(PATIENCE)?.success()?.trim().to_owned())
    }

    /// Where the pods reach it.
    pub fn address(self) -> std::net::IpAddr {
        self.shared.node_address()
    }

    /// Its state folder: the root certificate, and the keys.
    pub fn state(self) -> PathBuf {
        self.shared.folder.join("state")
    }

    /// The certificate that its clients trust.
    pub fn root_certificate(self) -> PathBuf {
        self.state().join("root-cert.pem")
    }

    /// The end of its log.
    pub fn last_words(self) -> String {
        lock(&self.shared.controller)
            .as_ref()
            .map_or_else(|| "(it does not run)".to_owned(), |process| process.last_words())
    }

    /// The binary may lie where an unprivileged user must not look, so it is mounted to where one may.
    fn launch(self) -> Result<crate::process::Launch<'a>> {
        let seen = self.shared.visible("heddle-controller")?;
        let launch = self.shared.launch(&self.shared.node, &seen, Rights::User(UID, UID));
        Ok(launch.mount(program::product("heddle-controller")?, &seen))
    }

    fn get(self, path: &str) -> Result<(u16, String)> {
        let at = SocketAddr::new(self.shared.node_address(), 15014);
        match self.shared.node.run(|| http::get(at, path, Duration::from_secs(5)))? {
            Ok(answer) => Ok(answer),
            Err(error) => bail!("GET {path} of the controller: {error:#}"),
        }
    }
}

/// The user of distroless images' `nonroot`.
const UID: u32 = 65532;

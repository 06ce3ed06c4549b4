//! What a failed test leaves behind: logs, captures, manifests, and what every proxy had in mind, under
//! `target/e2e/<test>/`.

use crate::{
    Pod,
    mesh::{Controller, Shared},
    program,
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Whether a failed test's pods are left running (`HEDDLE_E2E_KEEP=1`), to be looked into.
pub fn keep_failed() -> bool {
    std::env::var_os("HEDDLE_E2E_KEEP").is_some_and(|value| value == "1")
}

/// The log level of controller and proxies, when a run wants more than usual (`HEDDLE_E2E_LOG=debug`).
pub(crate) fn log_level() -> Option<String> {
    std::env::var("HEDDLE_E2E_LOG").ok()
}

/// Keeps what tells why the test of this mesh failed, and prints where it is.
pub(crate) fn keep(shared: &std::sync::Arc<Shared>) {
    let folder = program::target().join("e2e").join(shared.test.replace("::", "."));
    let pods = shared.pod_handles();
    match collect(shared, &pods, &folder) {
        Ok(()) => eprintln!("{}: logs, dumps and captures are in {}", shared.test, folder.display()),
        Err(error) => eprintln!("{}: cannot keep what it left: {error:#}", shared.test),
    }
    if keep_failed() {
        eprintln!("{}: its pods are left running; enter them with", shared.test);
        for pod in &pods {
            eprintln!("  {:12} {}", pod.name(), pod.netns().enter_command());
        }
        eprintln!("  {:12} {}", "(node)", shared.node.enter_command());
    } else {
        eprintln!(
            "{}: HEDDLE_E2E_KEEP=1 leaves its pods running, to be entered with nsenter --net=/run/netns/…",
            shared.test
        );
    }
}

fn collect(shared: &Shared, pods: &[Pod], folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    for part in ["logs", "wire", "manifests"] {
        copy(&shared.folder.join(part), &folder.join(part))?;
    }
    fs::copy(shared.folder.join("hosts"), folder.join("hosts"))?;
    if let Ok(status) = Controller::of(shared).status() {
        fs::write(folder.join("controller-status.txt"), format!("{status:#?}"))?;
    }
    for pod in pods.iter().filter(|pod| pod.proxy().pid().is_ok()) {
        let dump = pod.proxy().config_dump().and_then(|dump| Ok(serde_json::to_string_pretty(&dump)?));
        let metrics = pod.proxy().metrics().map(|metrics| metrics.text().to_owned());
        for (name, text) in [("config_dump.json", dump), ("metrics.txt", metrics)] {
            // A proxy that cannot be asked is a finding, too.
            let text = text.unwrap_or_else(|error| format!("{error:#}"));
            fs::write(folder.join(format!("{}.{name}", pod.name())), text)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in from.read_dir().with_context(|| from.display().to_string())? {
        let path: PathBuf = entry?.path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap_or_default()))
                .with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

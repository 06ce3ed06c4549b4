//! The newest manifests, translated: what the server sends, and what `/status` and the log say about them.

use crate::{
    condition::{Condition, Severity},
    metrics::Metrics,
    serve::snapshot::Snapshot,
    source::folder::Manifests,
    state::{Readers, StateError, StateFolder},
    translate::{Settings, translate},
};
use std::{collections::HashSet, sync::Arc};
use tokio::sync::watch;

/// What is known of the manifests, for those who ask from outside.
#[derive(Debug, Clone, Default)]
pub struct StateOfMesh {
    /// Why nothing is served yet.
    pub not_ready: Option<String>,
    /// The newest translated revision; 0 before the first.
    pub revision: u64,
    /// How many files there are.
    pub files: usize,
    /// How many workloads.
    pub workloads: usize,
    /// How many services.
    pub services: usize,
    /// How many policies, with those that strict mutual TLS becomes.
    pub policies: usize,
    /// Every mistake, as `check` prints it.
    pub mistakes: Vec<String>,
}

/// Translates every version of the manifests and publishes it, until there are no more.
pub async fn run(
    mut manifests: watch::Receiver<Arc<Manifests>>,
    settings: Settings,
    snapshots: watch::Sender<Arc<Snapshot>>,
    state: watch::Sender<StateOfMesh>,
    metrics: Arc<Metrics>,
    mut served: ServedBefore,
) {
    let mut said = HashSet::new();
    let mut revision = 0;
    while manifests.changed().await.is_ok() {
        let current = manifests.borrow_and_update().clone();
        let before = snapshots.borrow().clone();
        revision += 1;
        let translation = translate(&current, &settings);
        log(&translation.conditions, &mut said);
        let mistakes: Vec<String> = translation
            .conditions
            .iter()
            .filter(|one| one.severity == Severity::Mistake)
            .map(ToString::to_string)
            .collect();
        let (workloads, services, policies) =
            (translation.workloads.len(), translation.services.len(), translation.policies.len());
        metrics.mistakes.set(number(mistakes.len()));
        metrics.workloads.set(number(workloads));
        metrics.services.set(number(services));
        metrics.policies.set(number(policies));
        metrics.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));

        // Once serving, what could be read is served: files keep their last good version.
        let not_ready = if before.revision > 0 { None } else { incomplete(&current, &served) };
        match not_ready {
            None => {
                snapshots.send_replace(Arc::new(Snapshot::new(&before, &translation, revision)));
                if !current.objects.is_empty() {
                    served.note();
                }
            }
            Some(reason) => tracing::error!(reason, "nothing is served yet"),
        }
        let not_ready = not_ready.map(str::to_owned);
        state.send_replace(StateOfMesh {
            not_ready,
            revision,
            files: current.files,
            workloads,
            services,
            policies,
            mistakes,
        });
        tracing::info!(revision, files = current.files, workloads, services, policies, "read the manifests");
    }
}

/// Why the first manifests must not be served: what is missing in them would be taken for removed, and proxies that hold it
/// from an earlier controller would drop it.
fn incomplete(manifests: &Manifests, served: &ServedBefore) -> Option<&'static str> {
    if !manifests.readable {
        return Some("the folder of manifests cannot be read; see `mistakes` in /status");
    }
    if manifests.policies_lost > 0 {
        return Some("a manifest that may be a policy cannot be read; correct it, see `mistakes` in /status");
    }
    (manifests.objects.is_empty() && served.is_noted())
        .then_some("the folder holds no object, and an earlier controller with this state folder served some")
}

/// Whether this controller or an earlier one ever served an object: a file in the state folder.
#[derive(Debug)]
pub struct ServedBefore {
    folder: StateFolder,
    noted: bool,
}

impl ServedBefore {
    /// Looks into the state folder.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(folder: StateFolder) -> Result<Self, StateError> {
        let noted = folder.read(SERVED_BEFORE, Readers::Everybody)?.is_some();
        Ok(Self { folder, noted })
    }

    fn is_noted(&self) -> bool {
        self.noted
    }

    fn note(&mut self) {
        if self.noted {
            return;
        }
        match self.folder.create(SERVED_BEFORE, Readers::Everybody, "manifests were served from here\n") {
            Ok(_) => self.noted = true,
            Err(error) => tracing::warn!(%error, "cannot note that manifests were served"),
        }
    }
}

const SERVED_BEFORE: &str = "served-before";

/// Logs what was not said about the version before.
fn log(conditions: &[Condition], said: &mut HashSet<String>) {
    let now: Vec<(Severity, String)> = conditions.iter().map(|one| (one.severity, one.to_string())).collect();
    for (severity, text) in now.iter().filter(|(_, text)| !said.contains(text)) {
        match severity {
            Severity::Mistake => tracing::error!(mistake = text, "manifest"),
            Severity::Warning => tracing::warn!(warning = text, "manifest"),
            Severity::Note => tracing::debug!(note = text, "manifest"),
        }
    }
    *said = now.into_iter().map(|(_, text)| text).collect();
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

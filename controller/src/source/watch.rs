//! Notices changes of a folder and publishes what it holds now.
//!
//! The kernel's notifications (inotify(7)) make it fast, and a look every few seconds makes it sure: links, network file
//! systems and an overflown queue give none.

use super::folder::{Folder, Manifests};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// Reads the folder, publishes it, and does so again after every change, until nobody listens.
pub async fn run(root: PathBuf, manifests: watch::Sender<Arc<Manifests>>) {
    let (touched, mut changes) = mpsc::channel::<Vec<PathBuf>>(EVENTS_MAX);
    let mut watcher: Option<RecommendedWatcher> = None;
    let mut folder = Folder::new(root.clone());
    let mut paths = HashSet::new();
    let mut watched = None;
    loop {
        // Watched before it is read: what changes in between is not missed. A folder that was made anew is another one.
        let found = identity(&root);
        if watcher.is_none() || watched != found {
            watched = found;
            watcher = found.and_then(|_| start(&root, touched.clone()));
        }
        let read = tokio::task::spawn_blocking(move || {
            let different = folder.refresh(&paths);
            let manifests = different.then(|| Arc::new(folder.manifests()));
            (folder, manifests)
        });
        let Ok((back, changed)) = read.await else {
            tracing::error!("reading the manifests was cut short; the last ones stay in force");
            return;
        };
        folder = back;
        if let Some(changed) = changed {
            manifests.send_replace(changed);
        }
        tokio::select! {
            more = next_change(&mut changes) => paths = more,
            () = manifests.closed() => return,
        }
    }
}

/// Which folder the path leads to now.
fn identity(root: &Path) -> Option<(u64, u64)> {
    fs::metadata(root).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Waits for changes to settle, or for the time of the next look.
async fn next_change(changes: &mut mpsc::Receiver<Vec<PathBuf>>) -> HashSet<PathBuf> {
    let mut paths = HashSet::new();
    let look = Instant::now() + LOOK_INTERVAL;
    let Ok(Some(first)) = tokio::time::timeout_at(look, changes.recv()).await else { return paths };
    paths.extend(first);
    let latest = Instant::now() + SETTLE_MAX;
    loop {
        let settled = (Instant::now() + SETTLE_QUIET).min(latest);
        tokio::select! {
            more = changes.recv() => paths.extend(more.into_iter().flatten()),
            () = sleep_until(settled) => return paths,
        }
    }
}

fn start(root: &Path, touched: mpsc::Sender<Vec<PathBuf>>) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if let Ok(event) = event
            && !matches!(event.kind, notify::EventKind::Access(kind) if !is_close_after_write(kind))
        {
            // A full queue loses nothing that the changes before it, or the next look, would not find.
            let _ = touched.try_send(event.paths);
        }
    });
    let watched = watcher.and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watched
        .inspect_err(|error| tracing::warn!(%error, "no notifications for the manifest folder; it is looked at every {LOOK_INTERVAL:?}"))
        .ok()
}

fn is_close_after_write(kind: notify::event::AccessKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    kind == AccessKind::Close(AccessMode::Write)
}

/// How long nothing must change before files are read: a writer is probably done then.
const SETTLE_QUIET: Duration = Duration::from_millis(40);

/// How long changes that never settle may hold reading up.
const SETTLE_MAX: Duration = Duration::from_millis(400);

/// How often the folder is looked at without a notification.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Notifications that may wait.
const EVENTS_MAX: usize = 1024;

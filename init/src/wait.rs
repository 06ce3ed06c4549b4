//! How the commands that stay wait: for a signal that ends them, for a change in a folder, or for a time.

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Waits. Signals are taken over while it lives.
pub struct Waiter {
    woken: Receiver<()>,
    wake: SyncSender<()>,
    stopped: Arc<AtomicBool>,
    signals: Handle,
    watchers: Vec<RecommendedWatcher>,
}

/// Why nothing can be waited for.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// Signals cannot be taken over.
    #[error("cannot take over SIGTERM and SIGINT")]
    Signals(#[source] io::Error),
    /// A folder cannot be watched.
    #[error("cannot watch {folder}; does it exist in this container, and are inotify instances left (fs.inotify.max_user_instances)?", folder = folder.display())]
    Watch {
        /// The folder.
        folder: PathBuf,
        /// What the kernel said.
        source: notify::Error,
    },
}

impl Waiter {
    /// Takes SIGTERM and SIGINT over.
    ///
    /// # Errors
    /// When the kernel does not let go of them.
    pub fn new() -> Result<Self, WaitError> {
        // One notice is enough, whatever happened meanwhile.
        let (wake, woken) = sync_channel(1);
        let stopped = Arc::new(AtomicBool::new(false));
        let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(WaitError::Signals)?;
        let (handle, told, waker) = (signals.handle(), Arc::clone(&stopped), wake.clone());
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for _ in signals.forever() {
                    told.store(true, Ordering::SeqCst);
                    // It is full when a notice waits already.
                    let _ = waker.try_send(());
                }
            })
            .map_err(WaitError::Signals)?;
        Ok(Self { woken, wake, stopped, signals: handle, watchers: Vec::new() })
    }

    /// Is woken by changes of names and contents in this folder from now on.
    ///
    /// # Errors
    /// When it is not there, or the kernel watches no more.
    pub fn watch(&mut self, folder: &Path) -> Result<(), WaitError> {
        let failed = |source| WaitError::Watch { folder: folder.to_owned(), source };
        let wake = self.wake.clone();
        let told = move |event: notify::Result<notify::Event>| {
            // Reading is what we do ourselves.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = wake.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(told).map_err(failed)?;
        watcher.watch(folder, RecursiveMode::NonRecursive).map_err(failed)?;
        self.watchers.push(watcher);
        Ok(())
    }

    /// Waits for a change, at most so long. Whether to go on.
    pub fn changed_or(&self, at_most: Duration) -> bool {
        let _ = self.woken.recv_timeout(at_most);
        !self.is_stopped()
    }

    /// Waits so long, whatever changes. Whether to go on.
    pub fn pause(&self, duration: Duration) -> bool {
        let end = Instant::now() + duration;
        let mut changed = false;
        while !self.is_stopped() {
            match self.woken.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(()) => changed = true,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        if changed {
            let _ = self.wake.try_send(());
        }
        !self.is_stopped()
    }

    /// Whether a signal came.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.signals.close();
    }
}

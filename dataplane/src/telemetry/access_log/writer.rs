//! The writer of entries: a bounded queue, and a thread that empties it into standard output.
//!
//! Waking a thread costs more than making an entry, so it is done seldom. The first entry after a pause is written at once;
//! those that follow are gathered until [`ENTRY_DELAY_MAX`] after that and go out together, earlier when they are many.
//! Without entries nothing wakes up.

use super::line::Line;
use std::{
    cell::RefCell,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A handle on the log; clones share it.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Handle>);

/// Says when nobody has a handle any more.
#[derive(Debug)]
struct Handle(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    /// Longest time that an entry waits for others.
    delay_max: Duration,
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

/// What was queued and is still to be written.
#[derive(Debug, Default)]
struct Waiting {
    /// Whole lines.
    lines: Vec<u8>,
    entries: usize,
    /// What the writer's thread has to be woken for.
    writer: Writer,
    /// There will be no more entries.
    closed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// It looks by itself when it has done what it does.
    #[default]
    Busy,
    /// It sleeps until there is an entry.
    Idle,
    /// It sleeps for a moment, unless there are many entries.
    Gathering,
}

impl AccessLog {
    /// Starts the thread that writes to standard output. It ends when the last clone is dropped and everything is written.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> io::Result<(Self, JoinHandle<()>)> {
        Self::start_into(io::stdout(), ENTRY_DELAY_MAX)
    }

    fn start_into(out: impl Write + Send + 'static, delay_max: Duration) -> io::Result<(Self, JoinHandle<()>)> {
        let queue = Arc::new(Queue { delay_max, waiting: Mutex::default(), wake: Condvar::new() });
        let log = Self(Arc::new(Handle(queue.clone())));
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || queue.write_all(out))?;
        Ok((log, thread))
    }

    /// Queues an entry; `false` when the queue is full and the entry is lost. Never waits for the output.
    pub(super) fn write(&self, line: &Line<'_>) -> bool {
        let queued = LINE.try_with(|bytes| {
            let mut bytes = bytes.borrow_mut();
            bytes.clear();
            let made = serde_json::to_writer(&mut *bytes, line).is_ok();
            bytes.push(b'\n');
            made && self.0.0.push(&bytes)
        });
        // Without its memory the thread is about to end.
        queued.unwrap_or(false)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A thread that panicked inside left whole lines or none: nothing in there can fail half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) -> bool {
        let mut waiting = self.lock();
        if waiting.entries >= QUEUE_ENTRIES_MAX {
            return false;
        }
        waiting.lines.extend_from_slice(line);
        waiting.entries += 1;
        let wake = match waiting.writer {
            Writer::Busy => false,
            Writer::Idle => true,
            Writer::Gathering => waiting.entries >= GATHER_ENTRIES_MAX,
        };
        if wake {
            // Others need not wake it, too.
            waiting.writer = Writer::Busy;
        }
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
        true
    }

    fn write_all(&self, mut out: impl Write) {
        let mut written_at = None;
        let mut lines = Vec::new();
        while self.take(written_at, &mut lines) {
            if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                // Standard output is gone. Entries are still taken from the queue, so that they are not counted as lost
                // to a reader that is slow.
                while self.take(Some(Instant::now()), &mut lines) {
                    lines.clear();
                }
                return;
            }
            written_at = Some(Instant::now());
            lines.clear();
            lines.shrink_to(KEPT_BYTES_MAX);
        }
    }

    /// Waits for entries, no longer than they may wait, and exchanges them for `lines`, which must be empty. False at the end.
    fn take(&self, written_at: Option<Instant>, lines: &mut Vec<u8>) -> bool {
        let mut waiting = self.lock();
        while waiting.entries == 0 {
            if waiting.closed {
                return false;
            }
            waiting.writer = Writer::Idle;
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let due = written_at.map(|at| at + self.delay_max);
        loop {
            let left = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
            if left.is_zero() || waiting.closed || waiting.entries >= GATHER_ENTRIES_MAX {
                break;
            }
            waiting.writer = Writer::Gathering;
            waiting = self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.writer = Writer::Busy;
        waiting.entries = 0;
        mem::swap(&mut waiting.lines, lines);
        true
    }
}

thread_local! {
    /// Where the thread's entries take their form, so that it is not done under the lock.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Longest time that an entry waits for others before it is written, if the output takes it.
const ENTRY_DELAY_MAX: Duration = Duration::from_millis(50);
/// Entries that may wait for the writer; more are dropped and counted. While the output takes nothing, as many again are
/// held that the writer has taken.
const QUEUE_ENTRIES_MAX: usize = 8192;
/// So many are not kept waiting: the queue must have room for what ends all at once.
const GATHER_ENTRIES_MAX: usize = 512;
/// Memory for lines that is kept after a burst.
const KEPT_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests;

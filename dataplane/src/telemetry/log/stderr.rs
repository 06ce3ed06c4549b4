//! Lines for stderr, written by a thread of their own.
//!
//! Invariant: whoever logs never waits for the reader of stderr. When the queue is full the line is lost, and the next one
//! that is written says how many were. A line holds no control character but its end, whatever was logged.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

/// A writer that queues; every `write` is one whole line.
#[derive(Debug, Clone)]
pub(super) struct Stderr {
    queue: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

/// What the thread is asked to do.
#[derive(Debug)]
enum Order {
    Write(Vec<u8>),
    /// Everything before is to be written; then the sender is dropped.
    Flush(SyncSender<()>),
}

impl Stderr {
    /// Starts the thread. It ends with the process.
    pub(super) fn start() -> (Self, Flush) {
        Self::start_into(io::stderr())
    }

    fn start_into(out: impl Write + Send + 'static) -> (Self, Flush) {
        let (queue, orders) = sync_channel(LINES_MAX);
        let stderr = Self { queue: queue.clone(), lost: Arc::default() };
        let lost = stderr.lost.clone();
        // Without a thread nothing can be logged; every line counts as lost, and the proxy fails where it starts its workers.
        let _ = std::thread::Builder::new().name("log".into()).spawn(move || write_all(&orders, &lost, out));
        (stderr, Flush(queue))
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Order::Write(one_line(line)))
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits, when dropped, until everything logged before is written; a bounded time, since nobody may be reading.
#[derive(Debug)]
pub(super) struct Flush(SyncSender<Order>);

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        if self.0.try_send(Order::Flush(done)).is_ok() {
            let answer = written.recv_timeout(FLUSH_TIMEOUT);
            debug_assert!(matches!(answer, Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)));
        }
    }
}

fn write_all(orders: &Receiver<Order>, lost: &AtomicU64, mut out: impl Write) {
    for order in orders {
        match order {
            Order::Write(line) => {
                let missing = lost.swap(0, Ordering::Relaxed);
                if missing > 0 {
                    // An error means that nobody reads stderr any more; there is nobody to tell.
                    let _ =
                        writeln!(out, "{missing} log lines were lost because standard error was not read fast enough");
                }
                let _ = out.write_all(&line);
            }
            Order::Flush(done) => {
                let _ = out.flush();
                drop(done);
            }
        }
    }
}

/// The text without control characters: a name that holds a newline or a terminal's escape must not forge a line.
fn one_line(text: &[u8]) -> Vec<u8> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut line = Vec::with_capacity(text.len() + 1);
    for byte in text {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            0..=0x1f | 0x7f => line.extend(byte.escape_ascii()),
            _ => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

/// Lines that may wait for the thread.
const LINES_MAX: usize = 1024;
/// Longest wait for the thread at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(one_line(b"a\nb\x1b[31mc\td\n"), b"a\\nb\\x1b[31mc\\td\n");
        assert_eq!(one_line("Gr\u{fc}n\n".as_bytes()), "Gr\u{fc}n\n".as_bytes());
    }

    #[test]
    fn what_was_logged_is_written_when_the_flush_is_over() {
        let written = Shared::default();
        let (mut stderr, flush) = Stderr::start_into(written.clone());
        stderr.write_all(b"one\n").expect("queueing never fails");
        stderr.write_all(b"two\n").expect("queueing never fails");
        drop(flush);
        assert_eq!(written.text(), "one\ntwo\n");
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
        let written = Shared::default();
        let (mut stderr, flush) = {
            let _stalled = written.0.lock().expect("not poisoned");
            let (mut stderr, flush) = Stderr::start_into(written.clone());
            for _ in 0..LINES_MAX + 10 {
                stderr.write_all(b"x\n").expect("queueing never fails");
            }
            (stderr, flush)
        };
        while stderr.lost.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        stderr.write_all(b"last\n").expect("queueing never fails");
        drop(flush);
        let text = written.text();
        assert!(text.contains(" log lines were lost"), "{text}");
        assert!(text.ends_with("last\n"), "{text}");
    }

    #[derive(Debug, Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("UTF-8")
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

//! The log's writer, with outputs that count, stall and fail.

use super::*;
use crate::telemetry::{
    Direction,
    access_log::{Entry, Sink},
    metrics::Metrics,
};
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn an_entry_after_a_pause_is_written_at_once_and_then_nothing_wakes_the_writer() {
    let (log, thread, out) = start(FOREVER);
    connection_ended(&log);
    until(|| out.lines() == 1);
    until(|| writer(&log) == Writer::Idle);
    drop(log);
    thread.join().expect("no panic");
}

#[test]
fn entries_that_follow_each_other_are_gathered_until_they_are_many() {
    let (log, thread, out) = start(FOREVER);
    connection_ended(&log);
    until(|| out.lines() == 1);
    for _ in 1..GATHER_ENTRIES_MAX {
        connection_ended(&log);
    }
    until(|| writer(&log) == Writer::Gathering);
    assert_eq!((out.lines(), out.writes()), (1, 1));
    connection_ended(&log);
    until(|| out.lines() == 1 + GATHER_ENTRIES_MAX);
    assert_eq!(out.writes(), 2, "all of them in one write");
    drop(log);
    thread.join().expect("no panic");
}

#[test]
fn a_gathered_entry_is_written_when_its_time_has_come() {
    let (log, thread, out) = start(Duration::from_millis(1));
    for written in 1..=3 {
        connection_ended(&log);
        until(|| out.lines() == written);
    }
    drop(log);
    thread.join().expect("no panic");
}

#[test]
fn what_was_gathered_is_written_at_the_end() {
    let (log, thread, out) = start(FOREVER);
    for _ in 0..100 {
        connection_ended(&log);
    }
    let clone = log.clone();
    drop(log);
    connection_ended(&clone);
    drop(clone);
    thread.join().expect("no panic");
    assert_eq!(out.lines(), 101);
}

#[test]
fn an_output_that_stalls_costs_entries_which_are_counted_and_no_time() {
    let (log, thread, out) = start(Duration::ZERO);
    let metrics = Metrics::new();
    let sink = Sink { metrics: metrics.clone(), log: Some(log.clone()) };
    {
        let _stalled = out.0.lines.lock().expect("not poisoned");
        connection_ended(&log);
        until(|| log.0.0.lock().entries == 0);
        for _ in 0..QUEUE_ENTRIES_MAX + 10 {
            drop(entry(&sink));
        }
    }
    drop((log, sink));
    thread.join().expect("no panic");
    assert_eq!((out.lines(), out.writes()), (1 + QUEUE_ENTRIES_MAX, 2));
    let text = metrics.encode();
    assert!(text.lines().any(|line| line == "heddle_access_log_dropped_total 10"), "{text}");
}

#[test]
fn an_output_that_is_gone_holds_up_nobody() {
    let (log, thread) = AccessLog::start_into(Gone, Duration::ZERO).expect("a thread can be made");
    connection_ended(&log);
    until(|| writer(&log) == Writer::Idle);
    for _ in 0..3 * GATHER_ENTRIES_MAX {
        connection_ended(&log);
    }
    until(|| log.0.0.lock().entries == 0);
    drop(log);
    thread.join().expect("no panic");
}

#[test]
fn every_thread_writes_whole_lines() {
    let (log, thread, out) = start(Duration::ZERO);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let log = log.clone();
            std::thread::spawn(move || (0..1000).for_each(|_| connection_ended(&log)))
        })
        .collect();
    for each in threads {
        each.join().expect("no panic");
    }
    drop(log);
    thread.join().expect("no panic");
    let text = out.0.lines.lock().expect("not poisoned");
    let whole = text.split_terminator('\n').filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
    assert_eq!(whole.count(), 4000);
}

fn start(delay_max: Duration) -> (AccessLog, JoinHandle<()>, Counting) {
    let out = Counting::default();
    let (log, thread) = AccessLog::start_into(out.clone(), delay_max).expect("a thread can be made");
    (log, thread, out)
}

/// A connection that ends at once.
fn connection_ended(log: &AccessLog) {
    drop(entry(&Sink { metrics: Metrics::new(), log: Some(log.clone()) }));
}

fn entry(sink: &Sink) -> Entry {
    let (source, destination) = (([10, 0, 0, 1], 40_000).into(), ([10, 0, 0, 2], 80).into());
    Entry::new(sink, Direction::Outbound, source, destination, Instant::now())
}

fn writer(log: &AccessLog) -> Writer {
    log.0.0.lock().writer
}

fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come");
        std::thread::yield_now();
    }
}

/// Keeps what is written, and how many writes that took. It stalls while its lines are locked.
#[derive(Debug, Clone, Default)]
struct Counting(Arc<Written>);

#[derive(Debug, Default)]
struct Written {
    lines: Mutex<String>,
    writes: AtomicUsize,
}

impl Counting {
    fn lines(&self) -> usize {
        self.0.lines.lock().expect("not poisoned").lines().count()
    }

    fn writes(&self) -> usize {
        self.0.writes.load(Ordering::Relaxed)
    }
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        self.0.lines.lock().expect("not poisoned").push_str(std::str::from_utf8(bytes).expect("UTF-8"));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes nothing: its reader has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Longer than any test lasts.
const FOREVER: Duration = Duration::from_secs(3600);

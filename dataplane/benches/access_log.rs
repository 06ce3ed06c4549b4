//! What the access log costs: entries that end at a steady pace, as short connections do, on two threads.
//!
//! Shown for each rate: how often the log's thread was woken (voluntary context switches, proc(5)), its CPU time, and the CPU
//! time of the threads that make the entries. Standard output is where the entries go; the figures go to stderr.
//!
//! `cargo bench -p heddle-dataplane --bench access_log -- SECONDS >/dev/null`

#![expect(clippy::disallowed_methods, reason = "the producers do nothing but wait for the clock")]

use heddle_dataplane::telemetry::{
    Direction,
    access_log::{AccessLog, Entry, Sink},
    metrics::Metrics,
};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

fn main() -> anyhow::Result<()> {
    let Some(seconds) = std::env::args().skip(1).find_map(|argument| argument.parse::<u32>().ok()) else {
        // `cargo test --all-targets` runs benches too, and only wants to know that they are there.
        return Ok(());
    };
    eprintln!("{:>10} {:>10} {:>12} {:>12} {:>14}", "entries/s", "written", "wake-ups/s", "log us/entry", "us/entry");
    for rate in [100, 1_000, 10_000, 40_000] {
        measure(rate, seconds)?;
    }
    Ok(())
}

/// Prints one row.
fn measure(rate: u32, seconds: u32) -> anyhow::Result<()> {
    let (log, writer) = AccessLog::start()?;
    let sink = Sink { metrics: Metrics::new(), log: Some(log) };
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|_| {
            let sink = sink.clone();
            thread::Builder::new().name(PRODUCER.into()).spawn(move || {
                produce(&sink, rate / PRODUCERS, seconds);
                Usage::of_self()
            })
        })
        .collect::<Result<_, _>>()?;
    let mut made = Duration::ZERO;
    for producer in producers {
        made += producer.join().map_err(|_| anyhow::anyhow!("a producer panicked"))??;
    }
    // The writer's thread was started for this row.
    let used = Usage::of(WRITER)?;
    drop(sink);
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    let entries = f64::from(rate) * f64::from(seconds);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / entries;
    eprintln!(
        "{rate:>10} {entries:>10.0} {:>12.0} {:>12.2} {:>14.2}",
        used.wakeups as f64 / f64::from(seconds),
        each(used.cpu),
        each(made),
    );
    Ok(())
}

/// Ends connections at a steady pace.
fn produce(sink: &Sink, rate: u32, seconds: u32) {
    let (source, destination) = (([10, 0, 0, 1], 40_000).into(), ([10, 0, 0, 2], 80).into());
    let begun = Instant::now();
    for index in 0..rate * seconds {
        let at = begun + Duration::from_secs(1) * index / rate;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let mut entry = Entry::new(sink, Direction::Outbound, source, destination, Instant::now());
        entry.workload = Some("Kubernetes//Pod/shop/cart-7d4b9c".into());
        (entry.bytes_sent, entry.bytes_received) = (120, 4096);
    }
}

/// What one thread has used.
struct Usage {
    wakeups: u64,
    cpu: Duration,
}

impl Usage {
    /// The thread of this name.
    fn of(name: &str) -> anyhow::Result<Self> {
        for task in fs::read_dir("/proc/self/task")? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.trim() == name {
                let status = fs::read_to_string(task.join("status"))?;
                let wakeups = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                let wakeups = wakeups.map(str::trim).unwrap_or_default().parse()?;
                return Ok(Self { wakeups, cpu: cpu(&fs::read_to_string(task.join("schedstat"))?)? });
            }
        }
        anyhow::bail!("there is no thread {name}")
    }

    /// CPU time of the calling thread.
    fn of_self() -> anyhow::Result<Duration> {
        cpu(&fs::read_to_string("/proc/thread-self/schedstat")?)
    }
}

/// The first field: nanoseconds on a CPU.
fn cpu(schedstat: &str) -> anyhow::Result<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().next().unwrap_or_default();
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

const PRODUCERS: u32 = 2;
const PRODUCER: &str = "producer";
/// The name that the writer's thread has.
const WRITER: &str = "access-log";

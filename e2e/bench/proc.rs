//! What the kernel says of a process: run time, memory, and a scheduling class for a while.

use anyhow::{Context, Result};
use std::{
    fs, io,
    time::{Duration, Instant},
};

/// Time that all threads of a process have run, in nanoseconds: `/proc/PID/task/*/schedstat`, first field
/// (Documentation/scheduler/sched-stats.rst). Includes the softirq work done in their context.
///
/// Threads that have ended since are not in it: compare readings of processes with a fixed set of threads.
pub(crate) fn run_time_ns(pid: u32) -> Result<u64> {
    let mut sum_ns = 0;
    for thread in threads(pid)? {
        let path = format!("/proc/{pid}/task/{thread}/schedstat");
        let text = match fs::read_to_string(&path) {
            // It ended after the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.with_context(|| path.clone())?,
        };
        let ran = text.split_ascii_whitespace().next().and_then(|field| field.parse::<u64>().ok());
        sum_ns += ran.with_context(|| format!("{path}: {text:?} has no run time"))?;
    }
    Ok(sum_ns)
}

/// Memory of a process, in KiB: `/proc/PID/status` (proc(5)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// `VmRSS`: everything resident, the mapped binary included.
    pub(crate) resident_kib: u64,
    /// `RssAnon`: heap and stacks only.
    pub(crate) anonymous_kib: u64,
}

impl Memory {
    /// Reads the memory of `pid` now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("{path}: has the process ended?"))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next());
            value.and_then(|kib| kib.parse().ok()).with_context(|| format!("{path} has no {name}"))
        };
        Ok(Self { resident_kib: field("VmRSS:")?, anonymous_kib: field("RssAnon:")? })
    }
}

/// Share of all processors that is busy right now, 0 to 1, watched for `window`.
pub(crate) fn busy_share(window: Duration) -> Result<f64> {
    let before = cpu_ticks()?;
    pause(window);
    let after = cpu_ticks()?;
    let total = after.0.saturating_sub(before.0).max(1);
    let idle = after.1.saturating_sub(before.1);
    Ok(1.0 - idle as f64 / total as f64)
}

/// Waits for `time`, for something that gives no sign when it is done.
pub(crate) fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// All ticks and idle ticks (idle, iowait) of `/proc/stat`'s first line.
fn cpu_ticks() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    Ok((ticks.iter().sum(), ticks.iter().skip(3).take(2).sum()))
}

/// Real-time round-robin class for all threads of some processes; back to the normal class when dropped.
///
/// Keeps background work of the machine out of a latency. Only for closed loops that sleep most of the time.
#[derive(Debug)]
pub(crate) struct RealTime {
    threads: Vec<libc::pid_t>,
}

impl RealTime {
    /// Priority within `SCHED_RR` (sched(7)); also for the load generator.
    pub(crate) const PRIORITY: i32 = 10;

    /// Moves all threads of `pids`.
    pub(crate) fn hold(pids: &[u32]) -> Result<Self> {
        let mut held = Self { threads: Vec::new() };
        for &pid in pids {
            for thread in threads(pid)? {
                set_class(thread, libc::SCHED_RR, Self::PRIORITY)
                    .with_context(|| format!("SCHED_RR for thread {thread} of process {pid}"))?;
                held.threads.push(thread);
            }
        }
        Ok(held)
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        for &thread in &self.threads {
            // A thread that has ended meanwhile needs nothing.
            let _gone = set_class(thread, libc::SCHED_OTHER, 0);
        }
    }
}

/// The thread ids of a process.
fn threads(pid: u32) -> Result<Vec<libc::pid_t>> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).with_context(|| format!("{path}: has the process ended?"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse()?)).collect()
}

fn set_class(thread: libc::pid_t, policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: `parameters` lives through the call; the kernel checks thread and policy.
    match unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

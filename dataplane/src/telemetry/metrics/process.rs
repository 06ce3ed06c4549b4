//! What the kernel says of this process, read at each scrape: proc(5).

use super::gauge;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

/// The usual `process_*` metrics.
#[derive(Debug)]
pub(super) struct Process {
    started: f64,
}

impl Process {
    pub(super) fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self { started: since_1970.map_or(0.0, |since| since.as_secs_f64()) }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let start_help = "When the process started, in seconds since 1970";
        gauge(&mut encoder, "process_start_time_seconds", start_help, self.started)?;
        if let Some(open) = open_fds() {
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", open)?;
        }
        if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
            gauge(&mut encoder, "process_resident_memory_bytes", "Resident memory", bytes)?;
        }
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
            let seconds = ConstCounter::new(seconds);
            let help = "User and system time of all threads";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, seconds.metric_type())?;
            seconds.encode(metric)?;
        }
        Ok(())
    }
}

/// Open descriptors, without the one that the look itself takes.
fn open_fds() -> Option<u64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as u64)
}

/// `VmRSS` of `/proc/self/status`, which is in KiB whatever the page size.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// `utime` + `stime` of `/proc/self/stat`: fields 14 and 15. The command, field 2, may hold spaces and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    let mut fields = after_command.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

/// `USER_HZ`, the unit of times in `/proc`: 100 on every architecture that the proxy is built for.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read_as_the_kernel_writes_them() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 2 0 100 1000 200";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("42 (x) S"), None);
        assert_eq!(resident_bytes(""), None);
    }
}

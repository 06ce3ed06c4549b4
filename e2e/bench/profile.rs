//! Where the proxies' CPU goes: perf(1) on both proxies of a subject while each kind of load passes.

use crate::{
    bed::Bed,
    bulk,
    load::{self, Shape},
    round::Plan,
};
use anyhow::{Context, Result, ensure};
use heddle_e2e::program;
use std::{
    fmt::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
};

/// Samples, and counts calls, in two separate runs of each load; returns a text, an empty one without proxies. The samples
/// stay in `folder`, as `<subject>-<load>.perf`.
///
/// # Errors
/// When perf is missing or refuses, or the load meets a fault.
pub(crate) fn take(bed: &Bed, plan: &Plan<'_>, folder: &Path) -> Result<String> {
    let mut text = String::new();
    let Some([client, server]) = bed.proxies()? else { return Ok(text) };
    let perf = program::system("perf")?;
    let pids = format!("{client},{server}");
    for load in [Load::Requests, Load::Connections, Load::Bulk] {
        let samples = folder.join(format!("{}-{}.perf", bed.subject, load.name()));
        let mut record = Command::new(&perf);
        record.args(["record", "-q", "-e", "cpu-clock", "-F", FREQUENCY_HZ, "-g", "-p", &pids, "-o"]).arg(&samples);
        beside(bed, plan, load, record)?;
        let _infallible = writeln!(text, "== {}, {}: samples by binary, then by symbol", bed.subject, load.name());
        for fields in ["overhead,dso", "overhead,dso,symbol"] {
            let mut report = Command::new(&perf);
            report.args(["report", "--stdio", "-q", "-g", "none", "--no-children", "--percent-limit", PERCENT_MIN]);
            report.args(["--fields", fields, "-i"]).arg(&samples);
            text.push_str(&output(report)?);
        }
        let mut stat = Command::new(&perf);
        stat.args(["stat", "-x", ",", "-p", &pids, "-e", &events()]);
        let (said, count) = beside(bed, plan, load, stat)?;
        let _infallible = writeln!(text, "== {}, {}: for each of {count:.0}", bed.subject, load.name());
        text.push_str(&by_unit(&said, count));
    }
    Ok(text)
}

/// What passes while perf looks.
#[derive(Debug, Clone, Copy)]
enum Load {
    /// Small requests on kept connections.
    Requests,
    /// A connection for each request.
    Connections,
    /// The big file; counted in megabytes.
    Bulk,
}

impl Load {
    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Bulk => "megabytes",
        }
    }

    /// Runs it: how many of what its name says.
    fn run(self, bed: &Bed, plan: &Plan<'_>) -> Result<f64> {
        match self {
            Self::Requests => Ok(load::run(bed, plan.script, Shape::KeepAlive, plan.seconds)?.requests),
            Self::Connections => Ok(load::run(bed, plan.script, Shape::Close, plan.seconds)?.requests),
            Self::Bulk => Ok(bulk::run(bed, plan.seconds)?.gigabytes() * 1e3),
        }
    }
}

/// perf stat's CSV (perf-stat(1): value, unit, event, …) as a number for each of `count`.
fn by_unit(said: &str, count: f64) -> String {
    let mut text = String::new();
    for line in said.lines() {
        let mut fields = line.split(',');
        let (value, name) = (fields.next().and_then(|value| value.parse::<f64>().ok()), fields.nth(1));
        if let (Some(value), Some(name)) = (value.filter(|value| value / count >= COUNT_MIN), name) {
            let short = name.trim_start_matches("syscalls:sys_enter_").trim_start_matches("raw_syscalls:");
            let _infallible = writeln!(text, "{:8.2}  {short}", value / count);
        }
    }
    text
}

/// All system calls, those that move bytes or wait, and switches.
fn events() -> String {
    let calls = SYSCALLS.map(|name| format!("syscalls:sys_enter_{name}"));
    format!("raw_syscalls:sys_enter,context-switches,{}", calls.join(","))
}

/// Runs `command` for as long as `load` passes: what it said, and how much passed.
fn beside(bed: &Bed, plan: &Plan<'_>, load: Load, mut command: Command) -> Result<(String, f64)> {
    command.args(["--", "sleep", &plan.seconds.to_string()]);
    thread::scope(|scope| {
        let observer = scope.spawn(|| output(command));
        let passed = load.run(bed, plan);
        let said = observer.join().expect("running a command does not panic")?;
        Ok((said, passed?))
    })
}

fn output(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}{complaint}", output.status);
    // perf stat prints its counts to standard error.
    Ok(if said.trim().is_empty() { complaint.into_owned() } else { said })
}

const FREQUENCY_HZ: &str = "997";
/// Symbols with less are left out.
const PERCENT_MIN: &str = "0.5";
/// What happens less often is left out.
const COUNT_MIN: f64 = 0.005;
const SYSCALLS: [&str; 16] = [
    "accept4",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_wait",
    "futex",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "socket",
    "write",
    "writev",
];

//! Where the proxies' CPU goes: perf(1) on both proxies of a subject while small requests pass.

use crate::{
    bed::Bed,
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

/// Samples, and counts calls, in two separate runs of load; returns a text, an empty one
/// without proxies. The samples stay in `folder`.
///
/// # Errors
/// When perf is missing or refuses, or the load meets a fault.
pub(crate) fn take(bed: &Bed, plan: &Plan<'_>, folder: &Path) -> Result<String> {
    let Some([client, server]) = bed.proxies()? else { return Ok(String::new()) };
    let perf = program::system("perf")?;
    let pids = format!("{client},{server}");
    let seconds = plan.seconds.to_string();
    let samples = folder.join(format!("{}.perf", bed.subject));

    let mut record = Command::new(&perf);
    record.args(["record", "-q", "-e", "cpu-clock", "-F", FREQUENCY_HZ, "-g", "-p", &pids, "-o"]).arg(&samples);
    record.args(["--", "sleep", &seconds]);
    beside_load(bed, plan, record)?;
    let mut text = format!("== {}: samples by binary, then by symbol\n", bed.subject);
    for sort in ["overhead,dso", "overhead,dso,symbol"] {
        let mut report = Command::new(&perf);
        report.args(["report", "--stdio", "-q", "-g", "none", "--no-children", "--percent-limit", PERCENT_MIN]);
        report.args(["--fields", sort, "-i"]).arg(&samples);
        text.push_str(&output(report)?);
    }

    let mut stat = Command::new(&perf);
    stat.args(["stat", "-x", ",", "-p", &pids, "-e", &events(), "--", "sleep", &seconds]);
    let (said, requests) = beside_load(bed, plan, stat)?;
    let _infallible = writeln!(text, "== {}: for each of {requests:.0} requests", bed.subject);
    for line in said.lines() {
        // perf-stat(1), CSV: value, unit, event, …
        let mut fields = line.split(',');
        let (count, name) = (fields.next().and_then(|count| count.parse::<f64>().ok()), fields.nth(1));
        if let (Some(count), Some(name)) = (count.filter(|count| count / requests >= COUNT_MIN), name) {
            let short = name.trim_start_matches("syscalls:sys_enter_").trim_start_matches("raw_syscalls:");
            let _infallible = writeln!(text, "{:8.2}  {short}", count / requests);
        }
    }
    Ok(text)
}

/// All system calls, those that move bytes or wait, and switches.
fn events() -> String {
    let calls = SYSCALLS.map(|name| format!("syscalls:sys_enter_{name}"));
    ["raw_syscalls:sys_enter".to_owned(), "context-switches".to_owned()]
        .into_iter()
        .chain(calls)
        .collect::<Vec<_>>()
        .join(",")
}

/// Runs `command` while wrk loads the bed: what it said, and the requests.
fn beside_load(bed: &Bed, plan: &Plan<'_>, command: Command) -> Result<(String, f64)> {
    thread::scope(|scope| {
        let observer = scope.spawn(|| output(command));
        let report = load::run(bed, plan.script, Shape::KeepAlive, plan.seconds);
        let said = observer.join().expect("running a command does not panic")?;
        Ok((said, report?.requests))
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
const PERCENT_MIN: &str = "0.7";
/// What happens less often a request is left out.
const COUNT_MIN: f64 = 0.005;
const SYSCALLS: [&str; 13] = [
    "sendto",
    "sendmsg",
    "write",
    "writev",
    "recvfrom",
    "recvmsg",
    "read",
    "readv",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "futex",
    "splice",
];

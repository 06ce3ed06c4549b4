//! Where the proxies' CPU goes: perf(1) on both proxies of a subject while small requests pass.

use crate::{
    bed::Bed,
    load::{self, Shape},
    round::Plan,
};
use anyhow::{Context, Result, ensure};
use heddle_e2e::program;
use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
};

/// Samples and counts calls in two separate runs of load; returns a text, an empty one
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
    for sort in ["dso", "dso,symbol"] {
        let mut report = Command::new(&perf);
        report.args(["report", "--stdio", "-q", "-g", "none", "--no-children", "--percent-limit", PERCENT_MIN]);
        report.args(["--sort", sort, "-i"]).arg(&samples);
        text.push_str(&output(report)?);
    }

    let mut trace = Command::new(&perf);
    trace.args(["trace", "-s", "-p", &pids, "--", "sleep", &seconds]);
    let (said, requests) = beside_load(bed, plan, trace)?;
    text.push_str(&format!("== {}: system calls during {requests:.0} requests\n", bed.subject));
    text.push_str(&said);
    Ok(text)
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
    // perf trace prints its summary to standard error.
    Ok(if said.trim().is_empty() { complaint.into_owned() } else { said })
}

const FREQUENCY_HZ: &str = "997";
/// Symbols with less are left out.
const PERCENT_MIN: &str = "0.7";

//! Small requests: wrk against a one-kilobyte page, refused unless every answer was a 200 and no socket failed.

use crate::{bed::Bed, proc::RealTime, web};
use anyhow::{Context, Result, bail, ensure};
use heddle_e2e::{process::Rights, program, wait};
use std::{path::Path, time::Duration};

/// Connections of the throughput and new-connection phases.
pub(crate) const CONNECTIONS: u32 = 64;

/// How wrk speaks in one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// [`CONNECTIONS`] keep-alive connections, each a closed loop.
    KeepAlive,
    /// The same, but every request closes its connection.
    Close,
    /// One keep-alive connection, in the real-time class where the machine grants it.
    Single {
        /// wrk runs in the class of [`RealTime`].
        real_time: bool,
    },
}

/// What wrk saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    /// Complete answers.
    pub(crate) requests: f64,
    /// How long wrk really ran.
    pub(crate) duration: Duration,
    /// Median latency, in µs.
    pub p50_us: f64,
    /// 99th percentile, in µs.
    pub p99_us: f64,
}

impl Report {
    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests / self.duration.as_secs_f64()
    }
}

/// Runs wrk in the client's pod for `seconds`. `script` is a file with [`SCRIPT`].
///
/// # Errors
/// When wrk cannot run, or counted a fault: then its figures are no measure.
pub(crate) fn run(bed: &Bed, script: &Path, shape: Shape, seconds: u32) -> Result<Report> {
    let (connections, extra): (u32, &[&str]) = match shape {
        Shape::KeepAlive => (CONNECTIONS, &[]),
        Shape::Close => (CONNECTIONS, &["-H", "Connection: close"]),
        Shape::Single { .. } => (1, &[]),
    };
    let wrk = program::system("wrk")?;
    let launch = match shape {
        Shape::Single { real_time: true } => bed.client.launch(program::system("chrt")?, Rights::Harness).args([
            "--rr".as_ref(),
            RealTime::PRIORITY.to_string().as_ref(),
            wrk.as_os_str(),
        ]),
        _ => bed.client.launch(wrk, Rights::Harness),
    };
    let said = launch
        .args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"])
        .args([script])
        .args(extra)
        .args([format!("http://{}{}", bed.application(), web::SMALL)])
        .output(Duration::from_secs(u64::from(seconds)) + wait::PATIENCE)?
        .success()?;
    let line =
        said.lines().find_map(|line| line.strip_prefix("bench ")).with_context(|| format!("wrk said: {said}"))?;
    parse(line).with_context(|| format!("{} ({shape:?}): a run with faults is no measure: {line}", bed.subject))
}

/// Reads the line of `wrk.lua`; an error if wrk counted any fault or no answer.
fn parse(line: &str) -> Result<Report> {
    let field = |name: &str| -> Result<f64> {
        let value = line.split_ascii_whitespace().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        Ok(value.with_context(|| format!("no {name}"))?.parse()?)
    };
    for fault in ["connect", "read", "write", "timeout", "status"] {
        let count = field(fault)?;
        if count > 0.0 {
            bail!("{count} {fault} errors");
        }
    }
    let requests = field("requests")?;
    ensure!(requests > 0.0, "no answer at all");
    Ok(Report {
        requests,
        duration: Duration::from_secs_f64(field("duration_us")? / 1e6),
        p50_us: field("p50_us")?,
        p99_us: field("p99_us")?,
    })
}

/// The script that makes wrk print what [`run`] reads.
pub(crate) const SCRIPT: &str = include_str!("wrk.lua");

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "requests=3000 duration_us=1500000 connect=0 read=0 write=0 timeout=0 status=0 p50_us=158 p99_us=360";

    #[test]
    fn the_rate_uses_the_time_that_wrk_ran() {
        let report = parse(GOOD).unwrap();
        assert!((report.rate() - 2000.0).abs() < 1e-9);
        assert!((report.p99_us - 360.0).abs() < 1e-9);
    }

    #[test]
    fn a_run_with_faults_is_refused() {
        for broken in
            [GOOD.replace("status=0", "status=2"), GOOD.replace("read=0", "read=1"), GOOD.replace("3000", "0")]
        {
            assert!(parse(&broken).is_err(), "{broken}");
        }
        assert!(parse("requests=3").is_err());
    }
}

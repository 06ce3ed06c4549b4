//! One round of one subject: every phase once, and what the proxies ran for each.

use crate::{
    bed::Bed,
    bulk, idle, interrupt,
    load::{self, Shape},
    measure::{Figures, Measure},
    proc::{self, Memory, RealTime},
};
use anyhow::{Context, Result};
use std::path::Path;

/// How a round is run.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// A file with [`load::SCRIPT`].
    pub(crate) script: &'a Path,
    /// Length of a phase.
    pub(crate) seconds: u32,
    /// The latency phase runs in the real-time class.
    pub(crate) real_time: bool,
}

/// Runs all phases that a round has.
///
/// # Errors
/// When a phase met any fault: a broken run is refused, not printed.
pub(crate) fn run(bed: &Bed, plan: &Plan<'_>, figures: &mut Figures) -> Result<()> {
    let (report, ran_us) = metered(bed, || load::run(bed, plan.script, Shape::KeepAlive, plan.seconds))?;
    figures.push(Measure::RequestsPerSecond, report.rate());
    figures.extend(Measure::CpuPerRequest, ran_us.map(|us| us / report.requests));

    let report = {
        let _class = plan.real_time.then(|| bed.pids().and_then(|pids| RealTime::hold(&pids))).transpose()?;
        load::run(bed, plan.script, Shape::Single { real_time: plan.real_time }, plan.seconds)?
    };
    figures.push(Measure::LatencyP50, report.p50_us);
    figures.push(Measure::LatencyP99, report.p99_us);

    let (report, ran_us) = metered(bed, || load::run(bed, plan.script, Shape::Close, plan.seconds))?;
    figures.push(Measure::ConnectionsPerSecond, report.rate());
    figures.extend(Measure::CpuPerConnection, ran_us.map(|us| us / report.requests));

    let (report, ran_us) = metered(bed, || bulk::run(bed, plan.seconds))?;
    figures.push(Measure::GbitPerSecond, report.gbit_per_second());
    figures.extend(Measure::CpuPerGb, ran_us.map(|us| us / 1e6 / report.gigabytes()));
    Ok(())
}

/// Resident memory of both proxies, as `measure`.
///
/// # Errors
/// When a proxy has ended.
pub(crate) fn resident(bed: &Bed, measure: Measure, figures: &mut Figures) -> Result<()> {
    let Some(proxies) = bed.proxies()? else { return Ok(()) };
    let [client, server] = proxies.map(Memory::of);
    figures.push(measure, (client?.resident_kib + server?.resident_kib) as f64 / 1024.0);
    Ok(())
}

/// What an idle connection costs each proxy.
///
/// # Errors
/// When a connection fails or is lost.
pub(crate) fn idle_connections(bed: &Bed, figures: &mut Figures) -> Result<()> {
    let Some(proxies) = bed.proxies()? else { return Ok(()) };
    let [client, server] = idle::kib_per_connection(bed, proxies)?;
    figures.push(Measure::IdleConnectionClient, client);
    figures.push(Measure::IdleConnectionServer, server);
    Ok(())
}

/// Does `work`, and tells for how many µs both proxies ran meanwhile, if there are any.
fn metered<T>(bed: &Bed, work: impl FnOnce() -> Result<T>) -> Result<(T, Option<f64>)> {
    interrupt::check()?;
    let before = run_time_ns(bed)?;
    let done = work()?;
    let after = run_time_ns(bed)?;
    let ran_us = before.zip(after).map(|(before, after)| after.saturating_sub(before) as f64 / 1e3);
    Ok((done, ran_us))
}

fn run_time_ns(bed: &Bed) -> Result<Option<u64>> {
    let Some(proxies) = bed.proxies()? else { return Ok(None) };
    let [client, server] = proxies.map(proc::run_time_ns);
    let sum = client.and_then(|client| Ok(client + server?));
    sum.with_context(|| format!("{}: a proxy has ended", bed.subject)).map(Some)
}

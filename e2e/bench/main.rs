//! `heddle-bench`: the same work done directly, through Heddle and through Envoy, side by side in one run.
//!
//! ```text
//!   wrk ── client's proxy ══ mutual TLS over veth ══ server's proxy ── nginx      one worker each, everything on this machine
//! ```
//! Rounds are interleaved (direct, heddle, envoy, direct, …) and the table shows medians. CPU is what the kernel counted for
//! both proxies; it repeats well, rates and latencies of one machine do not. What binds is the ratio within one run.

mod bed;
mod bulk;
mod envoy;
mod http;
mod idle;
mod interrupt;
mod load;
mod measure;
mod options;
mod proc;
mod profile;
mod quiet;
mod round;
mod table;
mod web;

use crate::{
    bed::{Bed, Subject},
    load::Shape,
    measure::{Figures, Measure},
    options::Options,
    proc::RealTime,
    round::Plan,
    table::{Results, Verdict},
};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use heddle_e2e::program;
use std::{fs, path::Path, process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let options = Options::parse();
    match bench(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("heddle-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything; whether the goals are met, if they were to be asserted.
fn bench(options: &Options) -> Result<bool> {
    interrupt::catch();
    raise_file_limit()?;
    let folder = program::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let json = options.json.clone().unwrap_or_else(|| folder.join("l4.json"));
    let script = folder.join("wrk.lua");
    fs::write(&script, load::SCRIPT).with_context(|| script.display().to_string())?;

    let mut facts = machine();
    facts.push(("busy before the run", format!("{:.0} % of all processors", proc::busy_share(A_SECOND)? * 100.0)));
    let priority = quiet::Priority::raise();
    if let Err(error) = &priority {
        eprintln!("other work is not kept out: {error:#}");
    }
    let mut beds = bring_up(options, &mut facts)?;
    let plan = plan(options, &script, &beds)?;
    run(&plan, options.rounds(), &mut beds)?;
    facts.extend(conditions(&plan, options.rounds()));
    facts.extend(beds.iter().find_map(|(bed, _)| Some(("envoy's TLS", bed.cipher()?))));
    if options.profile {
        for (bed, _) in &beds {
            print!("{}", profile::take(bed, &plan, &folder)?);
        }
    }
    let results = Results { subjects: beds.into_iter().map(|(bed, figures)| (bed.subject, figures)).collect(), facts };

    print!("{}", results.text());
    let text = serde_json::to_string_pretty(&results.json())? + "\n";
    fs::write(&json, text).with_context(|| json.display().to_string())?;
    println!("json: {}", json.display());
    let verdicts = results.verdicts();
    let met = !verdicts.is_empty() && verdicts.iter().all(Verdict::met);
    Ok(met || !options.assert_goals)
}

/// Every subject, warm, with its memory before any load.
fn bring_up(options: &Options, facts: &mut Facts) -> Result<Vec<(Bed, Figures)>> {
    let envoy = options.envoy.clone().unwrap_or_else(|| program::target().join(ENVOY));
    let envoy = envoy::Binary::at(envoy);
    let subjects = options.subjects();
    if subjects.contains(&Subject::Envoy) {
        facts.push(("envoy", envoy.version()?));
    }
    let mut beds = Vec::new();
    for subject in subjects {
        interrupt::check()?;
        eprintln!("bringing up {subject}");
        beds.push((Bed::start(subject, &envoy)?, Figures::default()));
    }
    proc::pause(A_SECOND);
    for (bed, figures) in &mut beds {
        round::resident(bed, Measure::RssIdle, figures)?;
    }
    Ok(beds)
}

/// How rounds are run on this machine, which may refuse the real-time class.
fn plan<'a>(options: &Options, script: &'a Path, beds: &[(Bed, Figures)]) -> Result<Plan<'a>> {
    let (first, _) = beds.first().context("nothing to measure")?;
    let real_time = RealTime::hold(&first.pids()?).map(drop);
    if let Err(error) = &real_time {
        eprintln!("latencies are taken in the normal scheduling class: {error:#}");
    }
    Ok(Plan { script, seconds: options.seconds(), real_time: real_time.is_ok() })
}

/// All rounds, subject after subject in each, and then what only the end can tell.
fn run(plan: &Plan<'_>, rounds: u32, beds: &mut [(Bed, Figures)]) -> Result<()> {
    for (bed, _) in &*beds {
        load::run(bed, plan.script, Shape::KeepAlive, 1).context("warming up")?;
    }
    for number in 1..=rounds {
        for (bed, figures) in &mut *beds {
            eprintln!("round {number} of {rounds}: {}", bed.subject);
            round::run(bed, plan, figures)?;
        }
    }
    for (bed, figures) in beds {
        eprintln!("idle connections: {}", bed.subject);
        round::resident(bed, Measure::RssAfterLoad, figures)?;
        round::idle_connections(bed, figures)?;
        interrupt::check()?;
    }
    Ok(())
}

/// Things worth knowing about a run, by name.
type Facts = Vec<(&'static str, String)>;

fn machine() -> Facts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        ("processors", format!("{count} x {}", model.map_or("unknown", |(_, name)| name))),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
    ]
}

fn conditions(plan: &Plan<'_>, rounds: u32) -> Facts {
    let class = if plan.real_time { "real-time (SCHED_RR)" } else { "normal" };
    vec![
        ("rounds", format!("{rounds}, the median is shown; {} s a phase", plan.seconds)),
        ("load", format!("wrk and nginx on the same machine, page of {} bytes", web::SMALL_BYTES)),
        ("idle connections", format!("{}, anonymous memory", idle::CONNECTIONS)),
        ("latency's scheduling class", class.to_owned()),
        ("congestion control", bed::CONGESTION_CONTROL.to_owned()),
    ]
}

/// Two thousand connections need more than the usual 1,024 descriptors, here and in what is started from here.
fn raise_file_limit() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max.min(FILES_MAX);
    // SAFETY: `limit` is initialised.
    let written = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    ensure!(read == 0 && written == 0, "the limit of open files: {}", std::io::Error::last_os_error());
    Ok(())
}

const A_SECOND: Duration = Duration::from_secs(1);
const FILES_MAX: libc::rlim_t = 65_536;
/// Where `cargo xtask bench` installs Envoy, below the target folder.
const ENVOY: &str = "tools/envoy/bin/envoy";

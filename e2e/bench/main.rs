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
mod ground;
mod heddle;
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
    table::Results,
};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use heddle_e2e::{netns, program};
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
    netns::sweep();
    raise_file_limit()?;
    let folder = program::target().join("bench");
    let run = folder.join("run");
    // What the last run left when it failed.
    let _absent = fs::remove_dir_all(&run);
    fs::create_dir_all(&run)?;

    let busy = proc::busy_share(Duration::from_secs(1))?;
    let priority = quiet::Priority::raise();
    if let Err(error) = &priority {
        eprintln!("other work is not kept out: {error:#}");
    }
    let envoy = options.envoy.clone().unwrap_or_else(|| program::target().join(ENVOY));
    let script = run.join("wrk.lua");
    fs::write(&script, load::SCRIPT)?;

    let mut facts = machine();
    facts.push(("busy before the run", format!("{:.0} % of all processors", busy * 100.0)));
    let measured = measure(options, &run, &script, &envoy, &mut facts);
    let results = measured.with_context(|| format!("logs are in {}", run.display()))?;
    fs::remove_dir_all(&run)?;

    print!("{}", results.text());
    let json = options.json.clone().unwrap_or_else(|| folder.join("l4.json"));
    let text = serde_json::to_string_pretty(&results.json())? + "\n";
    fs::write(&json, text).with_context(|| json.display().to_string())?;
    println!("written: {}", json.display());
    let verdicts = results.verdicts();
    let missed = verdicts.iter().filter(|verdict| !verdict.met()).count();
    Ok(!(options.assert_goals && (missed > 0 || verdicts.is_empty())))
}

/// Brings all subjects up, runs the rounds, takes all down.
fn measure(options: &Options, run: &Path, script: &Path, envoy: &Path, facts: &mut Facts) -> Result<Results> {
    let subjects = options.subjects();
    if subjects.contains(&Subject::Envoy) {
        facts.push(("envoy", envoy::version(envoy)?));
    }
    let mut beds = Vec::new();
    for subject in subjects {
        eprintln!("bringing up {subject}");
        beds.push((Bed::start(subject, &run.join(subject.name()), envoy)?, Figures::default()));
        interrupt::check()?;
    }
    proc::pause(Duration::from_secs(1));
    for (bed, figures) in &mut beds {
        round::resident(bed, Measure::RssIdle, figures)?;
        load::run(bed, script, Shape::KeepAlive, 1).context("warming up")?;
    }
    let first = beds.first().context("--only names no subject")?;
    let real_time = RealTime::hold(&first.0.pids()).map(drop);
    if let Err(error) = &real_time {
        eprintln!("latencies are taken in the normal scheduling class: {error:#}");
    }
    let plan = Plan { script, seconds: options.seconds(), real_time: real_time.is_ok() };
    for number in 1..=options.rounds() {
        for (bed, figures) in &mut beds {
            eprintln!("round {number} of {}: {}", options.rounds(), bed.subject);
            round::run(bed, &plan, figures)?;
        }
    }
    for (bed, figures) in &mut beds {
        round::resident(bed, Measure::RssAfterLoad, figures)?;
        eprintln!("idle connections: {}", bed.subject);
        round::idle_connections(bed, figures)?;
        interrupt::check()?;
    }
    facts.extend(conditions(&plan, options.rounds()));
    if let Some(cipher) = beds.iter().find(|(bed, _)| bed.subject == Subject::Envoy).and_then(|_| envoy::cipher(run)) {
        facts.push(("envoy's TLS", cipher));
    }
    if options.profile {
        for (bed, _) in &beds {
            if let Some(proxies) = &bed.proxies {
                println!("{}", profile::take(bed, proxies, &plan, &program::target().join("bench"))?);
            }
        }
    }
    Ok(Results {
        subjects: beds.into_iter().map(|(bed, figures)| (bed.subject, figures)).collect(),
        facts: facts.clone(),
    })
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
        ("congestion control", ground::CONGESTION_CONTROL.to_owned()),
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

const FILES_MAX: libc::rlim_t = 65_536;
/// Where `cargo xtask bench` installs Envoy, below the target folder.
const ENVOY: &str = "tools/envoy/bin/envoy";

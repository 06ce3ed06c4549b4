//! The command line.

use crate::bed::Subject;
use std::path::PathBuf;

/// Runs the same work directly, through Heddle and through Envoy, and prints what each costs.
///
/// Needs root, network namespaces, wrk, nginx, tcpdump, openssl and setpriv. Nothing leaves the namespaces made here.
#[derive(Debug, clap::Parser)]
#[command(name = "heddle-bench")]
pub(crate) struct Options {
    /// Rounds of every phase; the table shows the median. Default 3, with --quick 1.
    #[arg(long, env = "HEDDLE_ROUNDS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,

    /// Length of a phase, in seconds. Default 3, with --quick 2.
    #[arg(long, env = "HEDDLE_SECONDS", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,

    /// One short round: shows that everything works, not what it costs.
    #[arg(long, env = "HEDDLE_QUICK")]
    quick: bool,

    /// Only these, separated by commas. Default: all.
    #[arg(long, env = "HEDDLE_ONLY", value_name = "SUBJECTS", value_delimiter = ',', value_parser = subject)]
    only: Vec<Subject>,

    /// Afterwards, sample both proxies of each subject with perf and count their system calls.
    #[arg(long, env = "HEDDLE_PROFILE")]
    pub(crate) profile: bool,

    /// The file for the result in JSON. Default: bench/l4.json in the target folder.
    #[arg(long, env = "HEDDLE_JSON", value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// The Envoy to compare with. Default: tools/envoy/bin/envoy in the target folder, where `cargo xtask bench` installs it.
    #[arg(long, env = "HEDDLE_ENVOY", value_name = "BIN")]
    pub(crate) envoy: Option<PathBuf>,

    /// Exit with 1 when a goal is missed, or when none could be judged.
    #[arg(long, env = "HEDDLE_ASSERT_GOALS")]
    pub(crate) assert_goals: bool,
}

impl Options {
    /// How often every phase runs.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// How long a phase is.
    pub(crate) fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 3 })
    }

    /// What to measure, in the order of a round.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let wanted = |subject: &Subject| self.only.is_empty() || self.only.contains(subject);
        Subject::ALL.into_iter().filter(wanted).collect()
    }
}

fn subject(name: &str) -> Result<Subject, String> {
    let found = Subject::ALL.into_iter().find(|subject| subject.name() == name);
    found.ok_or_else(|| format!("`{name}` is none of {}", Subject::ALL.map(Subject::name).join(", ")))
}

//! Every routine job of the repository: `cargo xtask ci | demo | bench | tidy | docs`.
//!
//! Invariant: depends on no crate of the workspace and on nothing that compiles C, so that it runs before the
//! machine has what the product needs.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod demo;
mod deny;
mod docs;
mod process;
mod system;
mod tidy;

use anyhow::{Result, bail};
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask JOB [OPTIONS]

Jobs
  demo [-- OPTIONS]   builds Heddle, runs a mesh of three pods on this machine and shows what it does (--keep: leaves it up)
  ci                  every check of the first tier; `ci --full` adds the long ones, `ci --only STEP` runs one
  bench [-- OPTIONS]  direct, Heddle and Envoy side by side (release build)
  tidy                the rules of the source tree: who may use whom, file and function sizes, first lines
  docs [--check]      writes docs/configuration.md and the list in docs/testing.md from the sources; --check only compares

Each job installs the system packages that it lacks (Debian, as root or with sudo) and says so.

Options of `ci`
  --full               adds the long scenarios, a short bench and the known advisories
  --only STEP          runs only this step (may be repeated); `ci --list` names them
  --list               names the steps
  --advisory-db DIR    a copy of the RustSec advisory database [env: HEDDLE_ADVISORY_DB]
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let Some((job, rest)) = arguments.split_first() else {
        print!("{HELP}");
        return Ok(ExitCode::FAILURE);
    };
    // `cargo xtask demo -- --keep` and `cargo xtask demo --keep` mean the same.
    let rest = rest.strip_prefix(&["--".to_owned()]).unwrap_or(rest);
    match job.as_str() {
        "ci" => ci::run(ci::Options::parse(rest)?),
        "demo" => demo::run(rest).map(|()| ExitCode::SUCCESS),
        "bench" => bench::run(rest).map(|()| ExitCode::SUCCESS),
        "tidy" if rest.is_empty() => tidy::run().map(|()| ExitCode::SUCCESS),
        "docs" if rest.is_empty() => docs::write().map(|()| ExitCode::SUCCESS),
        "docs" if rest == ["--check"] => docs::check().map(|()| ExitCode::SUCCESS),
        "tidy" | "docs" => bail!("`{job}` does not take `{}`; see `cargo xtask help`", rest.join(" ")),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("there is no job `{other}`; see `cargo xtask help`"),
    }
}

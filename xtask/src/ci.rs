//! `cargo xtask ci`: every check, in two tiers, with a table at the end.
//!
//! A step that fails does not stop those that do not need it; one run names everything that is wrong.

mod programs;

use crate::{bench, deny, docs, process, system, tidy};
use anyhow::{Context, Result, bail};
use std::{
    env,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

/// What was asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The second tier too.
    full: bool,
    /// Only these steps; all of the tier when empty.
    only: Vec<String>,
    /// Print the steps and end.
    list: bool,
    /// A copy of the RustSec advisory database.
    advisory_db: Option<PathBuf>,
}

impl Options {
    /// From the words after `ci`; an unknown one is an error.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self { advisory_db: env::var_os("HEDDLE_ADVISORY_DB").map(PathBuf::from), ..Self::default() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--full" => options.full = true,
                "--list" => options.list = true,
                "--only" => options.only.push(words.next().context("--only needs the name of a step")?.clone()),
                "--advisory-db" => {
                    options.advisory_db = Some(words.next().context("--advisory-db needs a folder")?.into());
                }
                other => bail!("`ci` does not know `{other}`; see `cargo xtask help`"),
            }
        }
        if let Some(unknown) = options.only.iter().find(|name| !STEPS.iter().any(|step| step.name == **name)) {
            bail!("there is no step `{unknown}`; `cargo xtask ci --list` names them");
        }
        Ok(options)
    }
}

/// One row of the run.
struct Step {
    name: &'static str,
    what: &'static str,
    /// Only with `--full`.
    full: bool,
    /// The step whose success this one needs.
    after: Option<&'static str>,
    run: fn(&Options) -> Result<Outcome>,
}

/// How a step ended that did not fail.
enum Outcome {
    Passed,
    /// Not done here, and why.
    LeftOut(String),
}

const fn step(name: &'static str, what: &'static str, run: fn(&Options) -> Result<Outcome>) -> Step {
    Step { name, what, full: false, after: None, run }
}

impl Step {
    const fn after(self, name: &'static str) -> Self {
        Self { after: Some(name), ..self }
    }

    const fn full(self) -> Self {
        Self { full: true, ..self }
    }
}

/// In the order of the run: what is quick to fail comes first.
const STEPS: &[Step] = &[
    step("system", "programs that the checks need", |_| {
        passed(system::install(&[system::BUILD, system::PODS]).and_then(|()| system::go().map(drop)))
    }),
    step("fmt", "cargo fmt", |_| passed(process::run(&mut process::cargo(["fmt", "--all", "--check"])))),
    step("tidy", "the rules of the source tree", |_| passed(tidy::run())),
    step("advisories", "known vulnerabilities", |options| {
        deny::advisories(options.advisory_db.as_deref()).map(Outcome::from)
    }),
    step("deny", "licences, duplicates, bans", |options| deny::policy(options.full).map(Outcome::from)),
    step("clippy", "clippy, warnings are errors", |_| passed(clippy())).after("system"),
    step("build", "the binaries and the test programs", |_| passed(programs::build())).after("system"),
    step("docs", "the generated pages are current", |_| passed(docs::compare())).after("build"),
    step("test", "unit tests, and stages in one process", |_| passed(programs::unit())).after("build"),
    step("e2e", "the product in network namespaces", |options| passed(programs::e2e(options.full))).after("build"),
    step("rustdoc", "the API docs, warnings are errors", |_| passed(rustdoc())).after("system"),
    step("bench", "a short bench beside Envoy", |_| passed(smoke_bench())).after("build").full(),
];

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

impl From<Option<String>> for Outcome {
    fn from(left_out: Option<String>) -> Self {
        left_out.map_or(Self::Passed, Self::LeftOut)
    }
}

/// Runs the steps that `options` asks for; the exit code says whether all passed.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    if options.list {
        for step in STEPS {
            println!("{:<12} {}{}", step.name, step.what, if step.full { " (--full)" } else { "" });
        }
        return Ok(ExitCode::SUCCESS);
    }
    system::components()?;
    let start = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    for step in STEPS.iter().filter(|step| chosen(step, &options)) {
        rows.push(take(step, &options, &rows));
    }
    Ok(report(&rows, start.elapsed(), options.full))
}

fn chosen(step: &Step, options: &Options) -> bool {
    if options.only.is_empty() { options.full || !step.full } else { options.only.iter().any(|name| name == step.name) }
}

/// One line of the table at the end.
struct Row {
    name: &'static str,
    took: Duration,
    ended: Ended,
}

enum Ended {
    Passed,
    LeftOut(String),
    Failed(String),
}

fn take(step: &Step, options: &Options, before: &[Row]) -> Row {
    println!("\n=== {}: {}", step.name, step.what);
    let start = Instant::now();
    let needed = step.after.and_then(|name| before.iter().find(|row| row.name == name));
    let ended = match needed {
        Some(Row { name, ended: Ended::Failed(_), .. }) => {
            Ended::Failed(format!("not run: it needs `{name}`, which failed"))
        }
        _ => match (step.run)(options) {
            Ok(Outcome::Passed) => Ended::Passed,
            Ok(Outcome::LeftOut(why)) => Ended::LeftOut(why),
            Err(error) => Ended::Failed(format!("{error:#}")),
        },
    };
    let took = start.elapsed();
    match &ended {
        Ended::Passed => println!("--- {}: passed in {:.1} s", step.name, took.as_secs_f64()),
        Ended::LeftOut(why) => println!("--- {}: left out: {why}", step.name),
        Ended::Failed(why) => println!("--- {}: FAILED: {why}", step.name),
    }
    Row { name: step.name, took, ended }
}

fn report(rows: &[Row], took: Duration, full: bool) -> ExitCode {
    println!("\nstep            seconds  result");
    for row in rows {
        let result = match &row.ended {
            Ended::Passed => "passed".to_owned(),
            Ended::LeftOut(why) => format!("left out: {why}"),
            Ended::Failed(why) => format!("FAILED: {why}"),
        };
        println!("{:<14} {:>8.1}  {result}", row.name, row.took.as_secs_f64());
    }
    let failed: Vec<&str> =
        rows.iter().filter(|row| matches!(row.ended, Ended::Failed(_))).map(|row| row.name).collect();
    let tier = if full { "both tiers" } else { "the first tier" };
    println!("{tier}: {:.0} s in all", took.as_secs_f64());
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    println!("one step again: cargo xtask ci --only {}", failed[0]);
    ExitCode::FAILURE
}

fn clippy() -> Result<()> {
    process::run(&mut process::cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn rustdoc() -> Result<()> {
    let mut command = process::cargo(["doc", "--workspace", "--no-deps", "--document-private-items"]);
    // Read by whoever changes the code: private items are part of the pages, so links to them lead somewhere.
    process::run(command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))
}

fn smoke_bench() -> Result<()> {
    process::run(bench::prepare(&["--quick".to_owned()])?.stdin(Stdio::null()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_parsed_and_mistakes_are_named() {
        let options = Options::parse(&words("--full --only e2e --only fmt --advisory-db db")).unwrap();
        assert!(options.full);
        assert_eq!(options.only, ["e2e", "fmt"]);
        assert_eq!(options.advisory_db, Some(PathBuf::from("db")));
        assert!(Options::parse(&words("--only nothing")).unwrap_err().to_string().contains("no step `nothing`"));
        assert!(Options::parse(&words("--fast")).unwrap_err().to_string().contains("--fast"));
    }

    #[test]
    fn a_failed_step_fails_the_run_and_takes_along_only_what_needs_it() {
        let options = Options::default();
        let build = take(&step("build", "", |_| bail!("no linker")), &options, &[]);
        let rows = [build];
        let needs = take(&step("e2e", "", |_| passed(Ok(()))).after("build"), &options, &rows);
        assert!(matches!(needs.ended, Ended::Failed(why) if why.contains("needs `build`")));
        let independent = take(&step("fmt", "", |_| passed(Ok(()))), &options, &rows);
        assert!(matches!(independent.ended, Ended::Passed));
        assert_eq!(report(&rows, Duration::ZERO, false), ExitCode::FAILURE);
        assert_eq!(report(&[independent], Duration::ZERO, false), ExitCode::SUCCESS);
    }

    #[test]
    fn every_step_that_another_needs_comes_before_it() {
        for (index, step) in STEPS.iter().enumerate() {
            if let Some(needed) = step.after {
                assert!(STEPS[..index].iter().any(|earlier| earlier.name == needed), "{} needs {needed}", step.name);
            }
        }
    }
}

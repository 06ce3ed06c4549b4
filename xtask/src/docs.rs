//! `cargo xtask docs`: writes what the sources already say: `docs/configuration.md` from the `--help` of the binaries, and
//! the list of scenarios in `docs/testing.md` from the tests.
//!
//! Each thing is documented once, where it is made; `--check` finds the pages that have fallen behind.

mod help;
mod scenarios;

use crate::{demo, process, system};
use anyhow::{Context, Result, bail};
use help::Help;
use std::{env, fs, path::Path, process::Command, process::Stdio};

const CONFIGURATION: &str = "docs/configuration.md";
const TESTING: &str = "docs/testing.md";

const BINARIES: [&str; 3] = ["heddle-init", "heddle-proxy", "heddle-controller"];

const HEAD: &str = "\
# Configuration

Every option of every binary: a flag, and the environment variable beside it. A flag wins over its variable.
Written by `cargo xtask docs` from the binaries' `--help`; edit the options' documentation in the sources instead.
";

/// Writes the pages.
pub(crate) fn write() -> Result<()> {
    build()?;
    for (path, page) in pages()? {
        fs::write(process::root().join(path), page).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// Compares the pages with what would be written.
pub(crate) fn check() -> Result<()> {
    build()?;
    compare()
}

fn build() -> Result<()> {
    system::install(&[system::BUILD])?;
    demo::build(&[])
}

/// Compares the pages with what the binaries, which are built already, and the sources say.
pub(crate) fn compare() -> Result<()> {
    for (path, page) in pages()? {
        let there = fs::read_to_string(process::root().join(path)).with_context(|| format!("cannot read {path}"))?;
        if there != page {
            let line = first_difference(&there, &page);
            bail!("{path}:{line} is not what the sources say; run `cargo xtask docs` and commit the page");
        }
    }
    Ok(())
}

/// The first line, from 1, that two different texts do not share.
fn first_difference(left: &str, right: &str) -> usize {
    let differs = left.lines().zip(right.lines()).position(|(left, right)| left != right);
    differs.unwrap_or_else(|| left.lines().count().min(right.lines().count())) + 1
}

fn pages() -> Result<[(&'static str, String); 2]> {
    let root = process::root();
    let testing = fs::read_to_string(root.join(TESTING)).with_context(|| format!("cannot read {TESTING}"))?;
    Ok([(CONFIGURATION, configuration()?), (TESTING, scenarios::renew(&testing, &root.join("e2e/tests/it"))?)])
}

fn configuration() -> Result<String> {
    let binaries = process::target_directory()?.join("debug");
    let mut page = HEAD.to_owned();
    for name in BINARIES {
        section(&mut page, &binaries.join(name), name)?;
    }
    Ok(page)
}

/// One command and, below it, its subcommands.
fn section(page: &mut String, binary: &Path, name: &str) -> Result<()> {
    let help = ask(binary, &[])?;
    page.push_str(&help.markdown(name, 2, None));
    let mut first: Option<(String, Help)> = None;
    for subcommand in &help.subcommands {
        let (title, inner) = (format!("{name} {subcommand}"), ask(binary, &[subcommand])?);
        page.push_str(&inner.markdown(&title, 3, first.as_ref().map(|(title, help)| (title.as_str(), help))));
        first = first.or(Some((title, inner)));
    }
    Ok(())
}

fn ask(binary: &Path, subcommand: &[&str]) -> Result<Help> {
    let mut command = Command::new(binary);
    command.args(subcommand).arg("--help").stdin(Stdio::null()).env("COLUMNS", "120").env("NO_COLOR", "1");
    // A set variable is shown as its option's value.
    for (variable, _) in env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("HEDDLE_")) {
        command.env_remove(variable);
    }
    Ok(Help::parse(&process::output(&mut command)?))
}

//! `cargo xtask docs`: writes `docs/configuration.md` from the `--help` of the binaries.
//!
//! The options are documented once, where they are parsed; the page is what the binaries say of themselves.

mod help;

use crate::{demo, process, system};
use anyhow::{Context, Result, bail};
use help::Help;
use std::{env, fs, path::Path, process::Command, process::Stdio};

const PAGE: &str = "docs/configuration.md";

const BINARIES: [&str; 3] = ["heddle-init", "heddle-proxy", "heddle-controller"];

const HEAD: &str = "\
# Configuration

Every option of every binary: a flag, and the environment variable beside it. A flag wins over its variable.
Written by `cargo xtask docs` from the binaries' `--help`; edit the options' documentation in the sources instead.
";

/// Writes the page.
pub(crate) fn write() -> Result<()> {
    let page = page()?;
    fs::write(process::root().join(PAGE), page).with_context(|| format!("cannot write {PAGE}"))
}

/// Compares the page with what would be written.
pub(crate) fn check() -> Result<()> {
    let (page, path) = (page()?, process::root().join(PAGE));
    let there = fs::read_to_string(path).with_context(|| format!("cannot read {PAGE}"))?;
    if there == page {
        return Ok(());
    }
    let differs = there.lines().zip(page.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or_else(|| there.lines().count().min(page.lines().count())) + 1;
    bail!("{PAGE}:{line} is not what the binaries say; run `cargo xtask docs` and commit the page");
}

fn page() -> Result<String> {
    system::install(&[system::BUILD])?;
    demo::build(&[])?;
    let binaries = process::target_directory()?.join("debug");
    let mut page = HEAD.to_owned();
    for name in BINARIES {
        section(&mut page, &binaries.join(name), name, &[], 2)?;
    }
    Ok(page)
}

/// One command and, below it, its subcommands.
fn section(page: &mut String, binary: &Path, name: &str, subcommand: &[&str], level: usize) -> Result<()> {
    let mut command = Command::new(binary);
    command.args(subcommand).arg("--help").stdin(Stdio::null()).env("COLUMNS", "120").env("NO_COLOR", "1");
    // A set variable is shown as its option's value.
    for (variable, _) in env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("HEDDLE_")) {
        command.env_remove(variable);
    }
    let help = Help::parse(&process::output(&mut command)?);
    let title: Vec<&str> = std::iter::once(name).chain(subcommand.iter().copied()).collect();
    page.push_str(&help.markdown(&title.join(" "), level));
    for inner in &help.subcommands {
        let path: Vec<&str> = subcommand.iter().copied().chain([inner.as_str()]).collect();
        section(page, binary, name, &path, level + 1)?;
    }
    Ok(())
}

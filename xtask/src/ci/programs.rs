//! The test programs of the workspace: built in one go with the binaries, and run one after the other.
//!
//! `cargo test -p` for one package and then for another compiles shared dependencies again, each time with the features
//! that this choice of packages asks for. One build of everything, whose programs are run as `cargo test` would, does not.

use crate::{process, system};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

/// The package whose tests need root.
const E2E: &str = "heddle-e2e";

/// At once: a scenario has about a dozen processes that mostly wait; with more, two cores make its deadlines tight.
const E2E_THREADS: &str = "2";

const BUILD: [&str; 6] = ["build", "--workspace", "--exclude", "xtask", "--bins", "--tests"];

/// Builds every binary and every test program.
pub(crate) fn build() -> Result<()> {
    process::run(&mut process::cargo(BUILD))
}

/// Runs the tests of all packages but the end-to-end ones, then the examples in the docs.
pub(crate) fn unit() -> Result<()> {
    let (mut failed, mut found) = (Vec::new(), 0);
    for program in built()?.iter().filter(|program| program.package != E2E) {
        found += 1;
        let mut command = std::process::Command::new(&program.path);
        program.settle(&mut command);
        println!("{} of {}", program.name, program.package);
        if process::run(&mut command).is_err() {
            failed.push(format!("{} of {}", program.name, program.package));
        }
    }
    if found == 0 {
        bail!("the workspace has no test programs");
    }
    let xtask = process::run(&mut process::cargo(["test", "-p", "xtask"]));
    failed.extend(xtask.err().map(|_| "xtask".to_owned()));
    let examples = process::run(&mut process::cargo(["test", "--workspace", "--exclude", "xtask", "--doc"]));
    failed.extend(examples.err().map(|_| "examples in the docs".to_owned()));
    if !failed.is_empty() {
        bail!("tests failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs the end-to-end scenarios as root: only root makes network namespaces.
pub(crate) fn e2e(full: bool) -> Result<()> {
    let tier = if full { "HEDDLE_TIER=full" } else { "HEDDLE_TIER=ci" };
    let mut go = std::ffi::OsString::from("HEDDLE_GO=");
    go.push(system::go()?);
    let programs = built()?;
    let mut programs = programs.iter().filter(|program| program.package == E2E).peekable();
    if programs.peek().is_none() {
        bail!("{E2E} has no test programs");
    }
    for program in programs {
        let mut command = process::as_root(
            "env",
            [tier.as_ref(), go.as_os_str(), program.path.as_ref(), "--test-threads".as_ref(), E2E_THREADS.as_ref()],
        )?;
        program.settle(&mut command);
        process::run(&mut command)?;
    }
    Ok(())
}

/// One program that `cargo build --tests` made.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    package: String,
    name: String,
    path: String,
    folder: PathBuf,
}

impl Program {
    /// As `cargo test` runs it: in the package's folder, which a variable names too.
    fn settle(&self, command: &mut std::process::Command) {
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder).stdin(Stdio::null());
    }
}

/// The programs of [`build`], which has nothing left to do.
fn built() -> Result<Vec<Program>> {
    let listing =
        process::output(&mut process::cargo(BUILD.into_iter().chain(["--message-format", "json", "--quiet"])))?;
    let metadata = process::metadata()?;
    programs(&listing, &metadata)
}

/// What a build's messages (`--message-format json`) call test programs.
fn programs(listing: &str, metadata: &Value) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for message in listing.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let (true, Some(path)) = (message["profile"]["test"] == true, message["executable"].as_str()) else { continue };
        let manifest = message["manifest_path"].as_str().context("a test program without a manifest_path")?;
        let packages = metadata["packages"].as_array().context("`cargo metadata` names no packages")?;
        let package = packages.iter().find(|package| package["manifest_path"] == manifest);
        programs.push(Program {
            package: package.and_then(|package| package["name"].as_str()).unwrap_or_default().to_owned(),
            name: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            path: path.to_owned(),
            folder: Path::new(manifest).parent().map(Path::to_owned).unwrap_or_default(),
        });
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_test_programs_are_found_with_their_package() {
        let listing = r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"it"},"profile":{"test":true},"executable":"/t/it-1"}
{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"a"},"profile":{"test":false},"executable":"/t/a"}
{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"a"},"profile":{"test":true},"executable":null}
{"reason":"build-finished","success":true}"#;
        let metadata = json!({ "packages": [{ "name": "heddle-a", "manifest_path": "/w/a/Cargo.toml" }] });
        let program =
            Program { package: "heddle-a".into(), name: "it".into(), path: "/t/it-1".into(), folder: "/w/a".into() };
        assert_eq!(programs(listing, &metadata).unwrap(), [program]);
    }
}

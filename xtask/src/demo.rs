//! `cargo xtask demo`: the main job on this machine, from sources to evidence.

use crate::{process, system};
use anyhow::Result;
use std::os::unix::process::CommandExt;

/// The packages whose binaries the demo and the end-to-end tests run.
pub(crate) const PACKAGES: [&str; 4] = ["heddle-init", "heddle-dataplane", "heddle-controller", "heddle-e2e"];

/// Installs, builds, and becomes `heddle-demo` with `arguments`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    system::install(&[system::BUILD, system::PODS])?;
    println!("building the binaries (the first time takes minutes)");
    build(&[])?;
    let demo = process::target_directory()?.join("debug/heddle-demo");
    // Replaced and not waited for: Ctrl-C then reaches only the demo, which takes its pods down before it ends.
    Err(process::as_root(demo, arguments)?.exec().into())
}

/// Builds the binaries of [`PACKAGES`] with `options` of cargo.
pub(crate) fn build(options: &[&str]) -> Result<()> {
    let packages = PACKAGES.iter().flat_map(|package| ["-p", package]);
    process::run(&mut process::cargo(["build", "--bins"].into_iter().chain(packages).chain(options.iter().copied())))
}

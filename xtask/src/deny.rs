//! What the dependencies may be: cargo-deny's policy (`deny.toml`), and the known advisories.

use crate::process;
use anyhow::Result;
use std::process::Stdio;

mod advisories;

pub(crate) use advisories::check as advisories;

/// The tool's version, so that two runs judge alike.
const VERSION: &str = "0.20.2";

/// Licences, duplicates and bans. Compiling cargo-deny takes longer than all of the first tier's other checks, so it
/// is installed only when `install` is set; else the reason for leaving it out is returned.
pub(crate) fn policy(install: bool) -> Result<Option<String>> {
    let tools = process::target_directory()?.join("tools");
    let own = tools.join("bin/cargo-deny");
    let found = if own.is_file() { Some(own.clone()) } else { crate::system::find("cargo-deny") };
    let binary = match found {
        Some(binary) => binary,
        None if install => {
            println!("missing here: cargo-deny; compiling version {VERSION} into {}", tools.display());
            let root = tools.to_string_lossy().into_owned();
            let arguments = ["install", "--quiet", "--locked", "--root", &root, "--version", VERSION, "cargo-deny"];
            process::run(&mut process::cargo(arguments))?;
            own
        }
        None => return Ok(Some("cargo-deny is not installed; `cargo xtask ci --full` installs it".to_owned())),
    };
    let mut command = std::process::Command::new(binary);
    command.args(["--offline", "--all-features", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    process::run(command.current_dir(process::root()).stdin(Stdio::null()))?;
    Ok(None)
}

//! Starts other programs: cargo, the product's binaries, and whatever needs root.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the compiled-in one serves a binary that is started by hand.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    Path::new(&manifest).parent().map(Path::to_owned).unwrap_or_default()
}

/// `cargo` with `arguments`, in the workspace's root: the same cargo that runs this program.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// `program` with `arguments` as root: directly when this process is root, else through `sudo`.
///
/// sudo drops the environment, so what the programs of this repository read is handed over by name.
pub(crate) fn as_root<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(root());
        return Ok(command);
    }
    let Some(sudo) = crate::system::find("sudo") else {
        bail!("{} needs root, and there is no sudo here; run this command as root", program.as_ref().display());
    };
    let mut command = Command::new(sudo);
    command.arg("env").current_dir(root());
    for (name, value) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["PATH", "CI", "TERM", "LANG"].contains(&text.as_ref())
            || ["HEDDLE_", "RUST_", "CARGO"].iter().any(|p| text.starts_with(p))
        {
            command.arg(assignment(&name, &value));
        }
    }
    command.arg(program).args(arguments);
    Ok(command)
}

fn assignment(name: &OsStr, value: &OsStr) -> OsString {
    let mut text = name.to_owned();
    text.push("=");
    text.push(value);
    text
}

/// Whether this process has root's effective uid (proc(5), `/proc/pid/status`, the second number of `Uid`).
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1))
            == Some("0")
    })
}

/// Runs `command` to its end; anything but exit status 0 is an error that shows the command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// What `command` prints on its standard output; its standard error is shown. Anything but exit status 0 is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed something that is not UTF-8", line(command)))
}

/// The command as one would type it, with its paths shortened to the workspace's.
pub(crate) fn line(command: &Command) -> String {
    let root = format!("{}/", root().display());
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| word.to_string_lossy().replace(&root, "")).collect();
    words.join(" ")
}

/// `cargo metadata` of the workspace, without its dependencies.
pub(crate) fn metadata() -> Result<Value> {
    let text = output(&mut cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("`cargo metadata` printed no JSON")
}

/// Where cargo puts what it builds, `CARGO_TARGET_DIR` included.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = metadata()?;
    let directory = metadata["target_directory"].as_str().context("`cargo metadata` names no target_directory")?;
    Ok(PathBuf::from(directory))
}

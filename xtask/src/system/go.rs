//! Go for the end-to-end tests: the one in `PATH`, or the toolchain module of Go's own proxy (go.dev/doc/toolchain), which is
//! kept outside of the clone. Debian 12 packages an older one.

use super::{Need, find, install};
use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What unpacks the module.
const TOOLS: &[Need] = &[
    Need::program("curl", "curl"),
    Need::file("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    Need::program("unzip", "unzip"),
];

/// The `go` command, fetched when there is none that is new enough.
pub(crate) fn go() -> Result<PathBuf> {
    if let Some(go) = env::var_os("HEDDLE_GO").map(PathBuf::from).or_else(|| find("go"))
        && minor(&go).is_some_and(|minor| minor >= MINOR_MIN)
    {
        return Ok(go);
    }
    let (module, sum) = match env::consts::ARCH {
        "x86_64" => ("v0.0.1-go1.26.0.linux-amd64", SUM_AMD64),
        "aarch64" => ("v0.0.1-go1.26.0.linux-arm64", SUM_ARM64),
        other => bail!(
            "no Go 1.{MINOR_MIN} or newer in PATH, and this knows none for {other}; install one from https://go.dev/dl"
        ),
    };
    let cache = cache()?;
    let folder = cache.join(format!("go-{module}"));
    let go = folder.join("bin/go");
    if !go.is_file() {
        fetch(&cache, &folder, module, sum)?;
    }
    ensure!(minor(&go).is_some(), "{} does not run", go.display());
    Ok(go)
}

/// Fetches the toolchain, checks every file of it, and puts it in place in one step.
fn fetch(cache: &Path, folder: &Path, module: &str, sum: &str) -> Result<()> {
    install(&[TOOLS])?;
    let proxies = env::var("GOPROXY").ok().filter(|proxies| !proxies.is_empty());
    let proxies = proxies.unwrap_or_else(|| "https://proxy.golang.org".to_owned());
    // A list, of which `direct` and `off` are no addresses (go.dev/ref/mod, GOPROXY).
    let Some(proxy) = proxies.split([',', '|']).find(|proxy| proxy.starts_with("http")) else {
        bail!("no Go 1.{MINOR_MIN} or newer in PATH, and GOPROXY={proxies} names no proxy to fetch one from");
    };
    let url = format!("{}/golang.org/toolchain/@v/{module}.zip", proxy.trim_end_matches('/'));
    let fresh = cache.join(format!("fetching-{}", std::process::id()));
    println!("no Go 1.{MINOR_MIN} or newer here; fetching {url} into {}", cache.display());
    fs::create_dir_all(&fresh).with_context(|| fresh.display().to_string())?;
    let result = unpack(&fresh, &url, module, sum).and_then(|()| {
        fs::rename(fresh.join(format!("golang.org/toolchain@{module}")), folder).or_else(|error| {
            // Another run was faster, with the same files.
            if folder.is_dir() { Ok(()) } else { Err(error) }
        })?;
        Ok(())
    });
    let _ = fs::remove_dir_all(&fresh);
    result
}

fn unpack(fresh: &Path, url: &str, module: &str, sum: &str) -> Result<()> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", UNPACK, "unpack", url, module]).current_dir(fresh).stdin(Stdio::null()).stderr(Stdio::inherit());
    let said = process::output(&mut shell)?;
    let found = said.split_whitespace().next().unwrap_or_default();
    ensure!(found == sum, "{url} is not what it should be: the hash of its files is {found}, expected {sum}");
    Ok(())
}

/// Prints the hash of the module: SHA-256 of a list of the files' own, as in go.sum ("h1:", there in base64).
const UNPACK: &str = r#"
set -eu
curl -fsS --retry 3 -o go.zip "$1"
unzip -q go.zip
rm go.zip
find golang.org -type f | LC_ALL=C sort | tr '\n' '\0' | xargs -0 sha256sum | sha256sum
# A module's zip keeps no permissions.
chmod -R u+x "golang.org/toolchain@$2/bin" "golang.org/toolchain@$2/pkg/tool"
"#;

/// Where it is kept: like every cache of a user's (XDG Base Directory Specification).
fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME says where a cache may be")?.join("heddle"))
}

/// The y of its version 1.y; none when it does not run.
fn minor(go: &Path) -> Option<u32> {
    let output =
        Command::new(go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").stdin(Stdio::null()).output().ok()?;
    parse_minor(&String::from_utf8_lossy(&output.stdout))
}

fn parse_minor(version: &str) -> Option<u32> {
    let rest = version.trim().strip_prefix("go1.")?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// Since then net/http listens with MPTCP by default, which the tests want.
const MINOR_MIN: u32 = 24;
/// As <https://sum.golang.org/lookup/golang.org/toolchain@v0.0.1-go1.26.0.linux-amd64> has it, in hexadecimal.
const SUM_AMD64: &str = "d69d86e42391e757fc437110e072c94030cbdb2b4b12a7cbff24dac01d09afcc";
/// As [`SUM_AMD64`], of linux-arm64.
const SUM_ARM64: &str = "94016b466df9848cef4523188842ed68f6a2b6bdb6a69ea26816dd3c1b898365";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_what_go_says() {
        assert_eq!(parse_minor("go1.26.8\n"), Some(26));
        assert_eq!(parse_minor("go1.24rc1"), Some(24));
        assert_eq!(parse_minor("go1.19"), Some(19));
        assert_eq!(parse_minor("devel +1a2b3c"), None);
    }
}

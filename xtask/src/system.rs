//! What each job needs of the system, and its installation where it is missing.
//!
//! Debian's packages, by apt-get, as root or with sudo. Elsewhere the missing programs are named and the job stops.

use crate::process;
use anyhow::{Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

/// A program (or a file, when it starts with `/`) and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// The program's name as it is looked up, or the absolute path of a file.
    pub(crate) what: &'static str,
    /// The Debian package.
    pub(crate) package: &'static str,
}

const fn need(what: &'static str, package: &'static str) -> Need {
    Need { what, package }
}

/// To compile: aws-lc-sys builds its pregenerated C and assembly with the C compiler alone, no cmake, Go or Perl.
pub(crate) const BUILD: &[Need] = &[need("cc", "gcc"), need("/usr/include/stdio.h", "libc6-dev")];

/// To run pods as network namespaces, with real applications in them, and to look at their wire.
pub(crate) const PODS: &[Need] = &[
    need("ip", "iproute2"),
    need("nft", "nftables"),
    need("tcpdump", "tcpdump"),
    need("conntrack", "conntrack"),
    need("nginx", "nginx-light"),
    need("redis-server", "redis-server"),
    need("redis-cli", "redis-tools"),
    need("initdb", "postgresql"),
    need("psql", "postgresql-client"),
    need("curl", "curl"),
    need("openssl", "openssl"),
    need("nc.openbsd", "netcat-openbsd"),
    need("socat", "socat"),
    need("sysctl", "procps"),
    need("nsenter", "util-linux"),
    need("setpriv", "util-linux"),
];

/// To measure: load generators, and a virtual environment for Envoy's wheel.
pub(crate) const BENCH: &[Need] = &[
    need("wrk", "wrk"),
    need("iperf3", "iperf3"),
    need("/usr/bin/python3", "python3"),
    need("/usr/share/doc/python3-venv", "python3-venv"),
];

/// Installs what `needs` names and the system lacks; says so, once, before it does.
pub(crate) fn install(needs: &[&[Need]]) -> Result<()> {
    let missing: Vec<Need> = needs.iter().flat_map(|list| list.iter()).copied().filter(|need| !present(need)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|need| need.what).collect();
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if find("apt-get").is_none() {
        bail!(
            "missing here: {}; this is no Debian, so install what brings them (in Debian: {}) and run the command again",
            programs.join(", "),
            packages.join(" ")
        );
    }
    println!("missing here: {}; installing with apt-get: {}", programs.join(", "), packages.join(" "));
    process::run(
        process::as_root("/bin/sh", ["-c", INSTALL, "install"].into_iter().chain(packages.iter().copied()))?
            .stdin(Stdio::null()),
    )?;
    let still: Vec<&str> = missing.iter().filter(|need| !present(need)).map(|need| need.what).collect();
    if !still.is_empty() {
        bail!("apt-get installed {}, but {} cannot be found", packages.join(" "), still.join(", "));
    }
    Ok(())
}

/// Servers would start at once and hold the ports that the pods' own instances need nothing of, but a later user of
/// this machine may: while packages are installed, policy-rc.d says no to every start (deb-systemd-invoke(1p)).
/// The package lists are fetched only where there are none, or where they have grown too old to install from.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 "$@"; }
if ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 && install "$@"; then exit 0; fi
apt-get update -q
install "$@"
"#;

/// Says how to get the toolchain components that the checks use, when they are missing.
pub(crate) fn components() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let quiet = process::cargo([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !quiet.is_ok_and(|status| status.success()) {
            bail!(
                "`cargo {subcommand}` is missing; get it with `rustup component add {component}`, or from the package that brought cargo"
            );
        }
    }
    Ok(())
}

/// Where `program` is: in `PATH`, or where Debian puts administrators' and PostgreSQL's programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    directories.chain(postgresql()).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Debian keeps each version's server programs in a folder of its own, outside of `PATH`.
fn postgresql() -> Vec<PathBuf> {
    let Ok(versions) = Path::new("/usr/lib/postgresql").read_dir() else { return Vec::new() };
    versions.flatten().map(|version| version.path().join("bin")).collect()
}

fn present(need: &Need) -> bool {
    if need.what.starts_with('/') { Path::new(need.what).exists() } else { find(need.what).is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_missing() {
        assert!(present(&need("sh", "dash")));
        assert!(present(&need("/proc", "none")));
        assert!(!present(&need("heddle-no-such-program", "none")));
        assert!(!present(&need("/heddle/no/such/file", "none")));
    }
}

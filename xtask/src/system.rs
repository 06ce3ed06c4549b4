//! What each job needs of the system, and its installation where it is missing.
//!
//! Debian's packages, by apt-get, as root or with sudo. Elsewhere the missing programs are named and the job stops.

mod go;

pub(crate) use go::go;

use crate::process;
use anyhow::{Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Something a job uses, and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    what: What,
    package: &'static str,
}

/// How it is seen whether it is there.
#[derive(Debug, Clone, Copy)]
enum What {
    /// By its name, see [`find`].
    Program(&'static str),
    /// By its absolute path.
    File(&'static str),
    /// The system's Python can import it.
    Module(&'static str),
}

impl Need {
    const fn program(name: &'static str, package: &'static str) -> Self {
        Self { what: What::Program(name), package }
    }

    const fn file(path: &'static str, package: &'static str) -> Self {
        Self { what: What::File(path), package }
    }

    const fn module(name: &'static str, package: &'static str) -> Self {
        Self { what: What::Module(name), package }
    }

    const fn name(&self) -> &'static str {
        match self.what {
            What::Program(name) | What::File(name) | What::Module(name) => name,
        }
    }

    fn is_present(&self) -> bool {
        match self.what {
            What::Program(name) => find(name).is_some(),
            What::File(path) => Path::new(path).exists(),
            What::Module(name) => {
                let mut python = Command::new(PYTHON);
                python.arg("-c").arg(format!("import {name}")).stdin(Stdio::null()).stderr(Stdio::null());
                python.status().is_ok_and(|status| status.success())
            }
        }
    }
}

/// Debian's own Python, whose packages apt-get brings; another one may be first in `PATH`.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// To compile: aws-lc-sys builds its pregenerated C and assembly with the C compiler alone, no cmake, Go or Perl; clang is for
/// the eBPF programs of `heddle-init`, which use the headers linux/bpf.h and those it includes, of linux-libc-dev.
pub(crate) const BUILD: &[Need] = &[
    Need::program("cc", "gcc"),
    Need::file("/usr/include/stdio.h", "libc6-dev"),
    Need::program("clang", "clang"),
    Need::file("/usr/include/linux/bpf.h", "linux-libc-dev"),
];

/// To run pods as network namespaces, with real applications in them, and to look at their wire.
pub(crate) const PODS: &[Need] = &[
    Need::program("ip", "iproute2"),
    Need::program("nft", "nftables"),
    Need::program("bpftool", "bpftool"),
    Need::program("tcpdump", "tcpdump"),
    Need::program("conntrack", "conntrack"),
    Need::program("nginx", "nginx-light"),
    Need::program("redis-server", "redis-server"),
    Need::program("redis-cli", "redis-tools"),
    Need::program("initdb", "postgresql"),
    Need::program("psql", "postgresql-client"),
    Need::program("curl", "curl"),
    Need::program("openssl", "openssl"),
    Need::program("nc.openbsd", "netcat-openbsd"),
    Need::program("socat", "socat"),
    Need::program("sysctl", "procps"),
    Need::program("nsenter", "util-linux"),
    Need::program("setpriv", "util-linux"),
];

/// To measure: load generators, and a virtual environment for Envoy's wheel.
pub(crate) const BENCH: &[Need] = &[
    Need::program("wrk", "wrk"),
    Need::program("iperf3", "iperf3"),
    Need::file(PYTHON, "python3"),
    Need::module("ensurepip", "python3-venv"),
];

/// To see where a proxy's CPU goes (`cargo xtask bench --profile`).
pub(crate) const PROFILE: &[Need] = &[Need::program("perf", "linux-perf")];

/// Installs what `needs` names and the system lacks; says so, once, before it does.
pub(crate) fn install(needs: &[&[Need]]) -> Result<()> {
    let missing: Vec<Need> =
        needs.iter().flat_map(|list| list.iter()).copied().filter(|need: &Need| !need.is_present()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(Need::name).collect();
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
    let still: Vec<&str> = missing.iter().filter(|need| !need.is_present()).map(Need::name).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_missing() {
        assert!(Need::program("sh", "dash").is_present());
        assert!(Need::file("/proc", "none").is_present());
        assert!(!Need::program("heddle-no-such-program", "none").is_present());
        assert!(!Need::file("/heddle/no/such/file", "none").is_present());
        assert!(!Need::module("heddle_no_such_module", "none").is_present());
    }
}

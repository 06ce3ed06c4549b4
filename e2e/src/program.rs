//! Where the programs are that the harness runs: the product's binaries and the system's.

use anyhow::{Context, Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// A binary of the product: from `HEDDLE_BIN_DIR`, else from the target folder that this program was built into.
///
/// # Errors
/// When it is not there, with the command that builds it.
pub fn product(name: &str) -> Result<PathBuf> {
    let (directories, build) = match env::var_os("HEDDLE_BIN_DIR") {
        Some(directory) => (vec![PathBuf::from(directory)], "HEDDLE_BIN_DIR names the folder".to_owned()),
        None => {
            let exe = env::current_exe().context("the path of this program")?;
            // A test binary is in target/<profile>/deps, a program in target/<profile>.
            let directories = exe.ancestors().skip(1).take(2).map(Path::to_owned).collect();
            (
                directories,
                "build it with `cargo build --bins -p heddle-init -p heddle-dataplane -p heddle-controller`".to_owned(),
            )
        }
    };
    let candidates = directories.iter().map(|directory| directory.join(name));
    candidates.into_iter().find(|file| file.is_file()).with_context(|| {
        let looked: Vec<String> = directories.iter().map(|directory| directory.display().to_string()).collect();
        format!("{name} is not in {}; {build}", looked.join(" or "))
    })
}

/// A program of the system: in `PATH`, or where Debian keeps administrators' and PostgreSQL's programs.
///
/// # Errors
/// When it is not there.
pub fn system(name: &str) -> Result<PathBuf> {
    let found = search_path().into_iter().map(|directory| directory.join(name)).find(|file| file.is_file());
    match found {
        Some(file) => Ok(file),
        None => bail!("`{name}` is not installed; `cargo xtask demo` and `cargo xtask ci` install what the pods need"),
    }
}

/// A program of ours in Go, `e2e/programs/go/<name>`, compiled when it is first asked for.
///
/// # Errors
/// Without Go 1.24 or newer, or when it does not compile.
pub fn go(name: &str) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = target().join("e2e-programs");
    let (source, binary) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/go").join(name), folder.join(name));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // Another run may do the same at this moment, so it is put in place whole.
    let fresh = folder.join(format!("{name}.{}", std::process::id()));
    let mut build = Command::new(go_command()?);
    build.arg("build").arg("-o").arg(&fresh).arg(".").current_dir(&source).stdin(Stdio::null());
    build.env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0").env("GOWORK", "off");
    build.env("GOCACHE", folder.join("cache"));
    let output = build.output().context("starting go")?;
    if !output.status.success() {
        bail!("`go build` of {}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(&fresh, &binary).with_context(|| binary.display().to_string())?;
    Ok(binary)
}

/// Programs of others in Go, `module/package@version`, installed into a folder when they are first asked for.
///
/// # Errors
/// Without Go 1.24 or newer, or when one cannot be fetched or does not compile.
pub fn go_install(folder: &str, packages: &[&str]) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = target().join("e2e-programs").join(folder);
    let name = |package: &str| package.split('@').next().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
    // One module at a time, as `go install` wants it.
    for package in packages {
        if name(package).is_some_and(|name| folder.join(name).is_file()) {
            continue;
        }
        let mut install = Command::new(go_command()?);
        install.args(["install", package]).env("GOBIN", &folder).env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local");
        install.env("CGO_ENABLED", "0").env("GOWORK", "off").current_dir(env::temp_dir()).stdin(Stdio::null());
        let output = install.output().context("starting go")?;
        if !output.status.success() {
            bail!("`go install {package}`: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(folder)
}

/// Go: what `HEDDLE_GO` names, else the one in `PATH`.
fn go_command() -> Result<PathBuf> {
    let go = env::var_os("HEDDLE_GO").map_or_else(|| system("go"), |go| Ok(PathBuf::from(go)))?;
    let output = Command::new(&go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output();
    let output = output.with_context(|| go.display().to_string())?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let minor = version.strip_prefix("go1.").and_then(|rest| rest.split(['.', 'r', 'b']).next()?.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < GO_MINOR_MIN) {
        bail!(
            "{} is `{version}`, older than Go 1.{GO_MINOR_MIN}; `cargo xtask ci` fetches one that is not, and HEDDLE_GO names another",
            go.display()
        );
    }
    Ok(go)
}

/// Since then net/http listens with MPTCP by default (Go 1.24 release notes, `net`).
const GO_MINOR_MIN: u32 = 24;

/// The folders that programs are looked up in, here and in the pods.
pub fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let fixed = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let postgresql = Path::new("/usr/lib/postgresql").read_dir().into_iter().flatten().flatten();
    env::split_paths(&path).chain(fixed).chain(postgresql.map(|version| version.path().join("bin"))).collect()
}

/// The target folder of the build that this program is part of, else the system's temporary folder.
pub fn target() -> PathBuf {
    let exe = env::current_exe().unwrap_or_default();
    let target = exe.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    target.map_or_else(env::temp_dir, Path::to_owned)
}

/// The uid and gid of a system user, from `/etc/passwd`.
///
/// # Errors
/// When there is no such user.
pub fn user(name: &str) -> Result<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let ids = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.with_context(|| format!("/etc/passwd has no user `{name}`; the package that brings the application makes it"))
}

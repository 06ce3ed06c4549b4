//! Where the programs are that the harness runs: the product's binaries and the system's.

use anyhow::{Context, Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
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

//! The CNI project's own programs: `cnitool`, which is libcni with a command line, and the plugins that make a network.
//!
//! Built once by Go from the module proxy, in the versions below, into the user's cache.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

const CNI: &str = "v1.3.1";
const PLUGINS: &str = "v1.9.1";
const NAMES: [&str; 4] = ["cnitool", "bridge", "host-local", "loopback"];

/// The folder with the programs.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build)
}

fn build() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    let cache = cache.unwrap_or_else(env::temp_dir).join("heddle");
    let folder = cache.join(format!("cni-{CNI}-{PLUGINS}"));
    fs::create_dir_all(&cache).expect("the cache takes a folder");
    // Other test programs may build at the same time.
    let lock = File::create(cache.join("cni.lock")).expect("the cache takes a file");
    lock.lock().expect("a file can be locked");
    if NAMES.iter().all(|name| folder.join(name).exists()) {
        return folder;
    }
    let fresh = cache.join(format!("cni-{}", std::process::id()));
    let packages = [
        format!("github.com/containernetworking/cni/cnitool@{CNI}"),
        format!("github.com/containernetworking/plugins/plugins/main/bridge@{PLUGINS}"),
        format!("github.com/containernetworking/plugins/plugins/main/loopback@{PLUGINS}"),
        format!("github.com/containernetworking/plugins/plugins/ipam/host-local@{PLUGINS}"),
    ];
    // Go takes packages of one module at a time.
    for packages in [&packages[..1], &packages[1..]] {
        let mut go = Command::new(go());
        go.arg("install").args(packages).env("GOBIN", &fresh).env("GOFLAGS", "-mod=mod").env("CGO_ENABLED", "0");
        let output = go.current_dir(&cache).output().expect("go is installed, in PATH or /usr/local/go");
        assert!(output.status.success(), "{go:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&fresh, &folder).expect("both are in the cache");
    folder
}

/// What `HEDDLE_GO` names, as in the end-to-end tests, else one in the usual places.
fn go() -> PathBuf {
    let usual = Path::new("/usr/local/go/bin/go");
    let found = if usual.exists() { usual } else { Path::new("go") };
    env::var_os("HEDDLE_GO").map_or_else(|| found.to_owned(), PathBuf::from)
}

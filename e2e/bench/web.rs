//! The application: nginx with one worker, a small page and a big file.

use anyhow::{Context, Result};
use heddle_e2e::{
    Pod,
    process::{Process, Rights},
    program, traffic, wait,
};
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

/// Where nginx listens in the server's pod.
pub(crate) const PORT: u16 = 8080;
/// Path of the page of [`SMALL_BYTES`].
pub(crate) const SMALL: &str = "/small";
/// Path of the file of [`BIG_BYTES`].
pub(crate) const BIG: &str = "/big";
/// Size of the small page.
pub(crate) const SMALL_BYTES: usize = 1000;
/// Size of the big file; sparse, served from the page cache by sendfile(2).
pub(crate) const BIG_BYTES: u64 = 256 << 20;
/// Whom Debian's package runs it as.
const USER: &str = "www-data";
/// What fills the small page, and what must not be readable between two proxies.
pub(crate) const MARKER: &str = "heddle-bench-readable-payload";

/// Starts nginx in the server's pod, unprivileged, and waits until it listens.
///
/// # Errors
/// When the files cannot be written, or nginx does not listen in time.
pub(crate) fn start(pod: &Pod) -> Result<Process> {
    let folder = pod.folder().join("bench");
    let configuration = write(&folder)?;
    let (uid, gid) = program::user(USER)?;
    chown(&folder, Some(uid), Some(gid)).with_context(|| folder.display().to_string())?;
    let nginx = pod.launch(program::system("nginx")?, Rights::User(uid, gid));
    // `-e`: the compiled-in error log is root's.
    let mut nginx = nginx
        .args(["-e", "stderr", "-p"])
        .args([folder.as_os_str(), "-c".as_ref(), configuration.as_os_str()])
        .spawn(&folder.join("nginx"))?;
    wait::until_true("nginx", wait::PATIENCE, || {
        nginx.check_alive()?;
        Ok(traffic::listens(nginx.pid(), PORT))
    })?;
    Ok(nginx)
}

/// Writes the files and nginx's configuration below `folder`; returns the configuration's path.
fn write(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("www");
    fs::create_dir_all(&root)?;
    let page: String = MARKER.chars().chain([' ']).cycle().take(SMALL_BYTES).collect();
    fs::write(root.join(SMALL.trim_start_matches('/')), page)?;
    fs::File::create(root.join(BIG.trim_start_matches('/')))?.set_len(BIG_BYTES)?;
    let configuration = folder.join("nginx.conf");
    let at = folder.display();
    fs::write(
        &configuration,
        format!(
            "daemon off; master_process off; pid {at}/nginx.pid;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 3600s;
  client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
  server {{ listen {PORT} backlog=4096; root {at}/www; }}
}}
"
        ),
    )?;
    Ok(configuration)
}

//! The application: nginx with one worker, a small page and a big file.

use anyhow::Result;
use heddle_e2e::{
    netns::Namespace,
    process::{Launch, Process, Rights},
    program,
};
use std::{
    fs,
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
/// What fills the small page, and what must not be readable between two proxies.
pub(crate) const MARKER: &str = "heddle-bench-readable-payload";

/// Starts nginx in the server's pod, with its files below `folder` and no capability.
///
/// # Errors
/// When the files cannot be written or nginx cannot be started.
pub(crate) fn start(pod: &Namespace, folder: &Path) -> Result<Process> {
    let configuration = write(folder)?;
    let nginx = Launch::new(pod, program::system("nginx")?, Rights::Root);
    nginx.args(["-c".as_ref(), configuration.as_os_str()]).spawn(&folder.join("nginx"))
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
            "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/nginx.err; worker_rlimit_nofile 65536;
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

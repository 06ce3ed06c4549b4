//! The real applications of the tests, each as its own unprivileged user with a configuration of ours.

use crate::{
    Pod,
    process::{Process, Rights},
    program,
};
use anyhow::{Context, Result};
use std::{fs, os::unix::fs::chown, path::PathBuf, time::Duration};

/// An application that a pod may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// nginx on port 80: `/` answers [`NGINX_BODY`], `/peer` the client's address as nginx sees it.
    Nginx,
    /// redis on port 6379.
    Redis,
    /// PostgreSQL on port 5432, with user and database `postgres` and no password.
    Postgres,
    /// A server of Go's net/http on port 8080, which listens with MPTCP: `/` answers the client's address and port as Go
    /// sees it.
    Go,
}

impl App {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Go => "go",
        }
    }

    /// The ports it listens on.
    pub fn ports(self) -> &'static [u16] {
        match self {
            Self::Nginx => &[80],
            Self::Redis => &[6379],
            Self::Postgres => &[5432],
            Self::Go => &[8080],
        }
    }

    /// Starts it in `pod`.
    pub(crate) fn start(self, pod: &Pod) -> Result<Process> {
        let (user, log) = (self.user(), pod.log(self.name()));
        let rights = Rights::of(user)?;
        let folder = self.folder(pod);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let (uid, gid) = program::user(user)?;
        chown(&folder, Some(uid), Some(gid)).with_context(|| folder.display().to_string())?;
        let folder = folder.to_str().context("the temporary folder's path is not UTF-8")?;
        match self {
            Self::Nginx => {
                let configuration = format!("{folder}/nginx.conf");
                fs::write(&configuration, NGINX.replace("FOLDER", folder).replace("BODY", NGINX_BODY))?;
                let nginx = pod.launch(program::system("nginx")?, rights);
                // `-e`: the compiled-in error log is root's.
                nginx.args(["-e", "stderr", "-p", folder, "-c", &configuration]).spawn(&log)
            }
            Self::Redis => {
                let redis = pod.launch(program::system("redis-server")?, rights);
                let options =
                    ["--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir"];
                redis.args(options).args([folder]).spawn(&log)
            }
            Self::Postgres => {
                let initdb = pod.launch(program::system("initdb")?, rights);
                let options = ["--auth=trust", "--username=postgres", "--no-sync", "--locale=C", "--encoding=UTF8"];
                let data = format!("{folder}/data");
                initdb.args(options).args(["-D", &data]).output(Duration::from_secs(60))?.success()?;
                let any_client = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
                fs::write(format!("{data}/pg_hba.conf"), format!("local all all trust\n{any_client}"))?;
                let postgres = pod.launch(program::system("postgres")?, rights);
                let sockets = format!("unix_socket_directories={folder}");
                // Shared memory in its own folder, because what it has in /dev/shm would outlive its being killed.
                let settings = ["listen_addresses=*", "fsync=off", "dynamic_shared_memory_type=mmap", &sockets];
                postgres.args(["-D", &data]).args(settings.iter().flat_map(|setting| ["-c", setting])).spawn(&log)
            }
            Self::Go => {
                let seen = pod.visible("peer")?;
                pod.launch(seen.clone(), rights).mount(program::go("peer")?, seen).spawn(&log)
            }
        }
    }

    /// Its own log of what it served, where it keeps one.
    pub(crate) fn log(self, pod: &Pod) -> Option<PathBuf> {
        (self == Self::Nginx).then(|| self.folder(pod).join("access.log"))
    }

    fn folder(self, pod: &Pod) -> PathBuf {
        pod.folder().join(self.name())
    }

    fn user(self) -> &'static str {
        match self {
            Self::Nginx => "www-data",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Go => "nobody",
        }
    }
}

/// What nginx answers; checks of the wire look for it.
pub const NGINX_BODY: &str = "plain-as-day: the shop is open";

/// `access.log` starts each line with the client's address.
const NGINX: &str = "daemon off;
worker_processes 1;
pid FOLDER/nginx.pid;
events { worker_connections 16384; }
http {
    log_format peer '$remote_addr $request_method $uri $status';
    access_log FOLDER/access.log peer;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    keepalive_requests 1000000000;
    server {
        listen 80 backlog=4096;
        listen [::]:80 ipv6only=on backlog=4096;
        default_type text/plain;
        location = / { return 200 'BODY\\n'; }
        location = /peer { return 200 '$remote_addr\\n'; }
        # For measurements: nothing is written.
        location = /quiet { access_log off; return 200 'ok\\n'; }
    }
}
";

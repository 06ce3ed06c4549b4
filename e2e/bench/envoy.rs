//! Envoy as the other mesh: two sidecars with `tcp_proxy` and mutual TLS between them, static configuration.
//!
//! The lower bound of an Istio sidecar: no control plane, no filter but `tcp_proxy`. It gets what Heddle has, too: capture by
//! `heddle-init`, TLS 1.3 with P-256 certificates and a check of the peer's SPIFFE ID, one worker, an access log in JSON.

use crate::web;
use anyhow::{Context, Result, ensure};
use heddle_e2e::{
    Pod,
    process::{Launch, Process, Rights},
};
use serde_json::{Value, json};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Mark of the proxy's own sockets, which `heddle-init` leaves alone.
const PROXY_MARK: u32 = 0x53a;
/// Captured outbound connections arrive here.
const OUTBOUND_PORT: u16 = 15001;
/// Mutual TLS between the sidecars; `heddle-init` never captures it.
const TLS_PORT: u16 = 15008;
/// Type URLs' common start.
const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

/// Which of the two sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Takes captured connections and opens TLS.
    Client,
    /// Takes TLS and dials the application.
    Server,
}

impl Side {
    /// Of files and of the service account.
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// An installed Envoy.
#[derive(Debug)]
pub(crate) struct Binary {
    /// Where it is.
    path: PathBuf,
}

impl Binary {
    /// The one at `path`; nothing is checked before it is used.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The version, as in `1.40.0`, or what `envoy --version` says instead.
    ///
    /// # Errors
    /// When it cannot be run, with the way out.
    pub(crate) fn version(&self) -> Result<String> {
        let output = Command::new(&self.path).arg("--version").output().with_context(|| {
            let way_out = "`cargo xtask bench` installs it, --envoy names another, --only direct,heddle does without";
            format!("{}: Envoy does not start; {way_out}", self.path.display())
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        // "…/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
        let line = text.lines().find_map(|line| Some(line.split_once("version: ")?.1)).unwrap_or_default();
        Ok(line.split('/').nth(1).unwrap_or(line).to_owned())
    }
}

/// Makes a CA and one certificate for each side in `folder`, with openssl(1): P-256, SPIFFE URI as the only name.
fn certificates(folder: &Path) -> Result<()> {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split_ascii_whitespace()).current_dir(folder).stdin(Stdio::null());
        let output = command.output().context("openssl does not start; is it installed?")?;
        ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    openssl("ecparam -name prime256v1 -genkey -noout -out ca.key")?;
    openssl("req -x509 -new -key ca.key -subj /O=bench -days 2 -out ca.pem")?;
    for side in [Side::Client, Side::Server] {
        let name = side.name();
        let extensions = format!(
            "subjectAltName=critical,URI:{}\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n",
            spiffe_id(side)
        );
        fs::write(folder.join(format!("{name}.ext")), extensions)?;
        openssl(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"))?;
        openssl(&format!("req -new -key {name}.key -subj / -out {name}.csr"))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
        ))?;
    }
    Ok(())
}

/// Writes one side's bootstrap file; `application` is where the client dials and the server's sidecar forwards.
fn bootstrap(folder: &Path, side: Side, application: SocketAddr) -> Result<PathBuf> {
    let tls_address = SocketAddr::new(application.ip(), TLS_PORT);
    let (listener, upstream) = match side {
        Side::Client => (outbound_listener(folder, application), cluster(folder, tls_address, true)),
        Side::Server => (inbound_listener(folder, application), cluster(folder, application, false)),
    };
    let path = folder.join(format!("{}.json", side.name()));
    let document = json!({ "static_resources": { "listeners": [listener], "clusters": [upstream] } });
    fs::write(&path, serde_json::to_vec_pretty(&document)?)?;
    Ok(path)
}

/// Both sidecars, running.
#[derive(Debug)]
pub(crate) struct Sidecars {
    client: Process,
    server: Process,
    server_log: PathBuf,
}

impl Sidecars {
    /// Captures both pods as their init containers would, and starts both sidecars with the rights of Heddle's proxy.
    ///
    /// # Errors
    /// When init refuses, a file cannot be written or Envoy cannot be started.
    pub(crate) fn start(binary: &Binary, client: &Pod, server: &Pod) -> Result<Self> {
        let folder = client.folder().join("envoy");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        certificates(&folder)?;
        let application = server.at(web::PORT);
        let sidecar = |pod: &Pod, side: Side| -> Result<Process> {
            pod.init("apply")?.success()?;
            let bootstrap = bootstrap(&folder, side, application)?;
            Launch::new(pod.netns(), &binary.path, Rights::Capability("net_raw"))
                .args(["-c".as_ref(), bootstrap.as_os_str()])
                .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"])
                .spawn(&folder.join(side.name()))
        };
        let (client, server) = (sidecar(client, Side::Client)?, sidecar(server, Side::Server)?);
        Ok(Self { client, server, server_log: access_log(&folder, Side::Server) })
    }

    /// The client's, then the server's.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.client.pid(), self.server.pid()]
    }

    /// TLS version and cipher of the first connection that the server's sidecar logged; Envoy writes its log late.
    pub(crate) fn cipher(&self) -> Option<String> {
        let log = fs::read_to_string(&self.server_log).ok()?;
        let entry: Value = serde_json::from_str(log.lines().next()?).ok()?;
        Some(format!("{} {}", entry["tls"].as_str()?, entry["cipher"].as_str()?))
    }

    /// What both said last.
    pub(crate) fn last_words(&self) -> String {
        format!("{}\n{}", self.client.last_words(), self.server.last_words())
    }
}

/// Where a side's access log is.
fn access_log(folder: &Path, side: Side) -> PathBuf {
    folder.join(format!("{}-access.log", side.name()))
}

fn spiffe_id(side: Side) -> String {
    format!("spiffe://cluster.local/ns/bench/sa/{}", side.name())
}

fn outbound_listener(folder: &Path, application: SocketAddr) -> Value {
    json!({
        "name": "outbound",
        "address": socket_address(SocketAddr::new(any(application), OUTBOUND_PORT)),
        "transparent": true,
        "socket_options": [mark()],
        "filter_chains": [{ "filters": [tcp_proxy(folder, Side::Client)] }],
    })
}

fn inbound_listener(folder: &Path, application: SocketAddr) -> Value {
    json!({
        "name": "inbound",
        "address": socket_address(SocketAddr::new(any(application), TLS_PORT)),
        "filter_chains": [{
            "filters": [tcp_proxy(folder, Side::Server)],
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext"),
                    "require_client_certificate": true,
                    "common_tls_context": tls_context(folder, Side::Server),
                },
            },
        }],
    })
}

fn tcp_proxy(folder: &Path, side: Side) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": side.name(),
            "cluster": "upstream",
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": format!("{EXTENSIONS}.access_loggers.file.v3.FileAccessLog"),
                    "path": access_log(folder, side),
                    "log_format": { "json_format": {
                        "time": "%START_TIME%",
                        "downstream": "%DOWNSTREAM_REMOTE_ADDRESS%",
                        "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
                        "upstream": "%UPSTREAM_HOST%",
                        "peer": "%DOWNSTREAM_PEER_URI_SAN%",
                        "cipher": "%DOWNSTREAM_TLS_CIPHER%",
                        "tls": "%DOWNSTREAM_TLS_VERSION%",
                        "bytes_received": "%BYTES_RECEIVED%",
                        "bytes_sent": "%BYTES_SENT%",
                        "duration_ms": "%DURATION%",
                        "flags": "%RESPONSE_FLAGS%",
                    } },
                },
            }],
        },
    })
}

fn cluster(folder: &Path, address: SocketAddr, tls: bool) -> Value {
    let unbounded = json!({ "max_connections": 1_000_000, "max_pending_requests": 1_000_000 });
    let mut cluster = json!({
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": { "thresholds": [unbounded] },
        "upstream_bind_config": {
            "source_address": socket_address(SocketAddr::new(any(address), 0))["socket_address"],
            "socket_options": [mark()],
        },
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket_address(address) } }] }],
        },
    });
    if tls {
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("{EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext"),
                "common_tls_context": tls_context(folder, Side::Client),
            },
        });
    }
    cluster
}

fn tls_context(folder: &Path, side: Side) -> Value {
    let file = |name: String| json!({ "filename": folder.join(name) });
    json!({
        "tls_certificates": [{
            "certificate_chain": file(format!("{}.pem", side.name())),
            "private_key": file(format!("{}.key", side.name())),
        }],
        "validation_context": {
            "trusted_ca": file("ca.pem".to_owned()),
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": spiffe_id(side.peer()) } }],
        },
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
    })
}

/// `SO_MARK` on a socket before it is bound: level SOL_SOCKET is 1 and the option 36 (socket(7)).
fn mark() -> Value {
    json!({ "description": "SO_MARK", "level": 1, "name": 36, "int_value": PROXY_MARK, "state": "STATE_PREBIND" })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// The unspecified address of the same family.
fn any(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

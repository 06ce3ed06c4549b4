//! The options: what may be typed, and what comes out when it was checked.

use crate::ca::{ServerNames, ServingError};
use clap::{Args, Parser, Subcommand};
use heddle_mesh::identity::{IdentityError, TrustDomain};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Heddle's controller: reads manifests, tells the proxies about the mesh, and signs their certificates.
///
/// Without a subcommand it serves the manifests of a folder, and follows every change of them, until SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "heddle-controller", version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of serving.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What can be done beside serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a signed token for a pod, as a projected service account token would be.
    Token(TokenArgs),
    /// Report every mistake in a folder of manifests, one line each; exit 1 when there is any.
    Check(CheckArgs),
}

/// Options of serving.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Folder of manifests (*.yaml, *.yml, also in subfolders), as `kubectl get -o yaml` prints them. It is watched.
    #[arg(long, env = "HEDDLE_MANIFESTS", value_name = "DIR", required = true)]
    pub manifests: Option<PathBuf>,

    /// Folder that keeps the root certificate, its key and the key of tokens over restarts. Made when it is not there.
    #[arg(long, env = "HEDDLE_STATE", value_name = "DIR", default_value = "/var/lib/heddle")]
    pub state: PathBuf,

    /// Address of the gRPC server (discovery and certificates, TLS).
    #[arg(long, env = "HEDDLE_LISTEN", value_name = "ADDRESS", default_value = "[::]:15012")]
    pub listen: SocketAddr,

    /// Address of the HTTP server for /healthz/ready, /metrics and /status. No TLS.
    #[arg(long, env = "HEDDLE_MONITORING_LISTEN", value_name = "ADDRESS", default_value = "[::]:15014")]
    pub monitoring_listen: SocketAddr,

    /// Trust domain of the workloads' identities.
    #[arg(long, env = "HEDDLE_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,

    /// Longest life of a workload's certificate; a request may ask for less. Units: s, m, h, d; at least 1m.
    #[arg(long, env = "HEDDLE_CERTIFICATE_TTL", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub certificate_ttl: Duration,

    /// Names in this server's own certificate, comma separated: DNS names and addresses. The loopback addresses are added.
    #[arg(
        long,
        env = "HEDDLE_SERVER_NAMES",
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "heddle-controller.heddle-system.svc,heddle-controller.heddle-system.svc.cluster.local,localhost"
    )]
    pub server_names: Vec<String>,

    /// Name of the cluster: the first part of every workload's unique name.
    #[arg(long, env = "HEDDLE_CLUSTER_ID", value_name = "NAME", default_value = "Kubernetes")]
    pub cluster_id: String,

    /// What is logged to stderr: error, warn, info, debug, trace, or a filter such as `info,heddle_controller=debug`.
    #[arg(long, env = "HEDDLE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Options of `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// State folder of the controller that shall accept the token.
    #[arg(long, env = "HEDDLE_STATE", value_name = "DIR", default_value = "/var/lib/heddle")]
    pub state: PathBuf,

    /// Namespace of the pod.
    #[arg(long, env = "HEDDLE_NAMESPACE", value_name = "NAME")]
    pub namespace: String,

    /// Service account of the pod.
    #[arg(long, env = "HEDDLE_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: String,

    /// The pod, to bind the token to it; without it, every pod of the service account can use it.
    #[arg(long, env = "HEDDLE_POD", value_name = "NAME")]
    pub pod: Option<String>,

    /// How long the token is good for. Units: s, m, h, d.
    #[arg(long, env = "HEDDLE_TTL", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub ttl: Duration,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Folder of manifests.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Checked options of serving.
#[derive(Debug)]
pub struct Config {
    /// Folder of manifests.
    pub manifests: PathBuf,
    /// State folder.
    pub state: PathBuf,
    /// Address of the gRPC server.
    pub listen: SocketAddr,
    /// Address of the monitoring server.
    pub monitoring_listen: SocketAddr,
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// Longest life of a workload's certificate.
    pub certificate_ttl: Duration,
    /// Names of this server.
    pub server_names: ServerNames,
    /// Name of the cluster.
    pub cluster_id: String,
}

/// Why the options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No folder.
    #[error("no folder of manifests; give one with --manifests")]
    NoManifests,
    /// The trust domain.
    #[error("--trust-domain: {0}")]
    TrustDomain(#[from] IdentityError),
    /// A server name.
    #[error(transparent)]
    ServerNames(#[from] ServingError),
    /// The cluster's name.
    #[error("--cluster-id {0:?}: 1 to 253 of the characters A-Z, a-z, 0-9, '.', '-' and '_' are allowed")]
    ClusterId(String),
    /// The lifetime of certificates.
    #[error("--certificate-ttl: at least 1m and at most 3650d are allowed")]
    CertificateTtl,
}

impl TryFrom<ServeArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: ServeArgs) -> Result<Self, ConfigError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let cluster_id = args.cluster_id;
        if cluster_id.is_empty() || cluster_id.len() > 253 || !cluster_id.bytes().all(allowed) {
            return Err(ConfigError::ClusterId(cluster_id.chars().take(64).collect()));
        }
        if !(CERTIFICATE_TTL_MIN..=CERTIFICATE_TTL_MAX).contains(&args.certificate_ttl) {
            return Err(ConfigError::CertificateTtl);
        }
        Ok(Self {
            manifests: args.manifests.ok_or(ConfigError::NoManifests)?,
            state: args.state,
            listen: args.listen,
            monitoring_listen: args.monitoring_listen,
            trust_domain: args.trust_domain.parse()?,
            certificate_ttl: args.certificate_ttl,
            server_names: ServerNames::new(&args.server_names)?,
            cluster_id,
        })
    }
}

/// A duration as `30s`, `15m`, `24h` or `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write a number and a unit, such as 30s, 15m, 24h or 7d");
    let number = text.trim_end_matches(|one: char| one.is_ascii_alphabetic());
    let seconds = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(wrong)
}

/// Shortest life of certificates that may be asked for.
const CERTIFICATE_TTL_MIN: Duration = Duration::from_secs(60);

/// Longest life of certificates that may be asked for: that of the root.
const CERTIFICATE_TTL_MAX: Duration = Duration::from_secs(3_650 * 86_400);

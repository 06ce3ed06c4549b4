//! Who the proxy is, and which controller it asks.

use super::Checks;
use heddle_controller_client::{Discovery, Node, Settings};
use heddle_mesh::identity::{SpiffeId, TrustDomain};
use rustls_pki_types::ServerName;
use serde::Serialize;
use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

/// What may be typed about the pod and the controller.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Identity and controller")]
pub struct IdentityArgs {
    /// Name of the pod. Required; in Kubernetes from the downward API's `metadata.name`.
    #[arg(long, env = "HEDDLE_POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Namespace of the pod. Required; from `metadata.namespace`.
    #[arg(long, env = "HEDDLE_POD_NAMESPACE", value_name = "NAMESPACE")]
    pub pod_namespace: Option<String>,
    /// Service account of the pod, from which its identity is made. Required; from `spec.serviceAccountName`.
    #[arg(long, env = "HEDDLE_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: Option<String>,
    /// Addresses of the pod, at most one of each family, separated by commas. Required; from `status.podIPs`.
    #[arg(long, env = "HEDDLE_POD_IPS", value_name = "IP[,IP]")]
    pub pod_ips: Option<String>,
    /// Name of the pod's node, from `spec.nodeName`. Empty: unknown.
    #[arg(long, env = "HEDDLE_NODE_NAME", value_name = "NAME", default_value = "")]
    pub node_name: String,
    /// Name of the cluster, as the controller knows it.
    #[arg(long, env = "HEDDLE_CLUSTER_ID", value_name = "NAME", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// The network that the pod's addresses belong to. Empty: the default network.
    #[arg(long, env = "HEDDLE_NETWORK", value_name = "NAME", default_value = "")]
    pub network: String,
    /// The mesh's trust domain, the first part of every identity.
    #[arg(long, env = "HEDDLE_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Where the controller serves configuration and certificates: a host name or address, and a port. IPv6 in brackets.
    #[arg(
        long,
        env = "HEDDLE_CONTROLLER_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "heddle-controller.heddle-system.svc:15012"
    )]
    pub controller_address: String,
    /// The name that the controller's certificate must have. Default: the host of --controller-address.
    #[arg(long, env = "HEDDLE_CONTROLLER_NAME", value_name = "NAME")]
    pub controller_name: Option<String>,
    /// PEM file with the roots that the controller's certificate must lead to; read again for every connection.
    #[arg(
        long,
        env = "HEDDLE_CONTROLLER_ROOT_CERT",
        value_name = "FILE",
        default_value = "/var/run/secrets/heddle/root-cert.pem"
    )]
    pub controller_root_cert: String,
    /// File with the token that proves the pod's service account to the controller; read again for every call.
    #[arg(long, env = "HEDDLE_TOKEN_FILE", value_name = "FILE", default_value = "/var/run/secrets/heddle/token")]
    pub token_file: String,
    /// Lifetime of the certificates that are asked for; each is renewed at half of it. The controller may give less. From 10s
    /// to 365d.
    #[arg(long, env = "HEDDLE_CERTIFICATE_TTL", value_name = "DURATION", default_value = "24h")]
    pub certificate_ttl: String,
    /// What the controller is asked for: `on-demand`, only what the pod talks to, or `wildcard`, the whole mesh beforehand.
    #[arg(long, env = "HEDDLE_DISCOVERY", value_name = "on-demand|wildcard", default_value = "on-demand")]
    pub discovery: String,
}

/// Who the proxy is, and which controller it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the pod (`--pod-name`).
    pub pod_name: String,
    /// Namespace of the pod (`--pod-namespace`), which [`Identity::spiffe_id`] repeats.
    pub pod_namespace: String,
    /// Service account of the pod (`--service-account`), which [`Identity::spiffe_id`] repeats.
    pub service_account: String,
    /// Addresses of the pod: one, or one of each family (`--pod-ips`).
    pub pod_ips: Vec<IpAddr>,
    /// Name of the node; empty when unknown (`--node-name`).
    pub node_name: String,
    /// Name of the cluster (`--cluster-id`).
    pub cluster_id: String,
    /// Network of the addresses; empty for the default one (`--network`).
    pub network: String,
    /// Who the pod is: made of `--trust-domain`, `--pod-namespace` and `--service-account`.
    pub spiffe_id: SpiffeId,
    /// Where the controller is (`--controller-address`).
    pub controller_address: HostPort,
    /// What its certificate must be named: `--controller-name`, or the host of its address.
    pub controller_name: String,
    /// Roots that its certificate must lead to, PEM (`--controller-root-cert`).
    pub controller_root_cert: PathBuf,
    /// The token that the pod shows it (`--token-file`).
    pub token_file: PathBuf,
    /// Lifetime of the certificates that are asked for (`--certificate-ttl`).
    pub certificate_ttl: Duration,
    /// What it is asked for (`--discovery`).
    pub discovery: Discovery,
}

impl Identity {
    /// What the controller's client needs to know, with the packet mark that keeps its sockets out of capture, where it is that.
    pub fn controller_settings(&self, socket_mark: Option<u32>) -> Settings {
        let node = Node {
            pod_name: self.pod_name.clone(),
            namespace: self.pod_namespace.clone(),
            service_account: self.service_account.clone(),
            ips: self.pod_ips.clone(),
            node_name: self.node_name.clone(),
            cluster_id: self.cluster_id.clone(),
            network: self.network.clone(),
        };
        let (address, name) = (self.controller_address.to_string(), &self.controller_name);
        let (root_cert, token) = (self.controller_root_cert.clone(), self.token_file.clone());
        Settings { discovery: self.discovery, socket_mark, ..Settings::new(&address, name, root_cert, token, node) }
    }

    pub(super) fn check(args: &IdentityArgs, checks: &mut Checks) -> Option<Self> {
        let pod_name = required_name(checks, "--pod-name", args.pod_name.as_deref(), "metadata.name");
        let pod_namespace =
            required_name(checks, "--pod-namespace", args.pod_namespace.as_deref(), "metadata.namespace");
        let service_account =
            required_name(checks, "--service-account", args.service_account.as_deref(), "spec.serviceAccountName");
        let needed = "give the pod's addresses; in Kubernetes from status.podIPs";
        let pod_ips = checks.required("--pod-ips", args.pod_ips.as_deref(), needed, pod_ips);
        let node_name = checks.parsed("--node-name", &args.node_name, printable);
        let cluster_id = checks.parsed("--cluster-id", &args.cluster_id, cluster_id);
        let network = checks.parsed("--network", &args.network, printable);
        let trust_domain = checks.parsed("--trust-domain", &args.trust_domain, |text| {
            TrustDomain::from_str(text).map_err(|e| e.to_string())
        });
        let address = checks.parsed("--controller-address", &args.controller_address, HostPort::from_str);
        let name = match &args.controller_name {
            Some(name) => checks.parsed("--controller-name", name, server_name),
            None => address.as_ref().map(|address| address.host.clone()),
        };
        let root_cert = checks.parsed("--controller-root-cert", &args.controller_root_cert, file);
        let token_file = checks.parsed("--token-file", &args.token_file, file);
        let ttl = Duration::from_secs(10)..=Duration::from_secs(365 * 24 * 60 * 60);
        let certificate_ttl = checks.duration("--certificate-ttl", &args.certificate_ttl, ttl);
        let choices = [("on-demand", Discovery::OnDemand), ("wildcard", Discovery::Wildcard)];
        let discovery = checks.choice("--discovery", &args.discovery, &choices);

        let (pod_namespace, service_account) = (pod_namespace?, service_account?);
        let spiffe_id = SpiffeId::new(trust_domain?, &pod_namespace, &service_account)
            .expect("namespace and service account passed kubernetes_name, which allows less");
        Some(Self {
            pod_name: pod_name?,
            pod_namespace,
            service_account,
            pod_ips: pod_ips?,
            node_name: node_name?,
            cluster_id: cluster_id?,
            network: network?,
            spiffe_id,
            controller_address: address?,
            controller_name: name?,
            controller_root_cert: root_cert?,
            token_file: token_file?,
            certificate_ttl: certificate_ttl?,
            discovery: discovery?,
        })
    }
}

/// A host name or address, and a port; IPv6 addresses are written in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The host name, or the address without brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem =
            || "write HOST:PORT, such as controller.example:15012, 10.0.0.1:15012 or [fd00::1]:15012".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(problem)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let sound = match bracketed {
            Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.contains(':') && server_name(host).is_ok(),
        };
        if !sound {
            return Err(problem());
        }
        Ok(Self { host: bracketed.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn required_name(checks: &mut Checks, flag: &'static str, value: Option<&str>, field: &str) -> Option<String> {
    checks.required(flag, value, &format!("give it; in Kubernetes from the downward API's {field}"), kubernetes_name)
}

/// A Kubernetes object name (RFC 1123 subdomain): the parts of a SPIFFE ID and of a node id are such names.
fn kubernetes_name(text: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let sound = text.len() <= NAME_BYTES_MAX
        && text.bytes().all(inner)
        && ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && !text.contains("..");
    match sound {
        true => Ok(text.to_owned()),
        false => {
            Err("not a Kubernetes name; write 1 to 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends"
                .to_owned())
        }
    }
}

fn pod_ips(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    for part in text.split(',') {
        let address: IpAddr = part
            .trim()
            .parse()
            .map_err(|_| format!("{:?} is no IP address; write one or two, separated by a comma", part.trim()))?;
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(format!("{address} cannot be a pod's address; write those of its status.podIPs"));
        }
        if addresses.iter().any(|other: &IpAddr| other.is_ipv4() == address.is_ipv4()) {
            return Err("two addresses of one family; a pod has at most one IPv4 and one IPv6 address".to_owned());
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err("neither a DNS name nor an IP address; write the name that is in the controller's certificate"
                .to_owned())
        }
    }
}

fn cluster_id(text: &str) -> Result<String, String> {
    match text {
        "" => Err("empty; write the controller's --cluster-id, which is Kubernetes by default".to_owned()),
        _ => printable(text),
    }
}

/// What goes into gRPC metadata and the node's description: visible ASCII, bounded.
fn printable(text: &str) -> Result<String, String> {
    match text.len() <= NAME_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("write at most 253 visible ASCII characters, without spaces".to_owned()),
    }
}

fn file(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("empty; write the path of a file".to_owned()),
        _ => Ok(PathBuf::from(text)),
    }
}

/// Longest name in Kubernetes (RFC 1123 subdomain).
const NAME_BYTES_MAX: usize = 253;

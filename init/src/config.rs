//! What a user may ask for, and its checked form.
//!
//! Every list is checked here and nowhere later, and all mistakes of a command line are reported together.

mod lists;
#[cfg(test)]
mod tests;

use crate::{agent::options::AgentArgs, install::options::InstallArgs};
use clap::{Parser, Subcommand, builder::BoolishValueParser};
use ipnet::{Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// Captures a pod's traffic for the Heddle proxy.
///
/// Runs in the pod's network namespace, as uid 0 or with ambient capabilities, and needs CAP_NET_ADMIN, for eBPF programs CAP_BPF
/// too, and nothing else (`show` needs nothing). It starts no other program. Exit code 0: done, or all is as planned; 1: not so, the reason is
/// on stderr; 2: the command line was not understood.
#[derive(Debug, Parser)]
#[command(name = "heddle-init", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put rules, routes or programs in place and read them back. May be repeated at any time: connections go on.
    Apply(Args),
    /// Read rules, routes or programs back, then open a connection and prove that it is captured.
    Verify(Args),
    /// Remove everything that `apply` made, with whatever options it was made. May be repeated.
    Undo(Args),
    /// Print the plan and change nothing. The table in it is in the language of nft(8).
    Show(Args),
    /// Put this program into a node's CNI plugins and network configuration, keep it there, or take it away. Needs write
    /// access to those folders and no capability.
    Install(InstallArgs),
    /// On a node: repair the capture of its pods, capture those that started before the plugin was in place, and sweep what
    /// dead ones left. Runs until SIGTERM. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN, which entering network namespaces takes
    /// and which is enough for eBPF programs.
    Agent(AgentArgs),
}

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// How traffic is captured: `tproxy` is nftables TPROXY in both directions, `ebpf` is programs on the pod's cgroup and network
    /// namespace. The proxy must be told the same.
    #[arg(long, env = "HEDDLE_MODE", value_name = "MODE", default_value = "tproxy")]
    pub mode: String,

    /// What the kernel refuses, whether or not the proxy runs: `on` refuses UDP to port 443 (QUIC), protocols other than TCP, UDP and
    /// ping, and TCP that cannot be handed to the proxy; `strict` refuses all UDP but DNS, too; `off` refuses only what capture
    /// itself must. Excluded destinations always pass. With `tproxy` it adds eBPF programs. [default: on with `ebpf`, off with
    /// `tproxy`]
    #[arg(long, env = "HEDDLE_GUARD", value_name = "POLICY")]
    pub guard: Option<String>,

    /// Directory of the pod's cgroup (version 2), for eBPF programs: the one above its containers'. [default: found by --pod-uid,
    /// else above the cgroup that heddle-init is in]
    #[arg(long, env = "HEDDLE_CGROUP", value_name = "DIRECTORY")]
    pub cgroup: Option<PathBuf>,

    /// The pod's UID (metadata.uid of the downward API), for eBPF programs: its cgroup is found by it, and its pins are named by it.
    /// [default: none; pins are then named by the cgroup]
    #[arg(long, env = "HEDDLE_POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,

    /// Where a bpffs is mounted; eBPF programs are pinned under `heddle` in it.
    #[arg(long, env = "HEDDLE_BPFFS", value_name = "DIRECTORY", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// Ports of this pod whose inbound connections go to the application directly. [default: none; 15008, 15020 and
    /// 15021, which the proxy serves itself, are never captured]
    ///
    /// Choose ports outside net.ipv4.ip_local_port_range (or inside net.ipv4.ip_local_reserved_ports): inside it the
    /// kernel also gives the port to connections that the pod opens, and then the rules need conntrack.
    #[arg(long, env = "HEDDLE_EXCLUDE_INBOUND_PORTS", value_name = "PORT,...", value_delimiter = ',')]
    pub exclude_inbound_ports: Vec<String>,

    /// Ports anywhere to which outbound connections go directly. [default: none]
    #[arg(long, env = "HEDDLE_EXCLUDE_OUTBOUND_PORTS", value_name = "PORT,...", value_delimiter = ',')]
    pub exclude_outbound_ports: Vec<String>,

    /// Clients, as addresses or CIDR blocks, whose inbound connections go to the application directly; the rules then
    /// need conntrack. [default: none]
    #[arg(long, env = "HEDDLE_EXCLUDE_INBOUND_CIDRS", value_name = "CIDR,...", value_delimiter = ',')]
    pub exclude_inbound_cidrs: Vec<String>,

    /// Destinations, as addresses or CIDR blocks, to which outbound connections go directly; the rules then need
    /// conntrack. [default: none; loopback, IPv6 link-local and multicast are never captured]
    #[arg(long, env = "HEDDLE_EXCLUDE_OUTBOUND_CIDRS", value_name = "CIDR,...", value_delimiter = ',')]
    pub exclude_outbound_cidrs: Vec<String>,

    /// Interfaces by which inbound connections go to the application directly; the rules then need conntrack. [default:
    /// none]
    #[arg(long, env = "HEDDLE_EXCLUDE_INBOUND_INTERFACES", value_name = "NAME,...", value_delimiter = ',')]
    pub exclude_inbound_interfaces: Vec<String>,

    /// Interfaces by which outbound connections leave directly; the rules then need conntrack. [default: none]
    #[arg(long, env = "HEDDLE_EXCLUDE_OUTBOUND_INTERFACES", value_name = "NAME,...", value_delimiter = ',')]
    pub exclude_outbound_interfaces: Vec<String>,

    /// Capture port 53, UDP and TCP, for the proxy's DNS listener on 15053. Without it UDP is never captured, and TCP to
    /// port 53 is captured like any other TCP. [default: off]
    #[arg(long, env = "HEDDLE_DNS", value_parser = BoolishValueParser::new())]
    pub dns: bool,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How traffic is captured.
    pub mode: Mode,
    /// What the kernel refuses without the proxy.
    pub guard: Guard,
    /// The pod's cgroup, if it was given.
    pub cgroup: Option<PathBuf>,
    /// The pod's UID, if it was given.
    pub pod_uid: Option<String>,
    /// Where a bpffs is mounted.
    pub bpffs: PathBuf,
    /// What inbound capture leaves out.
    pub inbound: Exclusions,
    /// What outbound capture leaves out.
    pub outbound: Exclusions,
    /// Whether port 53 goes to the proxy's DNS listener.
    pub dns: bool,
}

/// How traffic is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// nftables TPROXY in both directions.
    Tproxy,
    /// eBPF programs on the pod's cgroup and network namespace.
    Ebpf,
}

/// What the kernel refuses, whether or not the proxy runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// What capture itself must.
    Off,
    /// What would get round the proxy: QUIC, and TCP or protocols that it is not handed.
    On,
    /// All UDP but DNS, too.
    Strict,
}

/// What capture leaves out in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Ports: of this pod inbound, of the destination outbound.
    pub ports: BTreeSet<u16>,
    /// Address blocks: of the client inbound, of the destination outbound.
    pub networks: Networks,
    /// Names of interfaces.
    pub interfaces: BTreeSet<String>,
}

/// Address blocks of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// IPv4.
    pub v4: Vec<Ipv4Net>,
    /// IPv6.
    pub v6: Vec<Ipv6Net>,
}

/// Everything that is wrong with the options.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// One sentence a mistake: option, value, way out.
    pub mistakes: Vec<String>,
}

impl Config {
    /// Checks the options.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn new(args: &Args) -> Result<Self, ConfigError> {
        let mut mistakes = Vec::new();
        let mode = mode(args, &mut mistakes);
        let guard = guard(args, mode, &mut mistakes);
        if let Some(uid) = args.pod_uid.as_deref().filter(|uid| !is_uid(uid)) {
            mistakes.push(format!(
                "--pod-uid: `{uid}` is not a UID; write metadata.uid of the pod: at most {UID_BYTES_MAX} letters, digits and `-`"
            ));
        }
        let inbound = Exclusions {
            ports: lists::ports("--exclude-inbound-ports", &args.exclude_inbound_ports, &mut mistakes),
            networks: lists::networks("--exclude-inbound-cidrs", &args.exclude_inbound_cidrs, &mut mistakes),
            interfaces: lists::interfaces(
                "--exclude-inbound-interfaces",
                &args.exclude_inbound_interfaces,
                &mut mistakes,
            ),
        };
        let outbound = Exclusions {
            ports: lists::ports("--exclude-outbound-ports", &args.exclude_outbound_ports, &mut mistakes),
            networks: lists::networks("--exclude-outbound-cidrs", &args.exclude_outbound_cidrs, &mut mistakes),
            interfaces: lists::interfaces(
                "--exclude-outbound-interfaces",
                &args.exclude_outbound_interfaces,
                &mut mistakes,
            ),
        };
        for port in heddle_init_abi::CAPTURE_PORTS.into_iter().filter(|port| inbound.ports.contains(port)) {
            mistakes.push(format!(
                "--exclude-inbound-ports: {port} is where the proxy takes captured connections, nobody dials it; leave it out"
            ));
        }
        if mode == Mode::Ebpf && !outbound.interfaces.is_empty() {
            mistakes.push(
                "--exclude-outbound-interfaces: with --mode ebpf a connection is judged before its interface is known; use \
                 --exclude-outbound-cidrs, or --mode tproxy"
                    .to_owned(),
            );
        }
        if args.dns && outbound.ports.contains(&53) {
            mistakes
                .push("--dns captures port 53, which --exclude-outbound-ports excludes; drop one of them".to_owned());
        }
        if mistakes.is_empty() {
            let (cgroup, pod_uid, bpffs) = (args.cgroup.clone(), args.pod_uid.clone(), args.bpffs.clone());
            Ok(Self { mode, guard, cgroup, pod_uid, bpffs, inbound, outbound, dns: args.dns })
        } else {
            Err(ConfigError { mistakes })
        }
    }

    /// Whether an outbound connection to this address may be excluded; by interface it depends on routes, so it may.
    pub fn excludes_outbound(&self, to: SocketAddr) -> bool {
        let Exclusions { ports, networks, interfaces } = &self.outbound;
        !interfaces.is_empty() || ports.contains(&to.port()) || networks.contains(to.ip())
    }
}

fn mode(args: &Args, mistakes: &mut Vec<String>) -> Mode {
    match args.mode.as_str() {
        "tproxy" => Mode::Tproxy,
        "ebpf" => Mode::Ebpf,
        other => {
            mistakes.push(format!("--mode: `{other}` is not a mode; write tproxy or ebpf"));
            Mode::Tproxy
        }
    }
}

fn guard(args: &Args, mode: Mode, mistakes: &mut Vec<String>) -> Guard {
    match (args.guard.as_deref(), mode) {
        (None, Mode::Tproxy) | (Some("off"), _) => Guard::Off,
        (None, Mode::Ebpf) | (Some("on"), _) => Guard::On,
        (Some("strict"), _) => Guard::Strict,
        (Some(other), _) => {
            mistakes.push(format!("--guard: `{other}` is not a policy; write off, on or strict"));
            Guard::Off
        }
    }
}

/// It becomes a file name, so nothing else is taken.
pub(crate) fn is_uid(text: &str) -> bool {
    (1..=UID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Networks {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.iter().any(|network| network.contains(&address)),
            IpAddr::V6(address) => self.v6.iter().any(|network| network.contains(&address)),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.as_slice() {
            [one] => f.write_str(one),
            many => {
                write!(f, "{} mistakes in the options:", many.len())?;
                many.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// A UUID has 36; static pods' hashes have 32.
const UID_BYTES_MAX: usize = 63;

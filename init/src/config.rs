//! What a user may ask for, and its checked form.
//!
//! Every list is checked here and nowhere later, and all mistakes of a command line are reported together.

mod lists;
#[cfg(test)]
mod tests;

use clap::{Parser, Subcommand, builder::BoolishValueParser};
use ipnet::{Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Captures a pod's traffic for the Heddle proxy.
///
/// Runs in the pod's network namespace, as uid 0 or with ambient capabilities, and needs CAP_NET_ADMIN and nothing else
/// (`show` needs nothing). It starts no other program. Exit code 0: done, or all is as planned; 1: not so, the reason is
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
    /// Put rules and routes in place and read them back. May be repeated at any time: connections go on.
    Apply(Args),
    /// Read rules and routes back, then open a connection and prove that it is captured.
    Verify(Args),
    /// Remove everything that `apply` made, with whatever options it was made. May be repeated.
    Undo(Args),
    /// Print the plan and change nothing. The table in it is in the language of nft(8).
    Show(Args),
}

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// How traffic is captured. The only mode is `tproxy`: nftables TPROXY in both directions.
    #[arg(long, env = "HEDDLE_MODE", value_name = "MODE", default_value = "tproxy")]
    pub mode: String,

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
        if args.mode != "tproxy" {
            mistakes.push(format!("--mode: `{}` is not a mode; write tproxy", args.mode));
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
        if args.dns && outbound.ports.contains(&53) {
            mistakes
                .push("--dns captures port 53, which --exclude-outbound-ports excludes; drop one of them".to_owned());
        }
        if mistakes.is_empty() {
            Ok(Self { mode: Mode::Tproxy, inbound, outbound, dns: args.dns })
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

//! What is to be done: a pure function from the configuration to ordered steps, each of which knows its undo.
//!
//! Invariant: nothing here asks the kernel or changes it. What the kernel was found to be comes in as [`Kernel`].

pub mod table;
#[cfg(test)]
mod tests;
mod text;

use crate::{
    config::{Config, Mode},
    ebpf::{self, Place, Programs},
    kernel::{Ipv6, Kernel},
    tproxy,
};
use heddle_init_abi::{CAPTURE_PORTS, SERVED_PORTS};
use std::fmt;
use table::{Family, Table};

/// The steps, in order. They are undone in reverse order.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How replies are told from new connections.
    pub flavour: Flavour,
    /// What is worth knowing before the plan is carried out.
    pub notes: Vec<String>,
    /// The steps, for both address families, whether or not this kernel has IPv6 switched on.
    pub steps: Vec<Step>,
    /// Where eBPF programs of this pod belong, or those of an earlier plan are.
    pub place: Place,
    ipv6: Ipv6,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The route that delivers everything locally.
    Route(Family),
    /// The policy rule that sends marked packets to that route.
    Rule(Family),
    /// The table, in one transaction.
    Table(Table),
    /// The eBPF programs.
    Programs(Box<Programs>),
}

/// How a plan captures. Rules must tell the reply of an application from a connection that it opens; programs see only the latter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flavour {
    /// By ports alone. Nothing enters conntrack.
    Stateless,
    /// By conntrack, because the configuration cannot be told apart by ports.
    Conntrack(Vec<Reason>),
    /// There are no rules: programs at connect(2) and at the look-up of sockets.
    Programs,
}

/// What needs conntrack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The reply to an excluded client looks like a connection to it.
    InboundCidrs,
    /// The reply to a client behind an excluded interface looks like a connection to it.
    InboundInterfaces,
    /// The reply to a captured client inside an excluded block looks like an excluded connection.
    OutboundCidrs,
    /// The reply to a captured client behind an excluded interface looks like an excluded connection.
    OutboundInterfaces,
    /// A port tells nothing when the kernel also gives it to connections that the pod opens.
    EphemeralPort(u16),
}

impl Plan {
    /// The plan for this configuration on this kernel, for the pod at this place.
    pub fn new(config: &Config, kernel: &Kernel, place: Place) -> Self {
        let flavour = Flavour::new(config, kernel);
        let programs = ebpf::programs(config, kernel, place.clone());
        // The guard comes before what it guards.
        let mut steps: Vec<_> = programs.map(|programs| Step::Programs(Box::new(programs))).into_iter().collect();
        match config.mode {
            Mode::Tproxy => {
                steps.extend(Family::BOTH.into_iter().flat_map(|family| [Step::Route(family), Step::Rule(family)]));
                steps.push(Step::Table(tproxy::table(config, &flavour)));
            }
            Mode::Ebpf => {}
        }
        Self { flavour, notes: notes(config, kernel), steps, place, ipv6: kernel.ipv6.clone() }
    }

    /// Its eBPF programs, if it has any.
    pub fn programs(&self) -> Option<&Programs> {
        self.steps.iter().find_map(|step| match step {
            Step::Programs(programs) => Some(&**programs),
            _ => None,
        })
    }

    /// Why a step is left out on this kernel, if it is.
    pub fn skips(&self, step: &Step) -> Option<&str> {
        match (step, &self.ipv6) {
            (Step::Route(Family::Ip6) | Step::Rule(Family::Ip6), Ipv6::Off(why)) => Some(why),
            _ => None,
        }
    }

    /// The steps that are not left out.
    pub fn steps_here(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| self.skips(step).is_none())
    }
}

impl Flavour {
    fn new(config: &Config, kernel: &Kernel) -> Self {
        if config.mode == Mode::Ebpf {
            return Self::Programs;
        }
        let mut reasons = Vec::new();
        let mut needs = |it_does: bool, reason| {
            if it_does {
                reasons.push(reason);
            }
        };
        needs(!config.inbound.networks.is_empty(), Reason::InboundCidrs);
        needs(!config.inbound.interfaces.is_empty(), Reason::InboundInterfaces);
        needs(!config.outbound.networks.is_empty(), Reason::OutboundCidrs);
        needs(!config.outbound.interfaces.is_empty(), Reason::OutboundInterfaces);
        let told_by_port = SERVED_PORTS.iter().chain(&config.inbound.ports).chain(&config.outbound.ports);
        let ephemeral = told_by_port.copied().find(|port| kernel.is_ephemeral(*port));
        needs(ephemeral.is_some(), Reason::EphemeralPort(ephemeral.unwrap_or_default()));
        if reasons.is_empty() { Self::Stateless } else { Self::Conntrack(reasons) }
    }

    /// Whether the rules use conntrack.
    pub fn is_conntrack(&self) -> bool {
        matches!(self, Self::Conntrack(_))
    }
}

fn notes(config: &Config, kernel: &Kernel) -> Vec<String> {
    let mut notes = Vec::new();
    if config.mode == Mode::Ebpf {
        let missing = config.inbound.interfaces.iter().filter(|name| kernel.interface(name).is_none());
        notes.extend(missing.map(|name| {
            format!("interface {name} does not exist, so nothing is excluded by it; run `heddle-init apply` again when it does")
        }));
    } else if let Ipv6::Off(why) = &kernel.ipv6 {
        notes.push(format!(
            "{why}: IPv6 gets no route and no policy rule; captured IPv6 packets would be dropped, never sent uncaptured"
        ));
    }
    if let Some(port) = CAPTURE_PORTS.into_iter().chain(SERVED_PORTS).find(|port| kernel.is_ephemeral(*port)) {
        notes.push(format!(
            "port {port} of the proxy lies inside net.ipv4.ip_local_port_range ({}-{}), so that a connection may take it \
             before the proxy listens; put 15000-15053 into net.ipv4.ip_local_reserved_ports",
            kernel.local_ports.start(),
            kernel.local_ports.end()
        ));
    }
    notes
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Programs => {
                f.write_str("mode ebpf: programs at connect(2) and at the look-up of sockets, no rule of nftables")
            }
            Self::Stateless => f.write_str("mode tproxy, stateless: nothing enters conntrack"),
            Self::Conntrack(reasons) => {
                f.write_str("mode tproxy, with conntrack, because ")?;
                for (number, reason) in reasons.iter().enumerate() {
                    write!(f, "{}{reason}", if number == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InboundCidrs => f.write_str("clients are excluded by their address"),
            Self::InboundInterfaces => f.write_str("clients are excluded by interface"),
            Self::OutboundCidrs => f.write_str("destinations are excluded by their address"),
            Self::OutboundInterfaces => f.write_str("destinations are excluded by interface"),
            Self::EphemeralPort(port) => write!(f, "port {port} lies inside net.ipv4.ip_local_port_range"),
        }
    }
}

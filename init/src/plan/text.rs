//! The plan as text. The table's part loads with `nft -f`; the rest are comments in it, in the words of `ip`.

use super::{Family, Plan, Step, table::*};
use heddle_init_abi::{CAPTURE_MARK, ROUTING_TABLE, RULE_PRIORITY, TABLE};
use std::fmt::{self, Display, Formatter};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.flavour)?;
        for note in &self.notes {
            writeln!(f, "# note: {note}")?;
        }
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "#\n# step {number}: {step}")?;
            match self.skips(step) {
                Some(why) => writeln!(f, "#   left out: {why}")?,
                None => writeln!(f, "#   undo: {}", Undo(step))?,
            }
            match step {
                Step::Table(table) => write!(f, "{table}")?,
                Step::Programs(programs) => write!(f, "{programs}")?,
                Step::Route(_) | Step::Rule(_) => {}
            }
        }
        Ok(())
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(family) => write!(f, "{} add {}", Ip(*family, "route"), RouteText(*family)),
            Self::Rule(family) => write!(f, "{} add {}", Ip(*family, "rule"), RuleText),
            Self::Table(_) => write!(f, "nft add table inet {TABLE}, with all that is in it, in one transaction"),
            Self::Programs(programs) => write!(f, "load, attach and pin {} eBPF programs", programs.hooks.len()),
        }
    }
}

/// How a step is undone.
struct Undo<'a>(&'a Step);

impl Display for Undo<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Step::Route(family) => write!(f, "{} del {}", Ip(*family, "route"), RouteText(*family)),
            Step::Rule(family) => write!(f, "{} del {}", Ip(*family, "rule"), RuleText),
            Step::Table(_) => write!(f, "nft delete table inet {TABLE}"),
            Step::Programs(_) => f.write_str("remove the pins, and with them the programs"),
        }
    }
}

struct Ip(Family, &'static str);

impl Display for Ip {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let family = match self.0 {
            Family::Ip4 => "",
            Family::Ip6 => " -6",
        };
        write!(f, "ip{family} {}", self.1)
    }
}

struct RouteText(Family);

impl Display for RouteText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let all = match self.0 {
            Family::Ip4 => "0.0.0.0/0",
            Family::Ip6 => "::/0",
        };
        write!(f, "local {all} dev lo table {ROUTING_TABLE}")
    }
}

struct RuleText;

impl Display for RuleText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "fwmark {CAPTURE_MARK:#x} lookup {ROUTING_TABLE} priority {RULE_PRIORITY}")
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for set in &self.sets {
            writeln!(f, "  set {} {{ {} }}", set.name, set.content)?;
        }
        for chain in &self.chains {
            writeln!(f, "  chain {} {{", chain.name)?;
            if let Some(base) = chain.base {
                writeln!(f, "    {base}")?;
            }
            for rule in &chain.rules {
                writeln!(f, "    {rule}")?;
            }
            writeln!(f, "  }}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Content {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(ports) => write!(f, "type inet_service; elements = {{ {} }}", Listed(ports)),
            Self::Networks4(networks) => {
                write!(f, "type ipv4_addr; flags interval; elements = {{ {} }}", Listed(networks))
            }
            Self::Networks6(networks) => {
                write!(f, "type ipv6_addr; flags interval; elements = {{ {} }}", Listed(networks))
            }
            Self::Interfaces(names) => {
                let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
                write!(f, "type ifname; elements = {{ {} }}", Listed(&quoted))
            }
            Self::Refused(family) => {
                let address = match family {
                    Family::Ip4 => "ipv4_addr",
                    Family::Ip6 => "ipv6_addr",
                };
                let seconds = REFUSED_TIMEOUT_MS / 1_000;
                write!(
                    f,
                    "type {address} . inet_service; flags dynamic,timeout; timeout {seconds}s; size {REFUSED_MAX};"
                )
            }
        }
    }
}

struct Listed<'a, T>(&'a T);

impl<'a, T> Display for Listed<'a, T>
where
    &'a T: IntoIterator<Item: Display>,
{
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, item) in self.0.into_iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{item}")?;
        }
        Ok(())
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (kind, hook) = match self {
            Self::Prerouting => ("filter", "prerouting"),
            Self::Output => ("route", "output"),
            Self::Postrouting => ("filter", "postrouting"),
        };
        // nft knows the name `mangle` in only some hooks of some versions; the number is the same everywhere.
        write!(f, "type {kind} hook {hook} priority -150; policy accept;")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for term in
            self.matches.iter().map(|term| term as &dyn Display).chain(self.statements.iter().map(|term| term as _))
        {
            write!(f, "{space}{term}")?;
            space = " ";
        }
        Ok(())
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::InterfaceIn(name) => write!(f, "iifname \"{name}\""),
            Self::NotInterfaceOut(name) => write!(f, "oifname != \"{name}\""),
            Self::InterfaceInSet(Way::In, set) => write!(f, "iifname @{set}"),
            Self::InterfaceInSet(Way::Out, set) => write!(f, "oifname @{set}"),
            Self::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::NotProtocol(protocol) => write!(f, "meta l4proto != {protocol}"),
            Self::ToLoopback4 => f.write_str("ip daddr 127.0.0.0/8"),
            Self::ToAddress(address) if address.is_ipv4() => write!(f, "ip daddr {address}"),
            Self::ToAddress(address) => write!(f, "ip6 daddr {address}"),
            Self::AddressInSet(family, side, set) => write!(f, "{family} {}addr @{set}", Initial(*side)),
            Self::ToPort(protocol, port) => write!(f, "{protocol} dport {port}"),
            Self::PortInSet(side, set) => write!(f, "tcp {}port @{set}", Initial(*side)),
            Self::Opens => f.write_str("tcp flags & (syn|ack) == syn"),
            Self::NotOpens => f.write_str("tcp flags & (syn|ack) != syn"),
            Self::Refuses => f.write_str("tcp flags & (rst|ack) == rst|ack"),
            Self::ToRefused(family, set) => write!(f, "{family} daddr . tcp dport @{set}"),
            Self::Mark(mark) => write!(f, "meta mark {mark:#x}"),
            Self::NotMark(mark) => write!(f, "meta mark != {mark:#x}"),
            Self::ConntrackMark(mark) => write!(f, "ct mark {mark:#x}"),
            Self::ConntrackReply => f.write_str("ct direction reply"),
            Self::TransparentSocket => f.write_str("socket transparent 1"),
            Self::ToLocal => f.write_str("fib daddr type local"),
        }
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remember(family, set) => write!(f, "update @{set} {{ {family} saddr . tcp sport }}"),
            Self::SetMark(mark) => write!(f, "meta mark set {mark:#x}"),
            Self::SetConntrackMark(mark) => write!(f, "ct mark set {mark:#x}"),
            Self::Tproxy(port) => write!(f, "tproxy to :{port}"),
            Self::RejectReset => f.write_str("reject with tcp reset"),
            Self::RejectUnreachable => f.write_str("reject with icmpx port-unreachable"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}

/// `s` of `saddr` and `sport`, or `d` of `daddr` and `dport`.
struct Initial(Side);

impl Display for Initial {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Side::Source => "s",
            Side::Destination => "d",
        })
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip4 => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl Display for Layer4 {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

//! An nftables table as data: sets, chains, rules. What it prints (`text.rs`) loads with `nft -f`, and what the kernel
//! gets (`netlink`) is made from the same values.
//!
//! Invariant: only what our rule sets need can be said here, so every value has both a text and an encoding.

use ipnet::{Ipv4Net, Ipv6Net};
use std::{collections::BTreeSet, net::IpAddr};

/// The table, in family `inet`: its rules see IPv4 and IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its sets; a set without elements is left out, with the rule that would ask it.
    pub sets: Vec<Set>,
    /// Its chains. A chain that is jumped to comes before the one that jumps.
    pub chains: Vec<Chain>,
}

/// A named set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name, which rules refer to.
    pub name: &'static str,
    /// What it holds.
    pub content: Content,
}

/// What a set holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Ports.
    Ports(BTreeSet<u16>),
    /// IPv4 blocks that do not overlap.
    Networks4(Vec<Ipv4Net>),
    /// IPv6 blocks that do not overlap.
    Networks6(Vec<Ipv6Net>),
    /// Names of network interfaces.
    Interfaces(BTreeSet<String>),
    /// Address and port of clients that are being refused: the kernel writes it, an entry lives
    /// [`REFUSED_TIMEOUT_MS`], and at most [`REFUSED_MAX`] live at once.
    Refused(Family),
}

/// How long a refused client is remembered, in milliseconds: its refusal leaves at once, so any second is plenty.
pub const REFUSED_TIMEOUT_MS: u64 = 5_000;
/// Refused clients that are remembered at once. A client beyond that is dropped instead of refused.
pub const REFUSED_MAX: u32 = 4_096;

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where the kernel enters it; `None` for a chain that is only jumped to.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where the kernel enters a chain. All have priority `mangle` (-150: after conntrack, before filters) and policy accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Type filter, hook prerouting: what arrives, from outside or looped through `lo`.
    Prerouting,
    /// Type route, hook output: what this host sends. A changed mark routes the packet anew.
    Output,
    /// Type filter, hook postrouting: what leaves, after all routing.
    Postrouting,
}

/// A rule: when every match holds, its statements are run, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What must hold of a packet.
    pub matches: Vec<Match>,
    /// What is then done.
    pub statements: Vec<Statement>,
}

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The packet arrived by this interface.
    InterfaceIn(&'static str),
    /// The packet leaves by any interface but this.
    NotInterfaceOut(&'static str),
    /// The packet's interface on this way is in the set.
    InterfaceInSet(Way, &'static str),
    /// The packet's protocol is this.
    Protocol(Layer4),
    /// The packet's protocol is any but this.
    NotProtocol(Layer4),
    /// An IPv4 packet to 127.0.0.0/8.
    ToLoopback4,
    /// The packet goes to exactly this address.
    ToAddress(IpAddr),
    /// A packet of this family whose address on this side is in the set.
    AddressInSet(Family, Side, &'static str),
    /// The port on the destination's side is this.
    ToPort(Layer4, u16),
    /// The TCP port on this side is in the set.
    PortInSet(Side, &'static str),
    /// A TCP packet that opens a connection: SYN without ACK.
    Opens,
    /// A TCP packet that does not open a connection.
    NotOpens,
    /// A TCP packet that refuses a connection: RST with ACK.
    Refuses,
    /// Destination address and TCP port are in the set of clients that are being refused.
    ToRefused(Family, &'static str),
    /// The packet mark is this.
    Mark(u32),
    /// The packet mark is any but this.
    NotMark(u32),
    /// The mark of the packet's conntrack entry is this.
    ConntrackMark(u32),
    /// The packet goes from the connection's server to its client, as conntrack saw it opened.
    ConntrackReply,
    /// A local socket with `IP_TRANSPARENT` owns this packet's connection, or listens for it.
    TransparentSocket,
    /// The destination is an address of this host.
    ToLocal,
}

/// One thing that a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Remembers source address and TCP port as a client that is being refused. Ends the rule when the set is full.
    Remember(Family, &'static str),
    /// Sets the packet mark.
    SetMark(u32),
    /// Sets the mark of the packet's conntrack entry.
    SetConntrackMark(u32),
    /// Gives the packet to the transparent listener on this port. Ends the rule when there is none.
    Tproxy(u16),
    /// Answers with a TCP reset.
    RejectReset,
    /// Answers with ICMP "port unreachable".
    RejectUnreachable,
    /// Ends the walk through our chains at this hook.
    Accept,
    /// Ends the packet.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// Continues in another chain, and behind this rule if that returns.
    Jump(&'static str),
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
}

/// A side of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A packet's way through an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The interface it arrived by.
    In,
    /// The interface it leaves by.
    Out,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Family {
    /// Both, in the order in which everything is done.
    pub const BOTH: [Self; 2] = [Self::Ip4, Self::Ip6];
}

impl Rule {
    /// A rule of these matches and statements.
    pub fn new(matches: impl Into<Vec<Match>>, statements: impl Into<Vec<Statement>>) -> Self {
        Self { matches: matches.into(), statements: statements.into() }
    }
}

impl Content {
    /// Whether nothing can ever match it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Ports(ports) => ports.is_empty(),
            Self::Networks4(networks) => networks.is_empty(),
            Self::Networks6(networks) => networks.is_empty(),
            Self::Interfaces(names) => names.is_empty(),
            Self::Refused(_) => false,
        }
    }
}

//! The rules of mode `tproxy`: inbound and outbound TCP, and DNS where asked, goes to the proxy's listeners, with both
//! addresses as they were.
//!
//! The loop it closes: what an application sends is marked in `out`, so that it is routed to `lo` and arrives in `pre_lo`,
//! where TPROXY gives it to port 15001. What comes from outside arrives in `pre`, where TPROXY gives it to port 15006.
//! The proxy's own packets carry a mark and are left alone. When the proxy dials the application with the client's
//! address, the replies are marked like any outbound packet, and the proxy's transparent socket takes them on `lo`.
//!
//! Invariant: with no listener nothing passes: a dial is refused by a TCP reset, in both directions, and what is marked
//! never leaves by another interface than `lo`, even if the policy rule or route is gone.

use crate::{
    config::Config,
    plan::{
        Flavour,
        table::{Base, Chain, Content, Family, Layer4, Match, Rule, Set, Side, Statement, Table, Way},
    },
};
use Family::{Ip4, Ip6};
use Layer4::{Tcp, Udp};
use Match::*;
use Side::{Destination, Source};
use Statement::*;
use heddle_init_abi::{
    CAPTURE_MARK, CAPTURE_PORTS, DNS_PORT, INBOUND_PORT, OUTBOUND_PORT, OWN_MARK, PROBE_ADDRESSES, SERVED_PORTS,
};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The table for this configuration.
pub fn table(config: &Config, flavour: &Flavour) -> Table {
    let chains = vec![refuse(), from_loopback(config, flavour), arriving(config), sending(config, flavour), guard()];
    Table { sets: sets(config), chains }
}

fn sets(config: &Config) -> Vec<Set> {
    let loopback4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let local6 = [
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    ];
    let (inbound, outbound) = (&config.inbound, &config.outbound);
    let with4 = |own: &[Ipv4Net], more: &[Ipv4Net]| Content::Networks4(Ipv4Net::aggregate(&[own, more].concat()));
    let with6 = |own: &[Ipv6Net], more: &[Ipv6Net]| Content::Networks6(Ipv6Net::aggregate(&[own, more].concat()));
    let mut sets = vec![
        Set { name: OWN_PORTS, content: Content::Ports(CAPTURE_PORTS.into()) },
        Set { name: IN_PORTS, content: Content::Ports(inbound.ports.iter().copied().chain(SERVED_PORTS).collect()) },
        Set { name: IN_NETWORKS4, content: with4(&[], &inbound.networks.v4) },
        Set { name: IN_NETWORKS6, content: with6(&[], &inbound.networks.v6) },
        Set { name: IN_INTERFACES, content: Content::Interfaces(inbound.interfaces.clone()) },
        Set { name: REFUSED4, content: Content::Refused(Ip4) },
        Set { name: REFUSED6, content: Content::Refused(Ip6) },
        Set { name: OUT_PORTS, content: Content::Ports(outbound.ports.clone()) },
        Set { name: OUT_NETWORKS4, content: with4(&[loopback4], &outbound.networks.v4) },
        Set { name: OUT_NETWORKS6, content: with6(&local6, &outbound.networks.v6) },
        Set { name: OUT_INTERFACES, content: Content::Interfaces(outbound.interfaces.clone()) },
    ];
    sets.retain(|set| !set.content.is_empty());
    sets
}

/// Ends a dial that nobody takes. A refusal has no socket and no mark, so `out` would capture it: the client is
/// remembered for it. Where that fails because the set is full, the dial is dropped.
fn refuse() -> Chain {
    let rules = vec![
        Rule::new([NotOpens], [Return]),
        Rule::new([], [Remember(Ip4, REFUSED4), RejectReset]),
        Rule::new([], [Remember(Ip6, REFUSED6), RejectReset]),
        Rule::new([], [Drop]),
    ];
    Chain { name: REFUSE, base: None, rules }
}

/// What arrives through `lo`: outbound packets that were routed back, and the pod talking to itself.
fn from_loopback(config: &Config, flavour: &Flavour) -> Chain {
    let mut rules = Vec::new();
    if flavour.is_conntrack() {
        // The proxy dials the application: from now on conntrack knows the application's replies.
        rules.push(Rule::new([Mark(OWN_MARK), Protocol(Tcp)], [SetConntrackMark(CAPTURE_MARK), Accept]));
    }
    rules.push(Rule::new([NotMark(CAPTURE_MARK)], [Return]));
    // TCP only: over UDP it would match the short-lived socket of the DNS proxy's answer, and swallow the next query.
    rules.push(Rule::new([Protocol(Tcp), TransparentSocket], [Accept]));
    if flavour.is_conntrack() {
        rules.push(Rule::new([ConntrackReply], [Accept]));
    }
    if config.dns {
        rules.push(Rule::new([ToPort(Tcp, 53)], [Tproxy(DNS_PORT), Accept]));
        rules.push(Rule::new([ToPort(Tcp, 53), Opens], [RejectReset]));
    }
    rules.push(Rule::new([Protocol(Tcp)], [Tproxy(OUTBOUND_PORT), Accept]));
    rules.push(Rule::new([Opens], [RejectReset]));
    if config.dns {
        rules.push(Rule::new([ToPort(Udp, 53)], [Tproxy(DNS_PORT), Accept]));
        // IPv6 only, in effect: the kernel sends no ICMP from an IPv4 address that is not its own, so the query is lost.
        rules.push(Rule::new([ToPort(Udp, 53)], [RejectUnreachable]));
    }
    Chain { name: PRE_LO, base: None, rules }
}

/// What arrives, from outside for the most part.
fn arriving(config: &Config) -> Chain {
    let mut rules = vec![
        Rule::new([InterfaceIn("lo")], [Jump(PRE_LO)]),
        Rule::new([InterfaceIn("lo")], [Accept]),
        // Matters only if somebody sets route_localnet: then an outsider could reach the proxy's loopback ports.
        Rule::new([ToLoopback4], [Drop]),
    ];
    if config.dns {
        rules.push(Rule::new([ToPort(Udp, DNS_PORT)], [Drop]));
    }
    rules.push(Rule::new([NotProtocol(Tcp)], [Accept]));
    rules.push(Rule::new([PortInSet(Destination, IN_PORTS)], [Accept]));
    // Before `socket`, which also matches the listeners behind these ports.
    rules.push(Rule::new([PortInSet(Destination, OWN_PORTS)], [Jump(REFUSE)]));
    rules.push(Rule::new([PortInSet(Destination, OWN_PORTS)], [Drop]));
    if !config.inbound.interfaces.is_empty() {
        rules.push(Rule::new([InterfaceInSet(Way::In, IN_INTERFACES)], [Accept]));
    }
    if !config.inbound.networks.v4.is_empty() {
        rules.push(Rule::new([AddressInSet(Ip4, Source, IN_NETWORKS4)], [Accept]));
    }
    if !config.inbound.networks.v6.is_empty() {
        rules.push(Rule::new([AddressInSet(Ip6, Source, IN_NETWORKS6)], [Accept]));
    }
    rules.push(Rule::new([TransparentSocket], [Accept]));
    rules.push(Rule::new([ToLocal, Protocol(Tcp)], [Tproxy(INBOUND_PORT), Accept]));
    // Without a listener TPROXY does not match, and the client would reach the application in the clear. Only a dial is
    // refused: replies to connections that the proxy or an excluded application opened come here, too, and must pass.
    rules.push(Rule::new([ToLocal], [Jump(REFUSE)]));
    Chain { name: PRE, base: Some(Base::Prerouting), rules }
}

/// What this pod sends.
fn sending(config: &Config, flavour: &Flavour) -> Chain {
    let mut rules = vec![
        Rule::new([Mark(OWN_MARK)], [Accept]),
        Rule::new([Refuses, ToRefused(Ip4, REFUSED4)], [Accept]),
        Rule::new([Refuses, ToRefused(Ip6, REFUSED6)], [Accept]),
    ];
    if flavour.is_conntrack() {
        rules.push(Rule::new([ConntrackMark(CAPTURE_MARK)], [SetMark(CAPTURE_MARK), Accept]));
        rules.push(Rule::new([ConntrackReply], [Accept]));
    } else {
        // The reply on a port that is not captured. A packet that opens a connection is none, so that nobody escapes
        // capture by binding such a port.
        rules.push(Rule::new([PortInSet(Source, IN_PORTS), NotOpens], [Accept]));
    }
    for probe in PROBE_ADDRESSES {
        if config.excludes_outbound(probe) {
            // The proxy and `verify` must see what happens to captured connections, not to excluded ones.
            rules.push(Rule::new([ToAddress(probe.ip()), ToPort(Tcp, probe.port())], [SetMark(CAPTURE_MARK), Accept]));
        }
    }
    if !config.outbound.interfaces.is_empty() {
        rules.push(Rule::new([InterfaceInSet(Way::Out, OUT_INTERFACES)], [Accept]));
    }
    rules.push(Rule::new([AddressInSet(Ip4, Destination, OUT_NETWORKS4)], [Accept]));
    rules.push(Rule::new([AddressInSet(Ip6, Destination, OUT_NETWORKS6)], [Accept]));
    if !config.outbound.ports.is_empty() {
        rules.push(Rule::new([PortInSet(Destination, OUT_PORTS)], [Accept]));
    }
    // The pod's own address is direct.
    rules.push(Rule::new([ToLocal], [Accept]));
    rules.push(Rule::new([Protocol(Tcp)], [SetMark(CAPTURE_MARK), Accept]));
    if config.dns {
        rules.push(Rule::new([ToPort(Udp, 53)], [SetMark(CAPTURE_MARK), Accept]));
    }
    Chain { name: OUT, base: Some(Base::Output), rules }
}

/// What was marked for the proxy and leaves anyway, because the policy rule or the route is gone or because the socket is
/// bound to a device (`SO_BINDTODEVICE`).
fn guard() -> Chain {
    let rules = vec![Rule::new([Mark(CAPTURE_MARK), NotInterfaceOut("lo")], [Drop])];
    Chain { name: GUARD, base: Some(Base::Postrouting), rules }
}

const PRE: &str = "pre";
const PRE_LO: &str = "pre_lo";
const OUT: &str = "out";
const REFUSE: &str = "refuse";
const GUARD: &str = "guard";

const OWN_PORTS: &str = "own_ports";
const IN_PORTS: &str = "in_ports";
const IN_NETWORKS4: &str = "in_networks4";
const IN_NETWORKS6: &str = "in_networks6";
const IN_INTERFACES: &str = "in_interfaces";
const REFUSED4: &str = "refused4";
const REFUSED6: &str = "refused6";
const OUT_PORTS: &str = "out_ports";
const OUT_NETWORKS4: &str = "out_networks4";
const OUT_NETWORKS6: &str = "out_networks6";
const OUT_INTERFACES: &str = "out_interfaces";

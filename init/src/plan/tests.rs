//! Configurations and the rules that they become, as text. Every plan is also checked for what all plans must hold.

use super::{table::*, *};
use crate::config::{Args, Config};
use std::ops::RangeInclusive;

/// The plan for these options on a kernel with the usual settings, checked for what all plans must hold.
fn plan(options: &[&str]) -> Plan {
    plan_on(options, 32768..=60999, Ipv6::On)
}

fn plan_on(options: &[&str], local_ports: RangeInclusive<u16>, ipv6: Ipv6) -> Plan {
    use clap::Parser;
    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        args: Args,
    }
    let options = Options::try_parse_from([&["test"], options].concat()).expect("the options exist");
    let config = Config::new(&options.args).expect("the options are correct");
    let (addresses, interfaces) = (vec![], std::collections::BTreeMap::new());
    let kernel = Kernel { local_ports, reserved_ports: vec![], ipv6, addresses, interfaces };
    let nowhere = Place { cgroup: Err("a test".to_owned()), pins: Err("a test".to_owned()) };
    let plan = Plan::new(&config, &kernel, nowhere);
    assert_consistent(table(&plan));
    plan
}

fn table(plan: &Plan) -> &Table {
    let Some(Step::Table(table)) = plan.steps.last() else { panic!("the table is the last step") };
    table
}

/// Every set and chain that a rule names is there, no set is empty or unused, and every rule ends in a verdict.
fn assert_consistent(table: &Table) {
    let rules = || table.chains.iter().flat_map(|chain| &chain.rules);
    let asked: Vec<_> = rules().flat_map(sets_of).collect();
    for set in &table.sets {
        assert!(!set.content.is_empty(), "set {} is empty", set.name);
        assert!(asked.contains(&set.name), "nobody asks set {}", set.name);
    }
    for name in asked {
        assert!(table.sets.iter().any(|set| set.name == name), "there is no set {name}");
    }
    for rule in rules() {
        match rule.statements.last() {
            Some(Statement::Jump(name)) => {
                assert!(table.chains.iter().any(|chain| chain.name == *name), "there is no chain {name}");
            }
            Some(
                Statement::Accept
                | Statement::Drop
                | Statement::Return
                | Statement::RejectReset
                | Statement::RejectUnreachable,
            ) => {}
            _ => panic!("`{rule}` decides nothing"),
        }
    }
}

fn sets_of(rule: &Rule) -> Vec<&'static str> {
    let asked = rule.matches.iter().filter_map(|condition| match condition {
        Match::InterfaceInSet(_, set)
        | Match::AddressInSet(_, _, set)
        | Match::PortInSet(_, set)
        | Match::ToRefused(_, set) => Some(*set),
        _ => None,
    });
    let written = rule.statements.iter().filter_map(|statement| match statement {
        Statement::Remember(_, set) => Some(*set),
        _ => None,
    });
    asked.chain(written).collect()
}

/// The rules of a chain, as text.
fn rules(plan: &Plan, chain: &str) -> Vec<String> {
    let chain = table(plan).chains.iter().find(|found| found.name == chain).expect("the chain is there");
    chain.rules.iter().map(ToString::to_string).collect()
}

/// The rules that these options add to a chain, and those that they take away.
fn check_change(options: &[&str], chain: &str, added: &[&str], gone: &[&str]) {
    let (before, after) = (rules(&plan(&[]), chain), rules(&plan(options), chain));
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|rule| !those.contains(rule)).cloned().collect()
    };
    assert_eq!(only(&after, &before), added, "added to {chain}");
    assert_eq!(only(&before, &after), gone, "gone from {chain}");
}

#[test]
fn routing_comes_before_the_table_for_both_families() {
    let steps: Vec<_> = plan(&[]).steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        steps[..4],
        [
            "ip route add local 0.0.0.0/0 dev lo table 133",
            "ip rule add fwmark 0x539 lookup 133 priority 133",
            "ip -6 route add local ::/0 dev lo table 133",
            "ip -6 rule add fwmark 0x539 lookup 133 priority 133",
        ]
    );
}

#[test]
fn the_default_is_stateless() {
    let plan = plan(&[]);
    assert_eq!(plan.flavour, Flavour::Stateless);
    assert!(!plan.to_string().contains(" ct "), "{plan}");
    assert_eq!(
        rules(&plan, "pre"),
        [
            r#"iifname "lo" jump pre_lo"#,
            r#"iifname "lo" accept"#,
            "ip daddr 127.0.0.0/8 drop",
            "meta l4proto != tcp accept",
            "tcp dport @in_ports accept",
            "tcp dport @own_ports jump refuse",
            "tcp dport @own_ports drop",
            "socket transparent 1 accept",
            "fib daddr type local meta l4proto tcp tproxy to :15006 accept",
            "fib daddr type local jump refuse",
        ]
    );
    assert_eq!(
        rules(&plan, "out"),
        [
            "meta mark 0x53a accept",
            "tcp flags & (rst|ack) == rst|ack ip daddr . tcp dport @refused4 accept",
            "tcp flags & (rst|ack) == rst|ack ip6 daddr . tcp dport @refused6 accept",
            "tcp sport @in_ports tcp flags & (syn|ack) != syn accept",
            "ip daddr @out_networks4 accept",
            "ip6 daddr @out_networks6 accept",
            "fib daddr type local accept",
            "meta l4proto tcp meta mark set 0x539 accept",
        ]
    );
}

#[test]
fn ports_are_excluded_without_conntrack() {
    let options = ["--exclude-inbound-ports", "22", "--exclude-outbound-ports", "3306"];
    assert_eq!(plan(&options).flavour, Flavour::Stateless);
    check_change(&options, "pre", &[], &[]);
    check_change(&options, "out", &["tcp dport @out_ports accept"], &[]);
    let text = plan(&options).to_string();
    assert!(text.contains("set in_ports { type inet_service; elements = { 22, 15008, 15020, 15021 } }"), "{text}");
    assert!(text.contains("set out_ports { type inet_service; elements = { 3306 } }"), "{text}");
}

#[test]
fn what_ports_cannot_tell_needs_conntrack() {
    let check = |options: &[&str], reason| {
        assert_eq!(plan(options).flavour, Flavour::Conntrack(vec![reason]), "{options:?}");
        let tells_replies = "ct direction reply accept".to_owned();
        assert!(rules(&plan(options), "out").contains(&tells_replies));
        assert!(!rules(&plan(options), "out").contains(&"tcp sport @in_ports accept".to_owned()));
    };
    check(&["--exclude-inbound-cidrs", "10.0.0.0/8"], Reason::InboundCidrs);
    check(&["--exclude-inbound-interfaces", "eth1"], Reason::InboundInterfaces);
    check(&["--exclude-outbound-cidrs", "10.0.0.0/8"], Reason::OutboundCidrs);
    check(&["--exclude-outbound-interfaces", "eth1"], Reason::OutboundInterfaces);
    check(&["--exclude-inbound-ports", "40000"], Reason::EphemeralPort(40000));
    check(&["--exclude-outbound-ports", "40000"], Reason::EphemeralPort(40000));
}

#[test]
fn ports_of_the_proxy_among_the_ephemeral_ones_need_conntrack_and_a_word() {
    let plan = plan_on(&[], 1024..=65535, Ipv6::On);
    assert_eq!(plan.flavour, Flavour::Conntrack(vec![Reason::EphemeralPort(15008)]));
    let [note] = plan.notes.as_slice() else { panic!("one note: {:?}", plan.notes) };
    assert!(note.contains("ip_local_reserved_ports"), "{note}");
}

#[test]
fn the_conntrack_flavour_knows_replies_on_both_sides() {
    let options = ["--exclude-inbound-cidrs", "10.0.0.0/8,fd00::/8"];
    let marks_dials = "meta mark 0x53a meta l4proto tcp ct mark set 0x539 accept";
    check_change(&options, "pre_lo", &[marks_dials, "ct direction reply accept"], &[]);
    let captures_replies = "ct mark 0x539 meta mark set 0x539 accept";
    let by_port = "tcp sport @in_ports tcp flags & (syn|ack) != syn accept";
    check_change(&options, "out", &[captures_replies, "ct direction reply accept"], &[by_port]);
    check_change(&options, "pre", &["ip saddr @in_networks4 accept", "ip6 saddr @in_networks6 accept"], &[]);
}

#[test]
fn the_probe_is_captured_although_it_is_excluded() {
    let captures_probe = "ip daddr 192.0.2.1 tcp dport 9 meta mark set 0x539 accept";
    let captures_probe6 = "ip6 daddr 2001:db8::1 tcp dport 9 meta mark set 0x539 accept";
    check_change(
        &["--exclude-outbound-ports", "9"],
        "out",
        &[captures_probe, captures_probe6, "tcp dport @out_ports accept"],
        &[],
    );
    let out = rules(&plan(&["--exclude-outbound-cidrs", "192.0.0.0/8"]), "out");
    assert!(out.contains(&captures_probe.to_owned()) && !out.contains(&captures_probe6.to_owned()), "{out:?}");
}

#[test]
fn dns_is_captured_only_when_asked() {
    assert!(!plan(&[]).to_string().contains("dport 53"));
    assert_eq!(plan(&["--dns"]).flavour, Flavour::Stateless);
    check_change(
        &["--dns"],
        "pre_lo",
        &[
            "tcp dport 53 tproxy to :15053 accept",
            "tcp dport 53 tcp flags & (syn|ack) == syn reject with tcp reset",
            "udp dport 53 tproxy to :15053 accept",
            "udp dport 53 reject with icmpx port-unreachable",
        ],
        &[],
    );
    check_change(&["--dns"], "pre", &["udp dport 15053 drop"], &[]);
    check_change(&["--dns"], "out", &["udp dport 53 meta mark set 0x539 accept"], &[]);
}

#[test]
fn blocks_that_overlap_or_touch_become_one() {
    let text = plan(&["--exclude-outbound-cidrs", "10.1.0.0/16,10.0.0.0/8,127.1.0.0/16,11.0.0.0/8"]).to_string();
    assert!(text.contains("elements = { 10.0.0.0/7, 127.0.0.0/8 }"), "{text}");
}

#[test]
fn a_kernel_without_ipv6_gets_the_same_table_and_no_ipv6_routing() {
    let without = plan_on(&[], 32768..=60999, Ipv6::Off("this kernel has no IPv6".to_owned()));
    assert_eq!(table(&without), table(&plan(&[])));
    let steps: Vec<_> = without.steps_here().map(ToString::to_string).collect();
    assert_eq!(steps.len(), 3, "{steps:?}");
    assert!(!steps.iter().any(|step| step.contains("-6")), "{steps:?}");
    assert!(without.to_string().contains("left out: this kernel has no IPv6"), "{without}");
}

//! `verify` after everything that may go wrong.

use crate::pod::Pod;

#[test]
fn it_passes_after_apply_and_proves_both_families() {
    for options in [
        "",
        "--dns",
        "--exclude-outbound-cidrs 0.0.0.0/0,::/0 --exclude-outbound-ports 9",
        "--exclude-outbound-interfaces eth0",
    ] {
        let pod = Pod::new();
        pod.apply(options);
        let told = pod.init(&format!("verify {options}")).succeeds();
        for probe in ["192.0.2.1:9", "[2001:db8::1]:9"] {
            let captured = format!("{probe}: a connection was captured, with its destination");
            assert!(told.contains(&captured), "{options}: {captured:?} is not in:\n{told}");
        }
    }
}

#[test]
fn it_passes_while_the_proxy_listens_and_takes_no_connection_from_it() {
    let pod = Pod::new();
    pod.apply("");
    let proxy = pod.proxy();
    let told = pod.init("verify").succeeds();
    assert_eq!(told.matches("the proxy, which listens already, took it with its destination").count(), 2, "{told}");
    assert!(proxy.outbound.served() >= 2);
}

#[test]
fn a_family_without_a_route_is_skipped_and_told() {
    let pod = Pod::new();
    pod.inside.run("ip -6 route del default");
    pod.apply("");
    let told = pod.init("verify").succeeds();
    assert!(told.contains("192.0.2.1:9: a connection was captured"), "{told}");
    assert!(told.contains("[2001:db8::1]:9: not probed, the pod has no route to it (Network is unreachable"), "{told}");
}

#[test]
fn it_fails_before_apply_and_after_undo() {
    let pod = Pod::new();
    for _ in 0..2 {
        let stderr = pod.init("verify").fails();
        assert!(stderr.contains("table inet heddle is missing"), "{stderr}");
        assert!(stderr.contains("a connection to 192.0.2.1:9 was not captured"), "{stderr}");
        pod.apply("");
        pod.init("undo").succeeds();
    }
}

#[test]
fn every_change_is_found_and_named() {
    let changes = [
        ("nft delete element inet heddle in_ports { 15020 }", "set in_ports lacks 1 of its elements and has 0 others"),
        (
            "nft add element inet heddle out_networks4 { 10.0.0.0/8 }",
            "set out_networks4 lacks 0 of its elements and has 2 others",
        ),
        ("nft insert rule inet heddle out accept", "chain out has 1 more rules before `meta mark 0x53a accept`"),
        ("nft add rule inet heddle pre accept", "chain pre has 1 more rules at its end"),
        ("nft flush chain inet heddle guard", "chain guard lacks rule `meta mark 0x539 oifname != \"lo\" drop`"),
        ("nft add chain inet heddle more", "chain more is not planned"),
        ("nft add set inet heddle more { type inet_service; }", "set more is not planned"),
        ("nft chain inet heddle pre { policy drop; }", "chain pre is entered by"),
        ("nft add table inet heddle { flags dormant; }", "table inet heddle has flags 0x1"),
        ("nft delete table inet heddle", "table inet heddle is missing"),
        ("ip rule del fwmark 0x539", "the policy rule is missing: ip rule add fwmark 0x539"),
        ("ip -6 rule del fwmark 0x539", "the policy rule is missing: ip -6 rule add fwmark 0x539"),
        ("ip route flush table 133", "the route is missing: ip route add local 0.0.0.0/0"),
        ("ip -6 route flush table 133", "the route is missing: ip -6 route add local ::/0"),
    ];
    let pod = Pod::new();
    for (change, reason) in changes {
        pod.apply("");
        pod.inside.run(change);
        let stderr = pod.init("verify").fails();
        assert!(stderr.contains(reason), "after `{change}`: {reason:?} is not in:\n{stderr}");
    }
    pod.apply("");
    pod.init("verify").succeeds();
}

#[test]
fn every_rule_is_missed() {
    let pod = Pod::new();
    let options = "--dns --exclude-inbound-cidrs 10.1.0.0/16 --exclude-outbound-ports 9";
    pod.apply(options);
    for chain in ["refuse", "pre_lo", "pre", "out", "guard"] {
        let listed = pod.inside.run(&format!("nft -a list chain inet heddle {chain}"));
        let count = listed.matches("# handle").count() - 1;
        for number in 0..count {
            pod.apply(options);
            let listed = pod.inside.run(&format!("nft -a list chain inet heddle {chain}"));
            // The first line with a handle is the chain's own.
            let line = listed.lines().filter(|line| line.contains("# handle")).nth(number + 1).expect("counted above");
            let (rule, handle) = line.trim().split_once(" # handle ").expect("every line has its handle");
            pod.inside.run(&format!("nft delete rule inet heddle {chain} handle {handle}"));
            let stderr = pod.init(&format!("verify {options}")).fails();
            assert!(stderr.contains(&format!("chain {chain} lacks rule `")), "without `{rule}`:\n{stderr}");
        }
    }
}

#[test]
fn an_inverted_match_is_found() {
    let pod = Pod::new();
    pod.apply("");
    let listed = pod.inside.run("nft -a list chain inet heddle out");
    let line = listed.lines().find(|line| line.contains("tcp sport @in_ports")).expect("the rule is there");
    let handle = line.rsplit(' ').next().expect("a line has words");
    pod.inside.run(&format!(
        "nft replace rule inet heddle out handle {handle} tcp sport != @in_ports tcp flags & (syn|ack) != syn accept"
    ));
    let stderr = pod.init("verify").fails();
    assert!(stderr.contains("chain out lacks rule `tcp sport @in_ports"), "{stderr}");
}

//! What `apply` puts in place and `undo` takes away, as `nft` and `ip` see it.

use crate::{
    netns::{Namespace, run},
    pod::{Pod, Run},
};
use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Options that use everything: both kinds of sets, and conntrack.
const EVERYTHING: &str = "--dns --exclude-inbound-ports 22,40000 --exclude-outbound-ports 9,3306 \
     --exclude-inbound-cidrs 10.0.0.0/8,fd00::/8 --exclude-outbound-cidrs 0.0.0.0/1,192.168.1.1,255.0.0.0/8,fd00::/8 \
     --exclude-inbound-interfaces eth1 --exclude-outbound-interfaces eth2,eth3";

#[test]
fn applying_twice_is_applying_once() {
    for options in ["", EVERYTHING] {
        let pod = Pod::new();
        pod.apply(options);
        let once = state(&pod.inside);
        pod.apply(options);
        assert_same(&state(&pod.inside), &once);
    }
}

#[test]
fn other_options_replace_the_former_ones() {
    let (changed, fresh) = (Pod::new(), Pod::new());
    changed.apply(EVERYTHING);
    changed.apply("");
    fresh.apply("");
    assert_same(&state(&changed.inside), &state(&fresh.inside));
}

#[test]
fn what_show_prints_is_what_apply_makes() {
    for options in ["", "--dns", EVERYTHING] {
        let pod = Pod::new();
        pod.apply(options);
        let text = pod.init(&format!("show {options}")).succeeds();
        let by_nft = Namespace::new();
        load(&by_nft, &text);
        assert_same(&pod.inside.run("nft list ruleset"), &by_nft.run("nft list ruleset"));
    }
}

#[test]
fn undo_leaves_no_trace() {
    for options in ["", EVERYTHING] {
        let pod = Pod::new();
        load(&pod.inside, FOREIGN_TABLE);
        pod.inside.run("ip rule add fwmark 0x1 lookup 100 priority 100");
        pod.inside.run("ip route add 203.0.113.0/24 dev eth0 table 133");
        let before = state(&pod.inside);
        pod.init("undo").succeeds();
        assert_same(&state(&pod.inside), &before);
        let applied = pod.init(&format!("apply {options}"));
        assert!(applied.fails().contains("table 133 has 1 more routes"), "somebody else's route in our table is told");
        assert_ne!(state(&pod.inside), before);
        for _ in 0..2 {
            pod.init("undo").succeeds();
            assert_same(&state(&pod.inside), &before);
        }
    }
}

#[test]
fn a_default_route_of_somebody_else_in_our_table_is_kept_and_told() {
    let pod = Pod::new();
    pod.inside.run("ip route add default via 10.77.0.1 table 133");
    let before = state(&pod.inside);
    let stderr = pod.init("apply").fails();
    assert!(stderr.contains("the route is missing: ip route add local 0.0.0.0/0 dev lo table 133"), "{stderr}");
    pod.init("undo").succeeds();
    assert_same(&state(&pod.inside), &before);
}

#[test]
fn thousands_of_blocks_fit_into_one_transaction() {
    let pod = Pod::new();
    // Every other block, so that none can be joined with its neighbour.
    let blocks: Vec<_> = (0..6_000).map(|n| format!("11.{}.{}.0/24", n / 128, n % 128 * 2)).collect();
    let options = format!("--exclude-outbound-cidrs {}", blocks.join(","));
    pod.apply(&options);
    assert!(pod.inside.run("nft list set inet heddle out_networks4").contains("11.46.222.0/24"));
    pod.init(&format!("verify {options}")).succeeds();
}

#[test]
fn a_user_with_the_ambient_capability_may_do_it_too() {
    let pod = Pod::new();
    let rights = "--reuid=65532 --regid=65532 --clear-groups --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin \
                  --bounding-set=-all,+net_admin";
    pod.init_as(rights, "apply").succeeds();
    pod.init_as(rights, "verify").succeeds();
    pod.init_as(rights, "undo").succeeds();
}

#[test]
fn a_missing_right_is_told_before_anything_is_tried() {
    let pod = Pod::new();
    let before = state(&pod.inside);
    for command in ["apply", "verify", "undo"] {
        let stderr = pod.init_as("--bounding-set=-all,+net_raw --inh-caps=-all", command).fails();
        assert!(stderr.contains("CAP_NET_ADMIN is missing (effective capabilities are 0x2000)"), "{stderr}");
    }
    assert_same(&state(&pod.inside), &before);
}

#[test]
fn without_ipv6_the_rest_is_done_and_the_gap_is_told() {
    let pod = Pod::new();
    pod.inside.run("sysctl -q net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1");
    let before = state(&pod.inside);
    let applied = pod.init("apply");
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert!(applied.stderr.contains("note: IPv6 is off on lo"), "{applied:?}");
    let told = pod.init("verify").succeeds();
    assert!(told.contains("192.0.2.1:9: a connection was captured"), "{told}");
    assert!(told.contains("[2001:db8::1]:9: not probed, the pod has no route to it"), "{told}");
    pod.init("undo").succeeds();
    assert_same(&state(&pod.inside), &before);
}

/// Everything that capture could touch.
fn state(namespace: &Namespace) -> String {
    ["nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"]
        .map(|command| format!("$ {command}\n{}", namespace.run(command)))
        .concat()
}

/// Byte for byte; a failure shows the lines that differ.
fn assert_same(found: &str, expected: &str) {
    if found != expected {
        let only = |these: &str, those: &str| -> Vec<String> {
            these.lines().filter(|line| !those.lines().any(|other| other == *line)).map(str::to_owned).collect()
        };
        panic!("only found: {:#?}\nonly expected: {:#?}", only(found, expected), only(expected, found));
    }
}

fn load(namespace: &Namespace, text: &str) {
    let mut nft = namespace.command("nft -f -").stdin(Stdio::piped()).spawn().expect("nft is installed");
    nft.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("nft reads its input");
    assert!(nft.wait().expect("nft ends").success(), "nft does not load:\n{text}");
}

const FOREIGN_TABLE: &str = "
table inet foreign {
  set ports { type inet_service; elements = { 80, 443 } }
  chain input { type filter hook input priority 0; policy accept; tcp dport @ports counter accept; }
}
table ip heddle {
  chain other { accept; }
}
";

#[test]
fn show_needs_no_rights() {
    let line = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--"];
    // Outside of any namespace of ours; the binary is copied where everybody may run it.
    let place = std::env::temp_dir().join(format!("heddle-init-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_heddle-init"), &place).expect("the folder for temporary files takes a copy");
    run(Command::new("chmod").arg("755").arg(&place));
    let shown = Run::of(Command::new("setpriv").args(line).arg(&place).arg("show"));
    std::fs::remove_file(&place).expect("it was copied above");
    assert!(shown.succeeds().contains("table inet heddle {"));
}

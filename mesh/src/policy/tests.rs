//! Verdicts on one connection to a pod of namespace `shop`.

use super::{
    Action, Clause, Connection, Denial, Match, Policy, PolicyName, Rule, STRICT_PREFIX, Scope, ServiceAccountMatch,
    StringMatch, Verdict, authorize,
};
use crate::{Mesh, tests::pod, workload::Workload};
use proptest::prelude::*;

const WEB: Option<&str> = Some("spiffe://cluster.local/ns/shop/sa/web");
const EVIL: Option<&str> = Some("spiffe://cluster.local/ns/evil/sa/web");

/// Decides with these policies, of which the workload lists those for selected workloads, and compares with a line of text.
fn check(policies: &[Policy], client: Option<&str>, expected: &str) {
    check_at(policies, client, "10.0.0.9:40000", "10.0.0.1:80", expected);
}

fn check_at(policies: &[Policy], client: Option<&str>, source: &str, destination: &str, expected: &str) {
    let connection = Connection {
        source: source.parse().expect("an address"),
        identity: client.map(|id| id.parse().expect("an identity")),
        destination: destination.parse().expect("an address"),
    };
    let (mesh, workload) = setting(policies);
    assert_eq!(describe(&authorize(&mesh, &workload, &connection)), expected, "{connection:?}");
}

fn setting(policies: &[Policy]) -> (Mesh, Workload) {
    let mut mesh = Mesh::default();
    for policy in policies {
        mesh.insert_policy(policy.clone().into());
    }
    let listed = policies.iter().filter(|policy| policy.scope == Scope::WorkloadSelector);
    let workload =
        Workload { policies: listed.map(|policy| policy.name.clone()).collect(), ..pod("db", &["10.0.0.1"]) };
    (mesh, workload)
}

fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allowed { by, dry_run } => {
            let by = by.as_ref().map(|name| format!(" by {name}")).unwrap_or_default();
            let dry_run: String = dry_run.iter().map(|name| format!(", but {name}")).collect();
            format!("allowed{by}{dry_run}")
        }
        Verdict::Denied(denial) => format!("denied: {denial}"),
    }
}

fn policy(action: Action, name: &str, matches: &[Match]) -> Policy {
    let rule = Rule { clauses: vec![Clause { matches: matches.to_vec() }] };
    Policy { name: policy_name(name), scope: Scope::Namespace, action, rules: vec![rule], dry_run: false }
}

fn allow(name: &str, one: Match) -> Policy {
    policy(Action::Allow, name, &[one])
}

fn deny(name: &str, one: Match) -> Policy {
    policy(Action::Deny, name, &[one])
}

fn policy_name(name: &str) -> PolicyName {
    format!("shop/{name}").parse().expect("a policy name")
}

fn namespace(name: &str) -> Match {
    Match { namespaces: vec![StringMatch::Exact(name.into())], ..Match::default() }
}

fn port(number: u16) -> Match {
    Match { destination_ports: vec![number], ..Match::default() }
}

fn from(block: &str) -> Match {
    Match { source_blocks: vec![block.parse().expect("a block")], ..Match::default() }
}

/// What a strict `MeshPolicy` becomes: a denial of whoever has no identity.
fn strict() -> Policy {
    let plaintext = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    deny(&format!("{STRICT_PREFIX}namespace"), plaintext)
}

#[test]
fn without_policies_everything_passes() {
    check(&[], None, "allowed");
    check(&[], WEB, "allowed");
}

#[test]
fn an_allow_policy_shuts_out_the_others() {
    let policies = [allow("web", namespace("shop")), allow("ops", namespace("ops"))];
    check(&policies, WEB, "allowed by shop/web");
    check(&policies, EVIL, "denied: none of the 2 ALLOW policies allows it (first: shop/ops)");
    check(&policies, None, "denied: none of the 2 ALLOW policies allows it (first: shop/ops)");
}

#[test]
fn a_denial_wins_over_every_allowance() {
    let policies = [allow("all", port(80)), deny("no-evil", namespace("evil"))];
    check(&policies, WEB, "allowed by shop/all");
    check(&policies, EVIL, "denied: policy shop/no-evil denies it");
}

#[test]
fn strict_refuses_plaintext_and_says_so() {
    check(&[strict()], WEB, "allowed");
    check(
        &[strict()],
        None,
        "denied: the workload requires mutual TLS (shop/heddle_strict_namespace) and the client spoke plaintext",
    );
}

#[test]
fn a_listed_policy_that_has_not_arrived_denies() {
    let (mesh, mut workload) = setting(&[allow("web", namespace("shop"))]);
    workload.policies.push(policy_name("later"));
    let connection = Connection {
        source: "10.0.0.9:1".parse().expect("an address"),
        identity: WEB.map(|id| id.parse().expect("an identity")),
        destination: "10.0.0.1:80".parse().expect("an address"),
    };
    let verdict = authorize(&mesh, &workload, &connection);
    assert_eq!(verdict, Verdict::Denied(Denial::Missing(policy_name("later"))));
    assert_eq!(
        describe(&verdict),
        "denied: policy shop/later applies to the workload and has not arrived from the controller"
    );
}

#[test]
fn a_policy_applies_where_its_scope_says() {
    let scoped = |scope, namespace: &str| Policy {
        scope,
        name: format!("{namespace}/p").parse().expect("a name"),
        ..deny("p", port(80))
    };
    let denied = |namespace| format!("denied: policy {namespace}/p denies it");
    check(&[scoped(Scope::Global, "heddle-system")], WEB, &denied("heddle-system"));
    check(&[scoped(Scope::Namespace, "shop")], WEB, &denied("shop"));
    check(&[scoped(Scope::Namespace, "other")], WEB, "allowed");
    check(&[scoped(Scope::WorkloadSelector, "shop")], WEB, &denied("shop"));

    let (mesh, mut workload) = setting(&[scoped(Scope::WorkloadSelector, "shop")]);
    workload.policies.clear();
    assert_eq!(mesh.policies_of(&workload).count(), 0, "it selects somebody else");
}

#[test]
fn empty_means_nothing_for_policies_and_matches_and_everything_for_rules_and_clauses() {
    let with = |rules: Vec<Rule>| [Policy { rules, ..deny("p", Match::default()) }];
    check(&with(vec![]), WEB, "allowed");
    check(&with(vec![Rule { clauses: vec![Clause { matches: vec![Match::default()] }] }]), WEB, "allowed");
    check(&with(vec![Rule::default()]), WEB, "denied: policy shop/p denies it");
    check(&with(vec![Rule { clauses: vec![Clause::default()] }]), WEB, "denied: policy shop/p denies it");
    let nobody = Policy { rules: vec![], ..allow("nobody", Match::default()) };
    check(&[nobody], WEB, "denied: none of the 1 ALLOW policies allows it (first: shop/nobody)");
}

#[test]
fn rules_and_matches_are_ored_clauses_and_fields_are_anded() {
    let clause = |matches: &[Match]| Clause { matches: matches.to_vec() };
    let rules = vec![
        Rule { clauses: vec![clause(&[namespace("evil"), namespace("shop")]), clause(&[port(80)])] },
        Rule { clauses: vec![clause(&[Match { destination_ports: vec![90], ..namespace("ops") }])] },
    ];
    let policies = [Policy { rules, ..deny("p", Match::default()) }];
    let ops = Some("spiffe://cluster.local/ns/ops/sa/x");
    let cases = [
        (WEB, 80, "denied: policy shop/p denies it"),
        (EVIL, 80, "denied: policy shop/p denies it"),
        (WEB, 90, "allowed"),
        (ops, 90, "denied: policy shop/p denies it"),
        (ops, 80, "allowed"),
        (None, 80, "allowed"),
    ];
    for (client, port, expected) in cases {
        check_at(&policies, client, "10.0.0.9:1", &format!("10.0.0.1:{port}"), expected);
    }
}

#[test]
fn principals_match_exactly_by_prefix_by_suffix_or_by_being_there() {
    let text = |text: &str| text.into();
    let cases = [
        (StringMatch::Exact(text("cluster.local/ns/shop/sa/web")), true),
        (StringMatch::Exact(text("spiffe://cluster.local/ns/shop/sa/web")), false),
        (StringMatch::Exact(text("cluster.local/ns/shop/sa/we")), false),
        (StringMatch::Exact(text("cluster.local/ns/shop/sa/WEB")), false),
        (StringMatch::Prefix(text("cluster.local/ns/shop/")), true),
        (StringMatch::Prefix(text("cluster.local/ns/shop2/")), false),
        (StringMatch::Prefix(text("ns/shop/")), false),
        (StringMatch::Suffix(text("/sa/web")), true),
        (StringMatch::Suffix(text("/sa/we")), false),
        (StringMatch::Prefix(text("")), true),
        (StringMatch::Presence, true),
    ];
    for (one, matches) in cases {
        let wanted = [deny("p", Match { principals: vec![one.clone()], ..Match::default() })];
        let unwanted = [deny("p", Match { not_principals: vec![one], ..Match::default() })];
        let (yes, no) = ("denied: policy shop/p denies it", "allowed");
        check(&wanted, WEB, if matches { yes } else { no });
        check(&unwanted, WEB, if matches { no } else { yes });
        // Plaintext has no principal: it matches none, and is excluded by none.
        check(&wanted, None, no);
        check(&unwanted, None, yes);
    }
}

#[test]
fn service_accounts_are_of_one_namespace() {
    let account = |namespace: &str, name: &str| ServiceAccountMatch { namespace: namespace.into(), name: name.into() };
    let policies = [deny("p", Match { service_accounts: vec![account("shop", "web")], ..Match::default() })];
    check(&policies, WEB, "denied: policy shop/p denies it");
    check(&policies, EVIL, "allowed");
    check(&policies, None, "allowed");
    check(&policies, Some("spiffe://other.td/ns/shop/sa/web"), "denied: policy shop/p denies it");
    let others = [deny("p", Match { not_service_accounts: vec![account("shop", "web")], ..Match::default() })];
    check(&others, WEB, "allowed");
    check(&others, EVIL, "denied: policy shop/p denies it");
}

#[test]
fn addresses_and_ports_are_those_of_the_connection() {
    let denied = "denied: policy shop/p denies it";
    let destination =
        |block: &str| Match { destination_blocks: vec![block.parse().expect("a block")], ..Match::default() };
    let not_from = |block: &str| Match { not_source_blocks: vec![block.parse().expect("a block")], ..Match::default() };
    let not_port = Match { not_destination_ports: vec![80], ..Match::default() };
    let cases = [
        (from("10.0.0.0/24"), "10.0.0.9:1", "10.0.0.1:80", denied),
        (from("10.0.0.0/24"), "[::ffff:10.0.0.9]:1", "10.0.0.1:80", denied),
        (from("10.0.0.0/24"), "10.0.1.9:1", "10.0.0.1:80", "allowed"),
        (from("10.0.0.0/24"), "[fd00::9]:1", "[fd00::1]:80", "allowed"),
        (from("fd00::/8"), "[fd00::9]:1", "[fd00::1]:80", denied),
        (from("0.0.0.0/0"), "10.0.0.9:1", "10.0.0.1:80", denied),
        (not_from("10.0.0.9/32"), "10.0.0.9:1", "10.0.0.1:80", "allowed"),
        (not_from("10.0.0.9/32"), "10.0.0.8:1", "10.0.0.1:80", denied),
        (destination("10.0.0.1/32"), "10.0.0.9:1", "10.0.0.1:80", denied),
        (destination("10.0.0.9/32"), "10.0.0.9:1", "10.0.0.1:80", "allowed"),
        (port(80), "10.0.0.9:90", "10.0.0.1:80", denied),
        (port(90), "10.0.0.9:90", "10.0.0.1:80", "allowed"),
        (not_port.clone(), "10.0.0.9:1", "10.0.0.1:80", "allowed"),
        (not_port, "10.0.0.9:1", "10.0.0.1:81", denied),
    ];
    for (one, source, destination, expected) in cases {
        check_at(&[deny("p", one)], None, source, destination, expected);
    }
}

#[test]
fn a_dry_run_only_reports() {
    let dry = |policy: Policy| Policy { dry_run: true, ..policy };
    let policies = [dry(deny("no-evil", namespace("evil"))), dry(allow("web", namespace("shop")))];
    check(&policies, WEB, "allowed");
    check(&policies, EVIL, "allowed, but shop/no-evil, but shop/web");
    let enforced = [dry(deny("no-evil", namespace("evil"))), allow("all", port(80))];
    check(&enforced, EVIL, "allowed by shop/all, but shop/no-evil");
    let denied = [dry(allow("all", port(80))), allow("web", namespace("shop"))];
    check(&denied, EVIL, "denied: none of the 1 ALLOW policies allows it (first: shop/web)");
}

#[test]
fn only_whole_names_are_policy_names() {
    for text in ["", "/", "a", "a/", "/a", "a/b/c", "//"] {
        assert!(text.parse::<PolicyName>().is_err(), "{text:?}");
    }
    assert_eq!("a/b".parse::<PolicyName>().expect("a name").to_string(), "a/b");
}

#[test]
fn translations_of_other_controllers_demand_mtls_too() {
    for name in ["heddle_strict_mesh", "istio_converted_static_strict", "converted_peer_authentication_default"] {
        assert!(deny(name, port(80)).demands_mtls(), "{name}");
    }
    assert!(!deny("heddle-strict", port(80)).demands_mtls(), "a name that anybody can give");
}

proptest! {
    /// Adding a DENY never opens, and adding an ALLOW beside others never shuts.
    #[test]
    fn policies_compose(existing in proptest::collection::vec(any_policy(), 0..4), one in any_match(), client in any_client()) {
        let connection = Connection {
            source: "10.0.0.9:1".parse().expect("an address"),
            identity: client.map(|id| id.parse().expect("an identity")),
            destination: "10.0.0.1:80".parse().expect("an address"),
        };
        let decide = |policies: &[Policy]| {
            let (mesh, workload) = setting(policies);
            matches!(authorize(&mesh, &workload, &connection), Verdict::Allowed { .. })
        };
        let named: Vec<Policy> = existing.into_iter().enumerate().map(|(at, policy)| Policy { name: policy_name(&format!("p{at}")), ..policy }).collect();
        let before = decide(&named);
        let with = |policy: Policy| decide(&[named.clone(), vec![policy]].concat());
        prop_assert!(before || !with(deny("new", one.clone())), "a DENY opened");
        let has_allow = named.iter().any(|policy| policy.action == Action::Allow);
        prop_assert!(!(before && has_allow) || with(allow("new", one)), "an ALLOW shut");
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (any::<bool>(), any_match()).prop_map(|(allows, one)| if allows { allow("p", one) } else { deny("p", one) })
}

fn any_match() -> impl Strategy<Value = Match> {
    let strict = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    let matches =
        [namespace("shop"), namespace("evil"), port(80), port(90), from("10.0.0.0/8"), strict, Match::default()];
    proptest::sample::select(matches.to_vec())
}

fn any_client() -> impl Strategy<Value = Option<&'static str>> {
    proptest::sample::select(vec![None, WEB, EVIL])
}

//! How the kernel's refusals are told: by rule and expression, and with nothing changed.

use crate::netns::Namespace;
use heddle_init::{
    netlink::batch,
    plan::table::{Base, Chain, Content, Match, Rule, Set, Side, Statement, Table},
    report::chain,
};

/// Sends a table with one rule in its chain `test`, behind one that is correct.
fn check(base: Option<Base>, rule: Rule, expected: &str) {
    let namespace = Namespace::new();
    let first = Rule::new([Match::Opens], [Statement::Accept]);
    let ports = Set { name: "ports", content: Content::Ports([80].into()) };
    let table = Table { sets: vec![ports], chains: vec![Chain { name: "test", base, rules: vec![first, rule] }] };
    let error = namespace.enter(|| batch::replace(&table)).expect_err("the kernel refuses it");
    assert_eq!(chain(&error), expected);
    assert_eq!(namespace.run("nft list ruleset"), "");
}

#[test]
fn a_jump_to_nowhere() {
    check(
        None,
        Rule::new([Match::Mark(1)], [Statement::Jump("nowhere")]),
        "the kernel refuses rule 2 of chain test (`meta mark 0x1 jump nowhere`), expression 3 (immediate) (for an expression: \
         this kernel lacks it; load nft_tproxy, nft_socket, nft_fib_inet, nft_reject_inet, nft_ct): No such file or \
         directory (os error 2)",
    );
}

#[test]
fn a_set_that_is_not_there() {
    check(
        None,
        Rule::new([Match::PortInSet(Side::Source, "missing")], [Statement::Drop]),
        "the kernel refuses rule 2 of chain test (`tcp sport @missing drop`), expression 4 (lookup) (for an expression: this \
         kernel lacks it; load nft_tproxy, nft_socket, nft_fib_inet, nft_reject_inet, nft_ct): No such file or directory \
         (os error 2)",
    );
}

#[test]
fn a_statement_at_the_wrong_hook() {
    let tproxy = Rule::new([Match::Opens], [Statement::Tproxy(1), Statement::Accept]);
    check(
        Some(Base::Output),
        tproxy,
        "the kernel refuses rule 2 of chain test (`tcp flags & (syn|ack) == syn tproxy to :1 accept`): Operation not \
         supported (os error 95)",
    );
}

//! Proves that capture is in force: first that the kernel has exactly the plan, then that a connection is captured.
//!
//! That the proxy's own connections are *not* captured is proved by the plan alone (the rule on the proxy's mark): a
//! connection would have to leave the pod to show it.

pub mod probe;
mod sockets;

use crate::{
    apply::StepError,
    ebpf,
    netlink::{
        batch::{NF_ACCEPT, PRIORITY_MANGLE, hook_and_type},
        elements::{declaration, elements},
        expression::{Expression, expressions},
        readback::{self, FoundBase, FoundChain, FoundRule, FoundTable},
        routing,
    },
    plan::{
        Plan, Step,
        table::{Chain, Content, Set, Table},
    },
};
use heddle_init_abi::{ROUTING_TABLE, TABLE};

/// How the kernel differs from the plan: one sentence each, none when it is the same.
///
/// # Errors
/// When the kernel does not tell what it has.
pub fn differences(plan: &Plan) -> Result<Vec<String>, StepError> {
    let mut differences = Vec::new();
    for step in plan.steps_here() {
        match step {
            Step::Rule(family) => match routing::count_rules(*family)? {
                1 => {}
                0 => differences.push(format!("the policy rule is missing: {step}")),
                count => differences.push(format!("the policy rule is there {count} times: {step}")),
            },
            Step::Route(family) => {
                let routes = routing::count_routes(*family)?;
                if routes.ours != 1 {
                    differences.push(format!("the route is missing: {step}"));
                }
                if routes.others > 0 {
                    let count = routes.others;
                    differences
                        .push(format!("table {ROUTING_TABLE} has {count} more routes of this family than: {step}"));
                }
            }
            Step::Table(planned) => match readback::table()? {
                Some(found) => table(planned, &found, &mut differences),
                None => differences.push(format!("table inet {TABLE} is missing")),
            },
            Step::Programs(programs) => differences.extend(ebpf::readback::differences(programs)?),
        }
    }
    Ok(differences)
}

fn table(planned: &Table, found: &FoundTable, differences: &mut Vec<String>) {
    if found.flags != 0 {
        differences.push(format!("table inet {TABLE} has flags {:#x}: it is switched off or owned", found.flags));
    }
    for set in &planned.sets {
        match found.sets.get(set.name) {
            Some(found) => differences.extend(set_difference(set, found)),
            None => differences.push(format!("set {} is missing", set.name)),
        }
    }
    for chain in &planned.chains {
        match found.chains.get(chain.name) {
            Some(found) => chain_differences(chain, found, differences),
            None => differences.push(format!("chain {} is missing", chain.name)),
        }
    }
    for name in found.sets.keys().filter(|name| planned.sets.iter().all(|set| set.name != *name)) {
        differences.push(format!("set {name} is not planned"));
    }
    for name in found.chains.keys().filter(|name| planned.chains.iter().all(|chain| chain.name != *name)) {
        differences.push(format!("chain {name} is not planned"));
    }
}

fn set_difference(set: &Set, found: &readback::FoundSet) -> Option<String> {
    let planned = declaration(&set.content);
    if planned != found.declaration {
        return Some(format!("set {} is declared as {:?}, not as {planned:?}", set.name, found.declaration));
    }
    if matches!(set.content, Content::Refused(_)) {
        // The kernel fills it.
        return None;
    }
    let planned = elements(&set.content);
    let missing = planned.iter().filter(|element| !found.elements.contains(element)).count();
    let more = found.elements.iter().filter(|element| !planned.contains(element)).count();
    (missing + more > 0).then(|| {
        format!("set {} lacks {missing} of its elements and has {more} others; planned: {}", set.name, set.content)
    })
}

fn chain_differences(chain: &Chain, found: &FoundChain, differences: &mut Vec<String>) {
    let base = chain.base.map(|base| {
        let (hook, kind) = hook_and_type(base);
        FoundBase { hook, priority: PRIORITY_MANGLE, kind: kind.to_owned(), policy: NF_ACCEPT }
    });
    if base != found.base {
        differences.push(format!("chain {} is entered by {:?}, not by {base:?}", chain.name, found.base));
    }
    let planned: Vec<_> = chain.rules.iter().map(expressions).collect();
    // Both lists are walked at once. Where they differ, either the planned rule is missing or a rule was put in.
    let mut at = 0;
    for (rule, planned) in chain.rules.iter().zip(&planned) {
        match found.rules[at..].iter().position(|found| same(planned, found)) {
            Some(more) => {
                if more > 0 {
                    differences.push(format!("chain {} has {more} more rules before `{rule}`", chain.name));
                }
                at += more + 1;
            }
            None => differences.push(format!("chain {} lacks rule `{rule}`", chain.name)),
        }
    }
    if at < found.rules.len() {
        differences.push(format!("chain {} has {} more rules at its end", chain.name, found.rules.len() - at));
    }
}

fn same(planned: &[Expression], found: &FoundRule) -> bool {
    planned.len() == found.len()
        && planned.iter().zip(found).all(|(planned, found)| planned.equals(&found.name, &found.attributes))
}

//! `AuthorizationPolicy`, its L4 part: who may connect, compiled to the rules of [`heddle_mesh::policy`].

use super::{
    Problem,
    crd::{AuthorizationPolicySpec, Destination, PolicyAction, Source},
};
use crate::condition::quoted;
use heddle_mesh::{
    identity::SpiffeId,
    policy::{Action, Clause, Match, Rule, ServiceAccountMatch, StringMatch},
};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};

/// What an `AuthorizationPolicy` says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Labels that a pod must have; `None` for all of the namespace.
    pub selector: Option<BTreeMap<String, String>>,
    /// What a match means.
    pub action: Action,
    /// Only reported, never enforced.
    pub dry_run: bool,
    /// Any of them matches.
    pub rules: Vec<Rule>,
}

impl AuthorizationPolicy {
    /// Checks a spec and compiles its rules.
    ///
    /// # Errors
    /// Every field that is wrong. No policy is made then: half of one could open what the whole one closes.
    pub(crate) fn read(spec: AuthorizationPolicySpec) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let rules = spec.rules.iter().enumerate().map(|(at, rule)| {
            let from = clause(&rule.from, &format!("spec.rules[{at}].from"), &mut problems, source);
            let to = clause(&rule.to, &format!("spec.rules[{at}].to"), &mut problems, destination);
            Rule { clauses: from.into_iter().chain(to).collect() }
        });
        let rules = rules.collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let selector = spec.selector.as_ref().map(|selector| selector.match_labels.clone());
        Ok(Self {
            selector: selector.filter(|labels| !labels.is_empty()),
            action: match spec.action {
                PolicyAction::Allow => Action::Allow,
                PolicyAction::Deny => Action::Deny,
            },
            dry_run: spec.dry_run,
            rules,
        })
    }
}

/// One clause of all entries of a list, or none when the list is empty.
fn clause<T>(
    entries: &[T],
    path: &str,
    problems: &mut Vec<Problem>,
    compile: impl Fn(&T, &str, &mut Vec<Problem>) -> Match,
) -> Option<Clause> {
    let mut matches = Vec::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let problems_before = problems.len();
        let one = compile(entry, &path, problems);
        if one == Match::default() && problems.len() == problems_before {
            problems.push(Problem::new(path, "empty, so it matches nothing", "name something, or remove the entry"));
        }
        matches.push(one);
    }
    (!matches.is_empty()).then_some(Clause { matches })
}

fn source(source: &Source, path: &str, problems: &mut Vec<Problem>) -> Match {
    let mut read = |list: &[String], field: &str, parse: fn(&str) -> Result<StringMatch, Wrong>| {
        each(list, &format!("{path}.{field}"), problems, parse)
    };
    let principals = read(&source.principals, "principals", principal);
    let not_principals = read(&source.not_principals, "notPrincipals", principal);
    let namespaces = read(&source.namespaces, "namespaces", namespace);
    let not_namespaces = read(&source.not_namespaces, "notNamespaces", namespace);
    Match {
        principals,
        not_principals,
        namespaces,
        not_namespaces,
        service_accounts: each(&source.service_accounts, &format!("{path}.serviceAccounts"), problems, account),
        not_service_accounts: each(
            &source.not_service_accounts,
            &format!("{path}.notServiceAccounts"),
            problems,
            account,
        ),
        source_blocks: each(&source.ip_blocks, &format!("{path}.ipBlocks"), problems, block),
        not_source_blocks: each(&source.not_ip_blocks, &format!("{path}.notIpBlocks"), problems, block),
        ..Match::default()
    }
}

fn destination(destination: &Destination, path: &str, problems: &mut Vec<Problem>) -> Match {
    Match {
        destination_ports: each(&destination.ports, &format!("{path}.ports"), problems, port),
        not_destination_ports: each(&destination.not_ports, &format!("{path}.notPorts"), problems, port),
        ..Match::default()
    }
}

/// What is wrong with one value, and what to write instead.
type Wrong = (String, &'static str);

fn each<T: ?Sized, L: std::borrow::Borrow<T>, M>(
    list: &[L],
    path: &str,
    problems: &mut Vec<Problem>,
    parse: impl Fn(&T) -> Result<M, Wrong>,
) -> Vec<M> {
    let mut read = Vec::with_capacity(list.len());
    for (at, one) in list.iter().enumerate() {
        match parse(one.borrow()) {
            Ok(one) => read.push(one),
            Err((problem, remedy)) => problems.push(Problem::new(format!("{path}[{at}]"), problem, remedy)),
        }
    }
    read
}

/// A principal: a whole SPIFFE ID, or one with `*` at one end, with or without its scheme.
fn principal(text: &str) -> Result<StringMatch, Wrong> {
    let rest = text.strip_prefix("spiffe://").unwrap_or(text);
    let pattern = wildcard(rest, |byte| b"./-_".contains(&byte)).map_err(|problem| (problem, PRINCIPAL_REMEDY))?;
    if let StringMatch::Exact(_) = pattern {
        format!("spiffe://{rest}")
            .parse::<SpiffeId>()
            .map_err(|error| (format!("{} is no principal: {error}", quoted(text)), PRINCIPAL_REMEDY))?;
    }
    Ok(pattern)
}

fn namespace(text: &str) -> Result<StringMatch, Wrong> {
    let remedy = "write the name of a namespace; '*' may stand at one end";
    wildcard(text, |byte| byte == b'-').map_err(|problem| (problem, remedy))
}

fn wildcard(text: &str, allowed: impl Fn(u8) -> bool) -> Result<StringMatch, String> {
    if text == "*" {
        return Ok(StringMatch::Presence);
    }
    let (fixed, pattern): (&str, fn(&str) -> StringMatch) = match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(suffix), _) => (suffix, |fixed| StringMatch::Suffix(fixed.into())),
        (None, Some(prefix)) => (prefix, |fixed| StringMatch::Prefix(fixed.into())),
        (None, None) => (text, |fixed| StringMatch::Exact(fixed.into())),
    };
    match fixed.bytes().all(|byte| byte.is_ascii_alphanumeric() || allowed(byte)) && !fixed.is_empty() {
        true => Ok(pattern(fixed)),
        false => Err(format!("{} can match nobody", quoted(text))),
    }
}

fn account(text: &str) -> Result<ServiceAccountMatch, Wrong> {
    let sound =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    match text.split_once('/') {
        Some((namespace, name)) if sound(namespace) && sound(name) => {
            Ok(ServiceAccountMatch { namespace: namespace.into(), name: name.into() })
        }
        _ => Err((format!("{} is no service account", quoted(text)), "write <namespace>/<name>")),
    }
}

fn block(text: &str) -> Result<IpNet, Wrong> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let block = text.parse::<IpNet>().or_else(|_| address());
    block.map(|block| block.trunc()).map_err(|_| {
        (format!("{} is no block of addresses", quoted(text)), "write an address or a block, such as 10.0.0.0/8")
    })
}

fn port(number: &i64) -> Result<u16, Wrong> {
    let port = u16::try_from(*number).ok().filter(|port| *port != 0);
    port.ok_or_else(|| (format!("{number} is no port"), "write a number from 1 to 65535"))
}

const PRINCIPAL_REMEDY: &str =
    "write spiffe://<trust domain>/ns/<namespace>/sa/<service account>; '*' may stand at one end";

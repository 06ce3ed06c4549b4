//! A policy on the wire.
//!
//! Invariant: nothing that restricts is skipped. A condition that cannot be understood makes the whole policy refused.

use super::{decode_block, decode_port_required, encode_block};
use crate::{FieldError, wire::istio::security as wire};
use heddle_mesh::policy::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch};
use ipnet::IpNet;

/// Reads a policy. Extensions of the policy are ignored, extensions of a match are not: they are conditions.
///
/// # Errors
/// A scope, action or condition that we do not know; a name, address, port or comparison that is malformed.
pub fn decode_policy(message: &wire::Authorization) -> Result<Policy, FieldError> {
    let name = decode_name(message)?;
    let at = Place { resource: &format!("{name}"), path: String::new() };
    let scope = decode_scope(message.scope)
        .ok_or_else(|| at.field("scope").fails(format!("{} is no scope that this proxy knows", message.scope)))?;
    let action = decode_action(message.action)
        .ok_or_else(|| at.field("action").fails(format!("{} is no action that this proxy knows", message.action)))?;
    let rules = each(&at, "rules", &message.rules, |at, rule| {
        let clauses = each(at, "clauses", &rule.clauses, |at, clause| {
            Ok(Clause { matches: each(at, "matches", &clause.matches, decode_match)? })
        });
        Ok(Rule { clauses: clauses? })
    });
    Ok(Policy { name, scope, action, rules: rules?, dry_run: message.dry_run })
}

/// Writes a policy.
pub fn encode_policy(policy: &Policy) -> wire::Authorization {
    let clause = |clause: &Clause| wire::Clause { matches: clause.matches.iter().map(encode_match).collect() };
    let rule = |rule: &Rule| wire::Rule { clauses: rule.clauses.iter().map(clause).collect() };
    wire::Authorization {
        name: policy.name.name.to_string(),
        namespace: policy.name.namespace.to_string(),
        scope: match policy.scope {
            Scope::Global => wire::Scope::Global as i32,
            Scope::Namespace => wire::Scope::Namespace as i32,
            Scope::WorkloadSelector => wire::Scope::WorkloadSelector as i32,
        },
        action: match policy.action {
            Action::Allow => wire::Action::Allow as i32,
            Action::Deny => wire::Action::Deny as i32,
        },
        rules: policy.rules.iter().map(rule).collect(),
        dry_run: policy.dry_run,
        extensions: Vec::new(),
    }
}

/// What stands in for a policy that [`decode_policy`] refused and that has no earlier version: a policy of the same name
/// and scope that lets nothing more through than the refused one could. `None` when it is a dry run, or when its name or
/// scope is not understood; a workload that lists it denies anyway.
pub fn stand_in(message: &wire::Authorization) -> Option<Policy> {
    if message.dry_run {
        return None;
    }
    let (name, scope) = (decode_name(message).ok()?, decode_scope(message.scope)?);
    // An ALLOW without rules allows nothing; a DENY with an empty rule denies everything.
    let (action, rules) = match decode_action(message.action) {
        Some(Action::Allow) => (Action::Allow, Vec::new()),
        Some(Action::Deny) | None => (Action::Deny, vec![Rule::default()]),
    };
    Some(Policy { name, scope, action, rules, dry_run: false })
}

/// Where in a message we are.
struct Place<'a> {
    resource: &'a str,
    path: String,
}

impl Place<'_> {
    fn field(&self, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { resource: self.resource, path: format!("{}{dot}{name}", self.path) }
    }

    fn fails(&self, problem: impl ToString) -> FieldError {
        FieldError::new(self.resource, self.path.clone(), problem)
    }
}

fn each<M, T>(
    at: &Place<'_>,
    field: &str,
    messages: &[M],
    decode: impl Fn(&Place<'_>, &M) -> Result<T, FieldError>,
) -> Result<Vec<T>, FieldError> {
    let all = messages.iter().enumerate().map(|(index, one)| decode(&at.field(&format!("{field}[{index}]")), one));
    all.collect()
}

fn decode_name(message: &wire::Authorization) -> Result<PolicyName, FieldError> {
    let resource = format!("{}/{}", message.namespace, message.name);
    resource.parse().map_err(|problem| FieldError::new(&resource, "namespace, name", problem))
}

fn decode_scope(scope: i32) -> Option<Scope> {
    Some(match wire::Scope::try_from(scope).ok()? {
        wire::Scope::Global => Scope::Global,
        wire::Scope::Namespace => Scope::Namespace,
        wire::Scope::WorkloadSelector => Scope::WorkloadSelector,
    })
}

fn decode_action(action: i32) -> Option<Action> {
    Some(match wire::Action::try_from(action).ok()? {
        wire::Action::Allow => Action::Allow,
        wire::Action::Deny => Action::Deny,
    })
}

fn decode_match(at: &Place<'_>, message: &wire::Match) -> Result<Match, FieldError> {
    if let Some(extension) = message.extensions.first() {
        let name: String = extension.name.chars().take(128).collect();
        let problem =
            format!("{name:?} is no condition that this proxy knows; update the proxy or remove the condition");
        return Err(at.field("extensions[0]").fails(problem));
    }
    Ok(Match {
        namespaces: each(at, "namespaces", &message.namespaces, decode_string)?,
        not_namespaces: each(at, "not_namespaces", &message.not_namespaces, decode_string)?,
        principals: each(at, "principals", &message.principals, decode_string)?,
        not_principals: each(at, "not_principals", &message.not_principals, decode_string)?,
        service_accounts: message.service_accounts.iter().map(decode_account).collect(),
        not_service_accounts: message.not_service_accounts.iter().map(decode_account).collect(),
        source_blocks: each(at, "source_ips", &message.source_ips, decode_address)?,
        not_source_blocks: each(at, "not_source_ips", &message.not_source_ips, decode_address)?,
        destination_blocks: each(at, "destination_ips", &message.destination_ips, decode_address)?,
        not_destination_blocks: each(at, "not_destination_ips", &message.not_destination_ips, decode_address)?,
        destination_ports: each(at, "destination_ports", &message.destination_ports, decode_port)?,
        not_destination_ports: each(at, "not_destination_ports", &message.not_destination_ports, decode_port)?,
    })
}

fn encode_match(one: &Match) -> wire::Match {
    let strings = |matches: &[StringMatch]| matches.iter().map(encode_string).collect();
    let accounts = |matches: &[ServiceAccountMatch]| matches.iter().map(encode_account).collect();
    let blocks = |blocks: &[IpNet]| blocks.iter().map(encode_address).collect();
    let ports = |ports: &[u16]| ports.iter().copied().map(u32::from).collect();
    wire::Match {
        namespaces: strings(&one.namespaces),
        not_namespaces: strings(&one.not_namespaces),
        principals: strings(&one.principals),
        not_principals: strings(&one.not_principals),
        source_ips: blocks(&one.source_blocks),
        not_source_ips: blocks(&one.not_source_blocks),
        destination_ips: blocks(&one.destination_blocks),
        not_destination_ips: blocks(&one.not_destination_blocks),
        destination_ports: ports(&one.destination_ports),
        not_destination_ports: ports(&one.not_destination_ports),
        service_accounts: accounts(&one.service_accounts),
        not_service_accounts: accounts(&one.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn decode_string(at: &Place<'_>, message: &wire::StringMatch) -> Result<StringMatch, FieldError> {
    use wire::string_match::MatchType;
    match &message.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(text.as_str().into())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text.as_str().into())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.as_str().into())),
        Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
        None => Err(at.fails("no comparison that this proxy knows; expected exact, prefix, suffix or presence")),
    }
}

fn encode_string(one: &StringMatch) -> wire::StringMatch {
    use wire::string_match::MatchType;
    let match_type = match one {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence => MatchType::Presence(()),
    };
    wire::StringMatch { match_type: Some(match_type) }
}

fn decode_account(message: &wire::ServiceAccountMatch) -> ServiceAccountMatch {
    ServiceAccountMatch { namespace: message.namespace.as_str().into(), name: message.service_account.as_str().into() }
}

fn encode_account(one: &ServiceAccountMatch) -> wire::ServiceAccountMatch {
    wire::ServiceAccountMatch { namespace: one.namespace.to_string(), service_account: one.name.to_string() }
}

fn decode_address(at: &Place<'_>, message: &wire::Address) -> Result<IpNet, FieldError> {
    decode_block(&message.address, Some(message.length)).map_err(|problem| at.fails(problem))
}

fn encode_address(block: &IpNet) -> wire::Address {
    let (address, length) = encode_block(*block);
    wire::Address { address, length }
}

fn decode_port(at: &Place<'_>, port: &u32) -> Result<u16, FieldError> {
    decode_port_required(*port).map_err(|problem| at.fails(problem))
}

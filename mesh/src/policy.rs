//! Who may connect to a workload: policies and the verdict on one connection.
//!
//! Invariant: what is not known denies. A policy that a workload lists and that has not arrived is a denial.

use crate::{Mesh, identity::SpiffeId, workload::Workload};
use ipnet::IpNet;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

/// What L4 policy sees of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The client's address, as the packets show it.
    pub source: SocketAddr,
    /// Who the client proved to be; `None` for plaintext.
    pub identity: Option<SpiffeId>,
    /// Where it wants to go: an address and port of the workload.
    pub destination: SocketAddr,
}

/// The answer to "may this connection reach the application", with the policy that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed {
        /// The ALLOW policy that matched; `None` when no ALLOW policy applies to the workload.
        by: Option<PolicyName>,
        /// Dry-run policies that would have denied it.
        dry_run: Vec<PolicyName>,
    },
    /// It may not.
    Denied(Denial),
}

/// Why a connection was denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A DENY policy matched.
    #[error("policy {0} denies it")]
    ByPolicy(PolicyName),
    /// The workload takes only mutual TLS, and the client spoke plaintext. The policy is the one that says strict.
    #[error("the workload requires mutual TLS ({0}) and the client spoke plaintext")]
    PlaintextRefused(PolicyName),
    /// ALLOW policies apply and none of them matched.
    #[error("none of the {count} ALLOW policies allows it (first: {first})")]
    NoneAllows {
        /// How many ALLOW policies apply to the workload.
        count: usize,
        /// The first of them by name.
        first: PolicyName,
    },
    /// The workload lists a policy that has not arrived.
    #[error("policy {0} applies to the workload and has not arrived from the controller")]
    Missing(PolicyName),
}

impl Denial {
    /// The policy that decided; the first one where none allows.
    pub fn policy(&self) -> &PolicyName {
        match self {
            Self::ByPolicy(name) | Self::PlaintextRefused(name) | Self::Missing(name) => name,
            Self::NoneAllows { first, .. } => first,
        }
    }
}

/// Decides on one connection to `workload`, which must be the proxy's own.
///
/// Order (Istio's, ztunnel `state.rs`): a listed policy that is missing denies; any matching DENY denies; with no ALLOW
/// policy everything else is allowed; any matching ALLOW allows; the rest is denied.
pub fn authorize(mesh: &Mesh, workload: &Workload, connection: &Connection) -> Verdict {
    if let Some(missing) = workload.policies.iter().find(|name| mesh.policy(name).is_none()) {
        return Verdict::Denied(Denial::Missing(missing.clone()));
    }
    let mut policies: Vec<&Arc<Policy>> = mesh.policies_of(workload).collect();
    policies.sort_by(|a, b| a.name.cmp(&b.name));

    let mut dry_run = Vec::new();
    for policy in policies.iter().filter(|policy| policy.action == Action::Deny) {
        if policy.matches(connection) {
            match policy.dry_run {
                true => dry_run.push(policy.name.clone()),
                false if policy.demands_mtls() => {
                    return Verdict::Denied(Denial::PlaintextRefused(policy.name.clone()));
                }
                false => return Verdict::Denied(Denial::ByPolicy(policy.name.clone())),
            }
        }
    }
    let allow = policies.iter().copied().filter(|policy| policy.action == Action::Allow);
    let (trial, allow): (Vec<&Arc<Policy>>, Vec<&Arc<Policy>>) = allow.partition(|policy| policy.dry_run);
    if !trial.is_empty() && !trial.iter().any(|policy| policy.matches(connection)) {
        dry_run.extend(trial.iter().map(|policy| policy.name.clone()));
    }
    let Some(first) = allow.first() else {
        return Verdict::Allowed { by: None, dry_run };
    };
    match allow.iter().find(|policy| policy.matches(connection)) {
        Some(policy) => Verdict::Allowed { by: Some(policy.name.clone()), dry_run },
        None => Verdict::Denied(Denial::NoneAllows { count: allow.len(), first: first.name.clone() }),
    }
}

/// One authorization policy (`istio.security.Authorization`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `<namespace>/<name>`.
    pub name: PolicyName,
    /// Which workloads it applies to.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Any rule that matches makes the policy match; without rules it matches nothing.
    pub rules: Vec<Rule>,
    /// Only reported, never enforced.
    pub dry_run: bool,
}

impl Policy {
    /// Whether it is a controller's translation of "mutual TLS only" (a strict `MeshPolicy`, Istio's
    /// `PeerAuthentication`). Only how a denial is told depends on it.
    pub fn demands_mtls(&self) -> bool {
        [STRICT_PREFIX, "istio_converted_static_strict", "converted_peer_authentication_"]
            .iter()
            .any(|prefix| self.name.name.starts_with(prefix))
    }

    /// Whether any rule matches.
    pub fn matches(&self, connection: &Connection) -> bool {
        self.rules.iter().any(|rule| rule.matches(connection))
    }
}

/// `<namespace>/<name>`: the resource name of a policy.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    /// Namespace of the policy.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl FromStr for PolicyName {
    type Err = PolicyNameError;

    fn from_str(text: &str) -> Result<Self, PolicyNameError> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(PolicyNameError(text.chars().take(128).collect())),
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no policy name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy name {0:?}: expected <namespace>/<name>")]
pub struct PolicyNameError(String);

/// Which workloads a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of the mesh.
    Global,
    /// All of its namespace.
    Namespace,
    /// Those that list it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The connection may pass.
    Allow,
    /// It may not.
    Deny,
}

/// A rule: every clause must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// ANDed; a rule without clauses matches everything.
    pub clauses: Vec<Clause>,
}

impl Rule {
    fn matches(&self, connection: &Connection) -> bool {
        self.clauses.iter().all(|clause| clause.matches(connection))
    }
}

/// A clause: one of its matches must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clause {
    /// ORed; an empty clause matches everything.
    pub matches: Vec<Match>,
}

impl Clause {
    fn matches(&self, connection: &Connection) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|one| one.matches(connection))
    }
}

/// Attributes of a connection: values of one field are ORed, fields are ANDed, `not_*` excludes. An entirely empty match
/// matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// Namespaces of the client's identity.
    pub namespaces: Vec<StringMatch>,
    /// Namespaces that it must not have.
    pub not_namespaces: Vec<StringMatch>,
    /// Principals (`cluster.local/ns/a/sa/b`) of the client.
    pub principals: Vec<StringMatch>,
    /// Principals that it must not be.
    pub not_principals: Vec<StringMatch>,
    /// Service accounts of the client.
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// Service accounts that it must not be.
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// Blocks of the client's address.
    pub source_blocks: Vec<IpNet>,
    /// Blocks that it must not come from.
    pub not_source_blocks: Vec<IpNet>,
    /// Blocks of the dialled address.
    pub destination_blocks: Vec<IpNet>,
    /// Blocks that it must not dial.
    pub not_destination_blocks: Vec<IpNet>,
    /// Dialled ports of the workload.
    pub destination_ports: Vec<u16>,
    /// Ports that it must not dial.
    pub not_destination_ports: Vec<u16>,
}

impl Match {
    fn matches(&self, connection: &Connection) -> bool {
        let identity = connection.identity.as_ref();
        let principal = identity.map(SpiffeId::principal);
        let (source, destination) = (connection.source.ip().to_canonical(), connection.destination.ip().to_canonical());
        let port = connection.destination.port();
        let namespace = identity.map(SpiffeId::namespace);
        *self != Self::default()
            && among(&self.namespaces, &self.not_namespaces, |one| one.matches(namespace))
            && among(&self.principals, &self.not_principals, |one| one.matches(principal.as_deref()))
            && among(&self.service_accounts, &self.not_service_accounts, |one| one.matches(identity))
            && among(&self.source_blocks, &self.not_source_blocks, |block| contains(block, source))
            && among(&self.destination_blocks, &self.not_destination_blocks, |block| contains(block, destination))
            && among(&self.destination_ports, &self.not_destination_ports, |one| *one == port)
    }
}

fn among<T>(wanted: &[T], unwanted: &[T], holds: impl Fn(&T) -> bool) -> bool {
    (wanted.is_empty() || wanted.iter().any(&holds)) && !unwanted.iter().any(&holds)
}

fn contains(block: &IpNet, address: IpAddr) -> bool {
    block.contains(&address)
}

/// How a text is compared. Absent (no identity) matches nothing, not even [`StringMatch::Presence`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts so.
    Prefix(Arc<str>),
    /// Ends so.
    Suffix(Arc<str>),
    /// Is there and not empty.
    Presence,
}

impl StringMatch {
    /// Whether `text` matches.
    pub fn matches(&self, text: Option<&str>) -> bool {
        let Some(text) = text else { return false };
        match self {
            Self::Exact(wanted) => text == &**wanted,
            Self::Prefix(wanted) => text.starts_with(&**wanted),
            Self::Suffix(wanted) => text.ends_with(&**wanted),
            Self::Presence => !text.is_empty(),
        }
    }
}

/// A service account in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountMatch {
    /// Namespace of the account.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ServiceAccountMatch {
    fn matches(&self, identity: Option<&SpiffeId>) -> bool {
        identity.is_some_and(|id| id.namespace() == &*self.namespace && id.service_account() == &*self.name)
    }
}

/// Start of the names of policies that a strict `MeshPolicy` is translated to. No Kubernetes object can have a `_` in its
/// name, so none can take the place of one.
pub const STRICT_PREFIX: &str = "heddle_strict_";

#[cfg(test)]
mod tests;

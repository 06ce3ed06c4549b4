//! The specs of our custom resources exactly as their authors write them. Their schemas come from these types.

use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Mutual TLS and egress of workloads.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MeshPolicySpec {
    /// Which pods; without it all of the namespace, and in heddle-system all of the mesh.
    pub selector: Option<Selector>,
    /// Mutual TLS of connections to these pods.
    pub mtls: Option<Mtls>,
    /// Mutual TLS of single ports, by the port that the pod listens on.
    pub port_level_mtls: BTreeMap<String, Mtls>,
    /// Connections of these pods to addresses outside of the mesh.
    pub egress: Option<Egress>,
}

/// Pods by their labels.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Selector {
    /// Labels that a pod must have, all of them.
    pub match_labels: BTreeMap<String, String>,
}

/// Mutual TLS of inbound connections.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// What is accepted.
    pub mode: MtlsMode,
}

/// What inbound connections may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// Mutual TLS only. The default.
    Strict,
    /// Mutual TLS and plaintext.
    Permissive,
    /// Plaintext only.
    Disabled,
}

/// Connections to addresses outside of the mesh.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// Whether they are allowed.
    pub mode: EgressMode,
}

/// Whether connections to addresses outside of the mesh are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum EgressMode {
    /// They pass as they are. The default.
    Allow,
    /// They are refused.
    Deny,
}

/// Who may connect to workloads.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationPolicySpec {
    /// Which pods; without it all of the namespace, and in heddle-system all of the mesh.
    pub selector: Option<Selector>,
    /// What a match means.
    pub action: PolicyAction,
    /// Only report what would be denied.
    pub dry_run: bool,
    /// Any of them matches. An Allow policy without rules denies everything.
    pub rules: Vec<Rule>,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum PolicyAction {
    /// The connection may pass; what no Allow policy matches may not.
    #[default]
    Allow,
    /// The connection may not pass, whatever else allows it.
    Deny,
}

/// A client and a destination. Without `from` every client, without `to` every port.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rule {
    /// One of these clients.
    pub from: Vec<Source>,
    /// One of these destinations.
    pub to: Vec<Destination>,
}

/// A client: every field that is given must hold, by one of its values.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Source {
    /// SPIFFE IDs, with or without `spiffe://`; `*` at one end stands for anything.
    pub principals: Vec<String>,
    /// SPIFFE IDs that the client must not have.
    pub not_principals: Vec<String>,
    /// Namespaces; `*` at one end stands for anything.
    pub namespaces: Vec<String>,
    /// Namespaces that the client must not be in.
    pub not_namespaces: Vec<String>,
    /// Service accounts, as `<namespace>/<name>`.
    pub service_accounts: Vec<String>,
    /// Service accounts that the client must not have.
    pub not_service_accounts: Vec<String>,
    /// Addresses of the client, as `10.0.0.0/8` or `10.1.2.3`.
    pub ip_blocks: Vec<String>,
    /// Addresses that the client must not have.
    pub not_ip_blocks: Vec<String>,
}

/// A destination: every field that is given must hold, by one of its values.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Destination {
    /// Ports of the pod.
    pub ports: Vec<i64>,
    /// Ports that it must not be.
    pub not_ports: Vec<i64>,
}

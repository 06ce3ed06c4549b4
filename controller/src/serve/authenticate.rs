//! Who calls: the bearer token of every request, and what a node may claim beside it.

use super::Shared;
use crate::token::Caller;
use heddle_proto::wire::envoy::config::core::v3::Node;
use prost_types::value::Kind;
use tonic::{Status, metadata::MetadataMap};

/// The caller that the request's token proves.
///
/// # Errors
/// `Unauthenticated`. The reason is in our log; the wire says only what helps an honest caller.
pub(super) fn caller(shared: &Shared, metadata: &MetadataMap) -> Result<Caller, Status> {
    let refuse = |reason: String| {
        tracing::warn!(reason, "refused a caller");
        shared.metrics.refused_callers.inc();
        Status::unauthenticated(
            "send a valid pod token as `authorization: Bearer`; the controller's log has the reason",
        )
    };
    let header = metadata.get("authorization").ok_or_else(|| refuse("no authorization".to_owned()))?;
    let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    let token = token.ok_or_else(|| refuse("the authorization is no bearer token".to_owned()))?;
    shared.tokens.check(token.trim()).map_err(|error| refuse(error.to_string()))
}

/// What a node says about itself, checked against its token.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: String,
    pub(super) pod: String,
    /// It asks for a whole node, as ztunnel does.
    pub(super) shared_proxy: bool,
}

/// Checks a node's claims.
///
/// # Errors
/// `InvalidArgument` for a node that does not say who it is, `PermissionDenied` for one that the token does not cover.
pub(super) fn claims(node: &Node, caller: &Caller) -> Result<Claimed, Status> {
    let parts: Vec<&str> = node.id.split('~').collect();
    let [kind, _address, name, _domain] = parts[..] else {
        return Err(Status::invalid_argument("node.id must be <type>~<address>~<pod>.<namespace>~<domain>"));
    };
    let field = |key: &str| {
        let value = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(key)?.kind.as_ref());
        match value {
            Some(Kind::StringValue(text)) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        }
    };
    let (pod_of_id, namespace_of_id) = name.rsplit_once('.').unwrap_or((name, ""));
    let namespace = field("NAMESPACE").unwrap_or(namespace_of_id);
    let pod = field("NAME").unwrap_or(pod_of_id);
    let denied = |what: &str, claimed: &str, proven: &str| {
        tracing::warn!(node = %printable(&node.id), what, claimed = %printable(claimed), proven, "a node claims what its token does not cover");
        Err(Status::permission_denied(format!("the token does not cover the {what} that the node claims")))
    };
    if namespace != caller.namespace {
        return denied("namespace", namespace, &caller.namespace);
    }
    if let Some(account) = field("SERVICE_ACCOUNT").filter(|account| *account != caller.service_account) {
        return denied("service account", account, &caller.service_account);
    }
    if let Some(proven) = caller.pod.as_deref().filter(|proven| *proven != pod) {
        return denied("pod", pod, proven);
    }
    Ok(Claimed { id: printable(&node.id), pod: pod.to_owned(), shared_proxy: kind == "ztunnel" })
}

fn printable(text: &str) -> String {
    text.chars().filter(|one| !one.is_control()).take(256).collect()
}

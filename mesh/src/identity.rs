//! Who a workload is: trust domains and SPIFFE IDs, parsed once and never passed on as raw strings.
//!
//! Invariant: a value of these types was checked. Whatever a certificate, a manifest or a peer says goes through
//! `FromStr` here, and only the shape that a mesh gives out is accepted.

use std::{fmt, str::FromStr, sync::Arc};

/// The workload identity `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Source: SPIFFE-ID, section 2, in the path layout that Istio and this mesh give out.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl SpiffeId {
    /// Builds an identity from its three parts.
    ///
    /// # Errors
    /// The part that is empty or holds a character outside `[A-Za-z0-9._-]`.
    pub fn new(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        check_segment(namespace, "namespace")?;
        check_segment(service_account, "service account")?;
        Ok(Self { trust_domain, namespace: namespace.into(), service_account: service_account.into() })
    }

    /// The trust domain, such as `cluster.local`.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The identity without its scheme, `cluster.local/ns/a/sa/b`: what policies call a principal.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let rest = text.strip_prefix("spiffe://").ok_or(IdentityError::Scheme)?;
        let mut parts = rest.split('/');
        let layout = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) = layout else {
            return Err(IdentityError::Layout);
        };
        Self::new(trust_domain.parse()?, namespace, service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a trust domain: lower-case letters, digits, `.`, `-` and `_` (SPIFFE-ID, section 2.1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// `cluster.local`, which an empty trust domain means in WDS.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if text.is_empty() || text.len() > SEGMENT_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(printable(text)));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no workload identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It does not start with `spiffe://`.
    #[error("an identity starts with spiffe://")]
    Scheme,
    /// Its path is not `/ns/<namespace>/sa/<service account>`.
    #[error("an identity reads spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Layout,
    /// The trust domain is empty, too long, or has a character outside `[a-z0-9._-]`.
    #[error("trust domain {0:?}: 1 to 255 of the characters a-z, 0-9, '.', '-' and '_' are allowed")]
    TrustDomain(String),
    /// A path segment is empty, a dot segment, too long, or has a character outside `[A-Za-z0-9._-]`.
    #[error(
        "{part} {text:?}: 1 to 255 of the characters A-Z, a-z, 0-9, '.', '-' and '_' are allowed, and not '.' or '..'"
    )]
    Segment {
        /// Which part of the identity it is.
        part: &'static str,
        /// What was given, cut to 64 characters.
        text: String,
    },
}

fn check_segment(text: &str, part: &'static str) -> Result<(), IdentityError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let sound =
        !text.is_empty() && text.len() <= SEGMENT_BYTES_MAX && text.bytes().all(allowed) && text != "." && text != "..";
    if sound { Ok(()) } else { Err(IdentityError::Segment { part, text: printable(text) }) }
}

fn printable(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Longest trust domain or path segment, in bytes (SPIFFE-ID, section 2.1 and 2.3, allow 255 and 2048 in all).
const SEGMENT_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_identity_survives_parsing_and_printing() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().expect("a sound identity");
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/web");
        assert_eq!((id.namespace(), id.service_account()), ("shop", "web"));
    }

    #[test]
    fn nothing_else_is_an_identity() {
        let bad = [
            "",
            "cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a%2f/sa/b",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/ns/a/sa/*",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td:1/ns/a/sa/b",
            "spiffe://u@td/ns/a/sa/b",
        ];
        for text in bad {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was taken for an identity");
        }
    }
}

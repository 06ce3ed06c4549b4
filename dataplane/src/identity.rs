//! Who the proxy is: one certificate with its key and the roots that it trusts, at one moment.
//!
//! Where it comes from is the business of the modules below; everybody else watches the newest one.

pub mod controller;

use crate::tls;
use heddle_mesh::identity::{IdentityError, SpiffeId};
use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// An X.509-SVID with its private key, and the trust bundle that came with it.
///
/// Invariant: the leaf names exactly one identity and belongs to the key, and there is at least one root.
#[derive(Debug, Clone)]
pub struct Svid {
    id: SpiffeId,
    certified_key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
}

impl Svid {
    /// Checks a certificate chain (leaf first) against its key, and at `now` against the clock.
    ///
    /// # Errors
    /// What does not fit; whoever asked for the certificate keeps the last good one.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Arc<RootCertStore>,
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        if roots.is_empty() {
            return Err(SvidError::NoRoots);
        }
        let leaf = chain.first().ok_or(SvidError::EmptyChain)?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| SvidError::Malformed(error.to_string()))?;
        let id = sole_identity(&leaf)?;
        let not_before = system_time(leaf.validity().not_before.timestamp());
        let not_after = system_time(leaf.validity().not_after.timestamp());
        let serial = leaf.raw_serial_as_string().replace(':', "");
        if now >= not_after {
            return Err(SvidError::Expired { serial, ago: now.duration_since(not_after).unwrap_or_default() });
        }
        if now < not_before {
            return Err(SvidError::NotYetValid { serial, ahead: not_before.duration_since(now).unwrap_or_default() });
        }
        let certified_key = CertifiedKey::from_der(chain, key, tls::provider()).map_err(SvidError::Key)?;
        Ok(Self { id, certified_key: Arc::new(certified_key), roots, not_before, not_after, serial })
    }

    /// The identity that the leaf proves.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain and the key, ready for a handshake.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified_key
    }

    /// The roots that peers' certificates must lead to.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// Start of the leaf's validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf's serial number, in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }
}

/// Why a certificate cannot be the proxy's own.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// There is no certificate in the chain.
    #[error("the certificate chain is empty; the CA must send the leaf first")]
    EmptyChain,
    /// There is nothing to check peers against.
    #[error("the trust bundle has no root certificate; without one no peer can be trusted")]
    NoRoots,
    /// The leaf cannot be read.
    #[error("the leaf certificate is malformed: {0}")]
    Malformed(String),
    /// The leaf has no URI name, or several.
    #[error("the leaf certificate has {0} URI names; an SVID has exactly one, the SPIFFE ID")]
    UriCount(usize),
    /// The leaf's URI name is no identity of a workload.
    #[error("the leaf certificate's URI name is no identity")]
    Identity(#[source] IdentityError),
    /// The key is of an unknown kind, or belongs to another certificate.
    #[error("the private key does not go with the leaf certificate")]
    Key(#[source] rustls::Error),
    /// Its time is over.
    #[error("certificate {serial} expired {ago:?} ago; look at the CA, and at this machine's clock")]
    Expired {
        /// The leaf's serial number.
        serial: String,
        /// How long ago.
        ago: Duration,
    },
    /// Its time has not come.
    #[error("certificate {serial} becomes valid in {ahead:?}; look at the clocks of this machine and of the CA")]
    NotYetValid {
        /// The leaf's serial number.
        serial: String,
        /// How far ahead.
        ahead: Duration,
    },
}

/// X509-SVID, section 2: exactly one URI SAN, and that is the SPIFFE ID.
fn sole_identity(leaf: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let names = leaf.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let uris: Vec<&str> = names
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris[..] {
        [uri] => uri.parse().map_err(SvidError::Identity),
        _ => Err(SvidError::UriCount(uris.len())),
    }
}

fn system_time(unix_seconds: i64) -> SystemTime {
    match u64::try_from(unix_seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests;

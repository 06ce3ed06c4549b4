//! Certificates: a key of ours, signed by the controller's authority.

use crate::{
    channel::Connection,
    error::{SignError, status_reason},
    settings::Settings,
};
use heddle_proto::wire::istio::v1::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::time::Duration;

/// Asks the controller to sign. Each call is a connection of its own, because calls are hours apart.
#[derive(Debug, Clone)]
pub struct CertificateClient {
    settings: Settings,
}

impl CertificateClient {
    /// A client of the controller in `settings`.
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone() }
    }

    /// Has the key of `csr_pem` (PKCS#10 in PEM, one URI SAN) signed for `ttl`, rounded down to seconds. The controller
    /// signs for the identity that the token proves, whatever the request says: check the SAN of what comes back.
    ///
    /// # Errors
    /// The controller cannot be reached, refuses, or answers with something that is no chain; all within
    /// `connect_timeout` for the connection and [`SIGN_TIMEOUT`] for the answer.
    pub async fn sign(&self, csr_pem: &str, ttl: Duration) -> Result<Signed, SignError> {
        let connection = Connection::open(&self.settings).await?;
        let request = connection.request(IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: None,
        });
        let mut client = IstioCertificateServiceClient::new(connection.channel);
        let answer = tokio::time::timeout(SIGN_TIMEOUT, client.create_certificate(request)).await;
        let answer = answer.map_err(|_| SignError::Timeout { seconds: SIGN_TIMEOUT.as_secs() })?;
        let answer = answer.map_err(|status| refused(&status))?;
        Signed::from_chain(&answer.into_inner().cert_chain)
    }
}

/// A signed certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate first, then the intermediates up to, and without, a root. In DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that peers are checked against.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Signed {
    /// First text: the certificate; last: the roots; between: intermediates.
    fn from_chain(texts: &[String]) -> Result<Self, SignError> {
        let [first, between @ .., last] = texts else {
            return Err(SignError::Chain(format!("{} texts, expected a certificate and the roots", texts.len())));
        };
        let mut chain = certificates("the certificate", first)?;
        for text in between {
            chain.extend(certificates("an intermediate", text)?);
        }
        Ok(Self { chain, roots: certificates("the roots", last)? })
    }
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, SignError> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| SignError::Chain(format!("{what}: {error}; expected PEM")))?;
    if found.is_empty() {
        return Err(SignError::Chain(format!("{what}: no certificate; expected PEM")));
    }
    Ok(found)
}

fn refused(status: &tonic::Status) -> SignError {
    SignError::Refused { code: status.code(), reason: status_reason(status) }
}

/// Longest wait for a signature once connected. Authorities in hardware are slow.
pub const SIGN_TIMEOUT: Duration = Duration::from_secs(30);

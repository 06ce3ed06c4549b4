//! Whether a peer's certificate proves a workload of the mesh.
//!
//! Invariant: a chain to the roots, the right key usage, the clock, and one SPIFFE ID in a URI name. DNS names and the
//! subject play no part, whatever they say.

use crate::tls;
use heddle_mesh::identity::{SpiffeId, TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::verify_tls13_signature,
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// The workload that a peer's leaf certificate names. It proves nothing unless the chain was verified.
///
/// Further URI names that are no workload identities are passed over, as the field does; a second workload identity is not,
/// for policy could not tell which of the two it is.
///
/// # Errors
/// No certificate, a malformed one, or one with no workload identity or several.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerIdentityError> {
    let leaf = certificates.first().ok_or(PeerIdentityError::NoCertificate)?;
    let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|_| PeerIdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(PeerIdentityError::Malformed);
    }
    let mut found = None;
    for extension in leaf.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            let GeneralName::URI(uri) = name else { continue };
            let Ok(id) = uri.parse::<SpiffeId>() else { continue };
            if found.replace(id).is_some() {
                return Err(PeerIdentityError::Several);
            }
        }
    }
    found.ok_or(PeerIdentityError::None)
}

/// Why a peer's certificate names no single workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// The peer sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The leaf cannot be read.
    #[error("the peer's certificate is malformed")]
    Malformed,
    /// There is no URI name that is a workload identity.
    #[error(
        "the peer's certificate has no URI name of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    None,
    /// There are at least two.
    #[error("the peer's certificate names more than one workload")]
    Several,
    /// The identity is not among those that the destination may have.
    #[error("the peer is {found}, but {} was expected", list(expected))]
    Unexpected {
        /// Who it is.
        found: SpiffeId,
        /// Who it might have been.
        expected: Arc<[SpiffeId]>,
    },
    /// The client belongs to another trust domain.
    #[error("the peer is {found}, but only trust domain {expected} is served")]
    TrustDomain {
        /// Who it is.
        found: SpiffeId,
        /// The trust domain of this proxy.
        expected: TrustDomain,
    },
}

fn list(ids: &[SpiffeId]) -> String {
    match ids {
        [] => "nobody".to_owned(),
        ids => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
    }
}

impl From<PeerIdentityError> for Error {
    fn from(error: PeerIdentityError) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

/// Verifies a server: its chain for `serverAuth`, and that it is one of the expected workloads.
#[derive(Debug)]
pub(super) struct ServerOfMesh {
    roots: Arc<RootCertStore>,
    expected: Arc<[SpiffeId]>,
}

impl ServerOfMesh {
    pub(super) fn new(roots: Arc<RootCertStore>, expected: Vec<SpiffeId>) -> Self {
        Self { roots, expected: expected.into() }
    }
}

impl ServerCertVerifier for ServerOfMesh {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = tls::provider().signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms.all)?;
        let found = peer_identity(std::slice::from_ref(end_entity))?;
        if self.expected.contains(&found) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(PeerIdentityError::Unexpected { found, expected: self.expected.clone() }.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies a client: its chain for `clientAuth`, and that it is a workload of the trust domain.
#[derive(Debug)]
pub(super) struct PeerOfMesh {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
}

impl PeerOfMesh {
    pub(super) fn new(roots: Arc<RootCertStore>, trust_domain: TrustDomain) -> Self {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, tls::provider().clone())
            .build()
            .expect("an Svid has at least one root, and there are no revocation lists to parse");
        Self { chain, trust_domain }
    }
}

impl ClientCertVerifier for PeerOfMesh {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A mesh has one CA; naming it would only lengthen the handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let found = peer_identity(std::slice::from_ref(end_entity))?;
        if *found.trust_domain() == self.trust_domain {
            Ok(verified)
        } else {
            Err(PeerIdentityError::TrustDomain { found, expected: self.trust_domain.clone() }.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

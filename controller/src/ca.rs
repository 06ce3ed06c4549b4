//! The certificate authority: a root of our own, certificates for workloads, and one for this server.
//!
//! Invariant: whose certificate it is comes from the caller's token alone. Of a signing request only the public key is
//! used, after its signature has proved that the caller has the private one.

mod request;
mod serving;

pub use request::RequestError;
pub use serving::{ServerNames, ServingCertificate, ServingError};

use crate::state::{Readers, StateError, StateFolder};
use heddle_mesh::identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::time::{Duration, SystemTime};

/// The authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    root_ends: SystemTime,
    ttl_max: Duration,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The certificate is there and its key is not.
    #[error("{ROOT_CERTIFICATE} is there without {ROOT_KEY}; restore the key, or delete both to make a new root")]
    KeyMissing,
    /// They do not belong together.
    #[error("{ROOT_CERTIFICATE} is not the certificate of {ROOT_KEY}; restore the right one, or delete both")]
    Mismatch,
    /// The certificate's time is over.
    #[error("{ROOT_CERTIFICATE} has expired; delete it and {ROOT_KEY} to make a new root, then restart the proxies")]
    Expired,
    /// A file does not hold what it should.
    #[error(
        "{file} cannot be used: {reason}; restore it, or delete {ROOT_CERTIFICATE} and {ROOT_KEY} to make a new root"
    )]
    Unusable {
        /// Which file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS library refused to make a key or certificate.
    #[error("cannot make the root certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// The authority of a state folder, made when there is none. Certificates live for `ttl_max` at most.
    ///
    /// # Errors
    /// The folder cannot be used, or holds something else.
    pub fn open(state: &StateFolder, ttl_max: Duration) -> Result<Self, AuthorityError> {
        let key_pem = match state.read(ROOT_KEY, Readers::Owner)? {
            Some(pem) => pem,
            None if state.read(ROOT_CERTIFICATE, Readers::Everybody)?.is_some() => {
                return Err(AuthorityError::KeyMissing);
            }
            None => {
                let pem = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem();
                state.create(ROOT_KEY, Readers::Owner, &pem)?
            }
        };
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| AuthorityError::Unusable { file: ROOT_KEY, reason: error.to_string() })?;
        let root_pem = match state.read(ROOT_CERTIFICATE, Readers::Everybody)? {
            Some(pem) => pem,
            None => {
                let pem = root_params().self_signed(&key)?.pem();
                state.create(ROOT_CERTIFICATE, Readers::Everybody, &pem)?
            }
        };
        let root_ends = check_root(&root_pem, &key)?;
        let issuer = Issuer::from_ca_cert_pem(&root_pem, key)
            .map_err(|error| AuthorityError::Unusable { file: ROOT_CERTIFICATE, reason: error.to_string() })?;
        Ok(Self { issuer, root_pem, root_ends, ttl_max })
    }

    /// The root certificate, in PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// When the root ends.
    pub fn root_ends(&self) -> SystemTime {
        self.root_ends
    }

    /// Certifies that the key of a request (PKCS#10 in PEM) belongs to `identity`. `ttl_wanted` is cut to what the option
    /// and the root allow; `None` asks for as much as they do. Gives the certificate and the root, each in PEM.
    ///
    /// # Errors
    /// The request is malformed, or is not signed by its own key.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &SpiffeId,
        ttl_wanted: Option<Duration>,
    ) -> Result<[String; 2], RequestError> {
        let key = request::proven_key(csr_pem)?;
        let mut params = self.leaf_params(ttl_wanted)?;
        // One URI SAN and no subject, so that the SAN is critical (RFC 5280, section 4.2.1.6; X509-SVID, section 2).
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok([certificate.pem(), self.root_pem.clone()])
    }

    /// Parameters that workloads' certificates and our own have in common.
    fn leaf_params(&self, ttl_wanted: Option<Duration>) -> Result<CertificateParams, rcgen::Error> {
        let now = SystemTime::now();
        let ttl = ttl_wanted.unwrap_or(self.ttl_max).clamp(TTL_MIN, self.ttl_max.max(TTL_MIN));
        let mut serial = [0; 16];
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        random.fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
        // RFC 5280, section 4.1.2.2: positive, and at most 20 octets.
        serial[0] &= 0x7f;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + ttl).min(self.root_ends).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

fn root_params() -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Heddle");
    params.distinguished_name.push(DnType::CommonName, "Heddle root");
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + ROOT_TTL).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Checks that the certificate is the key's and not over, and says when it ends.
fn check_root(pem: &str, key: &KeyPair) -> Result<SystemTime, AuthorityError> {
    let unusable = |reason: String| AuthorityError::Unusable { file: ROOT_CERTIFICATE, reason };
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|error| unusable(error.to_string()))?;
    if certificate.public_key().subject_public_key.data != key.der_bytes() {
        return Err(AuthorityError::Mismatch);
    }
    let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
    match ends > SystemTime::now() {
        true => Ok(ends),
        false => Err(AuthorityError::Expired),
    }
}

/// The root's certificate, which clients trust.
pub const ROOT_CERTIFICATE: &str = "root-cert.pem";

/// The root's key, in PKCS#8.
pub const ROOT_KEY: &str = "root-key.pem";

/// How long the root lives: ten years.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How far certificates begin in the past, for peers whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(120);

/// Shortest life of a certificate.
const TTL_MIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;

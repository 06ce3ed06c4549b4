//! Signing requests: bytes of strangers, of which only a proven public key comes out.

use rcgen::SubjectPublicKeyInfo;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Too long to be one.
    #[error("{0} bytes are no signing request; at most {CSR_BYTES_MAX} are read")]
    TooLong(usize),
    /// No PKCS#10 in PEM.
    #[error("no signing request (PKCS#10 in PEM): {0}")]
    Malformed(String),
    /// Its signature is not by its key, or by an algorithm that we do not take.
    #[error("the request is not signed by its own key with ECDSA, Ed25519 or RSA of at least 2048 bits")]
    Unproven,
    /// The TLS library refused its key.
    #[error("the key cannot be certified: {0}")]
    Key(#[from] rcgen::Error),
}

/// The public key of a request that its signature proves.
pub(super) fn proven_key(pem: &str) -> Result<SubjectPublicKeyInfo, RequestError> {
    if pem.len() > CSR_BYTES_MAX {
        return Err(RequestError::TooLong(pem.len()));
    }
    let malformed = |error: &dyn std::fmt::Display| RequestError::Malformed(error.to_string());
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|error| malformed(&error))?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|error| malformed(&error))?;
    if !rest.is_empty() {
        return Err(malformed(&"bytes after its end"));
    }
    let signed = request.certification_request_info.raw;
    let key = &request.certification_request_info.subject_pki;
    let signature = &request.signature_value.data;
    // Each algorithm checks itself that the key is one of its own, and the signature by it.
    let algorithms = default_provider().signature_verification_algorithms.all;
    let fits = algorithms.iter().filter(|algorithm| {
        // Both identifiers are the contents of the DER sequence, which follow its tag and length.
        key.raw
            .windows(algorithm.public_key_alg_id().as_ref().len())
            .any(|part| part == algorithm.public_key_alg_id().as_ref())
    });
    let proven = fits
        .into_iter()
        .any(|algorithm| algorithm.verify_signature(&key.subject_public_key.data, signed, signature).is_ok());
    match proven {
        true => Ok(SubjectPublicKeyInfo::from_der(key.raw)?),
        false => Err(RequestError::Unproven),
    }
}

/// Longest request: one for RSA of 8192 bits has about 3 KiB.
const CSR_BYTES_MAX: usize = 16 << 10;

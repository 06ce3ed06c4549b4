//! This server's own certificate, made by its own authority and renewed before it ends.

use super::{Authority, BACKDATED};
use rcgen::{DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, PoisonError, RwLock},
};

/// The names that clients may check for.
#[derive(Debug, Clone)]
pub struct ServerNames(Vec<SanType>);

/// Why there is no certificate for this server.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// A name is neither a DNS name nor an address.
    #[error("server name {0:?} is neither a DNS name nor an address; correct --server-names")]
    Name(String),
    /// No name at all.
    #[error("no server name; give at least one with --server-names")]
    NoName,
    /// The TLS libraries refused.
    #[error("cannot make this server's certificate: {0}")]
    Make(String),
}

impl ServerNames {
    /// Checks the names, and adds the loopback addresses.
    ///
    /// # Errors
    /// The name that no certificate can hold.
    pub fn new(names: &[String]) -> Result<Self, ServingError> {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut found: Vec<SanType> = Vec::new();
        for name in names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            let address = name.parse::<IpAddr>().ok().map(SanType::IpAddress);
            let dns = || {
                let checked = rustls_pki_types::DnsName::try_from(name).ok()?;
                checked.as_ref().to_owned().try_into().ok().map(SanType::DnsName)
            };
            found.push(address.or_else(dns).ok_or_else(|| ServingError::Name(name.to_owned()))?);
        }
        if found.is_empty() {
            return Err(ServingError::NoName);
        }
        for address in loopback.map(SanType::IpAddress) {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        Ok(Self(found))
    }
}

/// The certificate in use.
#[derive(Debug)]
pub struct ServingCertificate {
    authority: Arc<Authority>,
    names: ServerNames,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    /// Makes the first one.
    ///
    /// # Errors
    /// The TLS libraries refused.
    pub fn new(authority: Arc<Authority>, names: ServerNames) -> Result<Self, ServingError> {
        let current = RwLock::new(Arc::new(make(&authority, &names)?));
        Ok(Self { authority, names, current })
    }

    /// Renews it at half of its life, for ever. A renewal that fails is tried again soon; the old one serves meanwhile.
    pub async fn renew(&self) {
        let mut wait = self.authority.ttl_max / 2;
        loop {
            tokio::time::sleep(wait.max(BACKDATED / 4)).await;
            wait = match make(&self.authority, &self.names) {
                Ok(made) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                    tracing::info!("renewed this server's certificate");
                    self.authority.ttl_max / 2
                }
                Err(error) => {
                    tracing::error!(%error, "could not renew this server's certificate");
                    self.authority.ttl_max / 16
                }
            };
        }
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn make(authority: &Authority, names: &ServerNames) -> Result<CertifiedKey, ServingError> {
    let failed = |error: &dyn std::fmt::Display| ServingError::Make(error.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| failed(&error))?;
    let mut params = authority.leaf_params(None).map_err(|error| failed(&error))?;
    params.distinguished_name.push(DnType::CommonName, "heddle-controller");
    params.subject_alt_names.clone_from(&names.0);
    let certificate = params.signed_by(&key, &authority.issuer).map_err(|error| failed(&error))?;
    let root = CertificateDer::from_pem_slice(authority.root_pem.as_bytes()).map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|error| failed(&error))?;
    Ok(CertifiedKey::new(vec![certificate.der().clone(), root], key))
}

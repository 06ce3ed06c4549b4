//! TLS between proxies: rustls configurations made from an [`Svid`], and the transport that carries the records.
//!
//! TLS 1.3 only; names, sessions and tickets play no part: a peer is its SPIFFE ID, whatever address or name led to it.

pub mod transport;
pub mod verify;

pub use transport::{TlsError, TlsStream, accept, connect};

use crate::identity::Svid;
use heddle_mesh::identity::{SpiffeId, TrustDomain};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::TLS13,
};
use std::sync::{Arc, LazyLock};
use verify::{PeerOfMesh, ServerOfMesh};

/// What a client offers: our certificate, and which identities the server may have.
pub fn client_config(svid: &Svid, expected: &[SpiffeId]) -> Arc<ClientConfig> {
    let verifier = Arc::new(ServerOfMesh::new(svid.roots().clone(), expected.to_vec()));
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has the suites and groups of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key().clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// What a server offers: our certificate, and the trust domain that clients must belong to.
pub fn server_config(svid: &Svid, trust_domain: &TrustDomain) -> Arc<ServerConfig> {
    let verifier = Arc::new(PeerOfMesh::new(svid.roots().clone(), trust_domain.clone()));
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has the suites and groups of TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key().clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// The cryptography of everything this proxy encrypts.
pub fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// AES-128 first: the mesh's hosts have AES in hardware, and its margin is ample. The post-quantum hybrid first, then the
/// curves that every peer knows.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    })
});

/// The only protocol spoken inside (RFC 7301; RFC 9113, section 3.2).
const ALPN: &[u8] = b"h2";

#[cfg(test)]
mod tests;

//! A CA that issues what a mesh's would, and what it never would.

use heddle_dataplane::{identity::Svid, tls};
use heddle_mesh::identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{sync::Arc, time::SystemTime};

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) roots: Arc<RootCertStore>,
}

/// What a leaf certificate says.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) common_name: String,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) years: (i32, i32),
}

impl Leaf {
    /// A sound one.
    pub(crate) fn of(uri: &str) -> Self {
        Self {
            uris: vec![uri.to_owned()],
            dns: Vec::new(),
            common_name: String::new(),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            years: (2020, 2200),
        }
    }
}

impl Ca {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// One that may only issue URI names with this host (RFC 5280, section 4.2.1.10).
    pub(crate) fn constrained(host: &str) -> Self {
        let wrap = |tag: u8, inner: &[u8]| [&[tag, u8::try_from(inner.len()).expect("short")], inner].concat();
        let uri = wrap(0x86, host.as_bytes());
        let permitted = wrap(0xa0, &wrap(0x30, &uri));
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], wrap(0x30, &permitted));
        extension.set_criticality(true);
        Self::with(|params| params.custom_extensions.push(extension))
    }

    fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::OrganizationName, "a mesh under test");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("the parameters are sound");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("the certificate is sound");
        Self { issuer: Issuer::new(params, key), roots: Arc::new(roots) }
    }

    /// A leaf and its key.
    pub(crate) fn issue(&self, leaf: &Leaf) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::default();
        let uris = leaf.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect("ASCII")));
        let names = leaf.dns.iter().map(|name| SanType::DnsName(name.as_str().try_into().expect("ASCII")));
        params.subject_alt_names = uris.chain(names).collect();
        params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
        params.extended_key_usages.clone_from(&leaf.usages);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date_time_ymd(leaf.years.0, 1, 1);
        params.not_after = date_time_ymd(leaf.years.1, 1, 1);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are sound");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![certificate.der().clone()], key)
    }

    /// A workload's own certificate.
    pub(crate) fn svid(&self, id: &str) -> Arc<Svid> {
        self.svid_trusting(id, (*self.roots).clone())
    }

    /// A workload's own certificate, of a workload that trusts other roots.
    pub(crate) fn svid_trusting(&self, id: &str, roots: RootCertStore) -> Arc<Svid> {
        let (chain, key) = self.issue(&Leaf::of(id));
        Arc::new(Svid::new(chain, key, Arc::new(roots), SystemTime::now()).expect("a sound certificate"))
    }

    /// A client with any certificate, or none, that is content with this server.
    pub(crate) fn client_config(&self, leaf: Option<&Leaf>, server: &SpiffeId) -> Arc<ClientConfig> {
        let any = self.svid("spiffe://cluster.local/ns/a/sa/any");
        let mut config = (*tls::client_config(&any, std::slice::from_ref(server))).clone();
        config.client_auth_cert_resolver = match leaf {
            Some(leaf) => Arc::new(self.key(leaf)),
            None => Arc::new(NoCertificate),
        };
        Arc::new(config)
    }

    /// A server with any certificate, that lets in every client of this CA.
    pub(crate) fn server_config(&self, leaf: &Leaf) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), tls::provider().clone());
        let verifier: Arc<dyn ClientCertVerifier> = verifier.build().expect("there are roots");
        let mut config = ServerConfig::builder_with_provider(tls::provider().clone())
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.key(leaf)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// A leaf and its key, ready for a handshake.
    pub(crate) fn key(&self, leaf: &Leaf) -> SingleCertAndKey {
        let (chain, key) = self.issue(leaf);
        CertifiedKey::from_der(chain, key, tls::provider()).expect("the key goes with the certificate").into()
    }
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

//! What is taken for our own certificate, and what is not.

use super::*;
use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};
use rustls_pki_types::PrivatePkcs8KeyDer;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// Self-signed, valid from 2020 to 2200.
fn certificate(uris: &[&str]) -> (CertificateDer<'static>, KeyPair) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))).collect();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2200, 1, 1);
    params.serial_number = Some(vec![0x0a, 0xbc].into());
    let key = KeyPair::generate().expect("a key can be made");
    (params.self_signed(&key).expect("sound parameters").der().clone(), key)
}

fn key(pair: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()))
}

fn roots(certificate: &CertificateDer<'static>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a sound certificate");
    Arc::new(roots)
}

fn years(since_1970: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(since_1970 * 365 * 24 * 60 * 60)
}

fn made_of(uris: &[&str], now: SystemTime) -> Result<Svid, SvidError> {
    let (certificate, pair) = certificate(uris);
    let roots = roots(&certificate);
    Svid::new(vec![certificate], key(&pair), roots, now)
}

#[test]
fn a_sound_certificate_tells_who_until_when_and_which() {
    let svid = made_of(&[WEB], years(60)).expect("sound");
    assert_eq!(svid.id().to_string(), WEB);
    assert_eq!(svid.serial(), "0abc");
    assert!(svid.not_before() < years(60) && svid.not_after() > years(200));
    assert_eq!(svid.certified_key().cert.len(), 1);
}

#[test]
fn its_name_must_be_one_identity() {
    assert!(matches!(made_of(&[], years(60)), Err(SvidError::UriCount(0))));
    assert!(matches!(made_of(&[WEB, "https://example.com"], years(60)), Err(SvidError::UriCount(2))));
    assert!(matches!(made_of(&["https://example.com"], years(60)), Err(SvidError::Identity(_))));
    assert!(matches!(made_of(&["spiffe://cluster.local/agent"], years(60)), Err(SvidError::Identity(_))));
}

#[test]
fn its_time_must_be_now() {
    assert!(matches!(made_of(&[WEB], years(300)), Err(SvidError::Expired { .. })));
    let early = made_of(&[WEB], years(10)).expect_err("not yet valid");
    assert!(early.to_string().contains("clock"), "{early}");
}

#[test]
fn its_key_and_its_chain_must_be_there() {
    let (certificate, pair) = certificate(&[WEB]);
    let roots = roots(&certificate);
    let (_, other) = self::certificate(&[WEB]);
    let chain = vec![certificate.clone()];
    let result = Svid::new(chain.clone(), key(&other), roots.clone(), years(60));
    assert!(matches!(result, Err(SvidError::Key(_))), "{result:?}");
    let result = Svid::new(chain.clone(), PrivateKeyDer::Pkcs8(vec![1, 2, 3].into()), roots.clone(), years(60));
    assert!(matches!(result, Err(SvidError::Key(_))), "{result:?}");
    let result = Svid::new(Vec::new(), key(&pair), roots.clone(), years(60));
    assert!(matches!(result, Err(SvidError::EmptyChain)), "{result:?}");
    let result = Svid::new(vec![vec![0x30, 3, 1, 1, 1].into()], key(&pair), roots, years(60));
    assert!(matches!(result, Err(SvidError::Malformed(_))), "{result:?}");
    let result = Svid::new(chain, key(&pair), Arc::new(RootCertStore::empty()), years(60));
    assert!(matches!(result, Err(SvidError::NoRoots)), "{result:?}");
}

//! The authority: what stays, what is refused, what a certificate says.

use super::*;
use crate::state::StateFolder;
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("heddle-ca-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn authority(&self) -> Result<Authority, AuthorityError> {
        Authority::open(&StateFolder::open(&self.0)?, HOUR)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn csr() -> String {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://evil/ns/a/sa/b".try_into().expect("a URI"))];
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().expect("an identity")
}

#[test]
fn the_root_and_its_key_stay_and_the_key_is_ours_alone() {
    let scratch = Scratch::new("stay");
    let first = scratch.authority().expect("an authority").root_pem().to_owned();
    let mode = |name: &str| fs::metadata(scratch.0.join(name)).expect("the file").permissions().mode() & 0o777;
    assert_eq!((mode(ROOT_KEY), mode(ROOT_CERTIFICATE)), (0o600, 0o644));
    assert_eq!(scratch.authority().expect("an authority").root_pem(), first);
    assert_eq!(fs::read_dir(&scratch.0).expect("the folder").count(), 2);
    let ends = scratch.authority().expect("an authority").root_ends();
    assert!(ends > SystemTime::now() + Duration::from_secs(3_640 * 86_400));
}

#[test]
fn a_state_that_does_not_fit_together_is_refused() {
    let scratch = Scratch::new("refused");
    scratch.authority().expect("an authority");
    let key = scratch.0.join(ROOT_KEY);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("a mode");
    assert!(matches!(scratch.authority(), Err(AuthorityError::State(StateError::Exposed { mode: 0o640, .. }))));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::write(&key, KeyPair::generate().expect("a key").serialize_pem()).expect("another key");
    assert!(matches!(scratch.authority(), Err(AuthorityError::Mismatch)));
    fs::write(&key, "nonsense").expect("no key");
    assert!(matches!(scratch.authority(), Err(AuthorityError::Unusable { file: ROOT_KEY, .. })));
    fs::remove_file(&key).expect("no key");
    assert!(matches!(scratch.authority(), Err(AuthorityError::KeyMissing)));
}

#[test]
fn a_certificate_is_for_the_caller_and_chains_to_the_root() {
    let scratch = Scratch::new("chain");
    let authority = scratch.authority().expect("an authority");
    let [leaf, root] = authority.sign(&csr(), &identity(), None).expect("a certificate");
    let (leaf, root) =
        (CertificateDer::from_pem_slice(leaf.as_bytes()), CertificateDer::from_pem_slice(root.as_bytes()));
    let (leaf, root) = (leaf.expect("PEM"), root.expect("PEM"));
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).expect("a certificate");
    assert_eq!(parsed.subject().iter().count(), 0);
    let san = parsed.subject_alternative_name().expect("sound extensions").expect("a SAN");
    assert!(san.critical);
    assert_eq!(format!("{:?}", san.value.general_names), format!("[URI({:?})]", identity().to_string()));
    let usage = parsed.extended_key_usage().expect("sound extensions").expect("usages").value;
    assert!(usage.server_auth && usage.client_auth);
    assert!(!parsed.is_ca());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).expect("a root");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
    let verifier = verifier.expect("a verifier");
    verifier.verify_client_cert(&leaf, &[], rustls_pki_types::UnixTime::now()).expect("a chain to the root");
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let scratch = Scratch::new("proof");
    let authority = scratch.authority().expect("an authority");
    let sound = csr();
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(sound.as_bytes()).expect("PEM");
    for at in [der.len() - 1, der.len() - 20, 60, 100] {
        let mut bytes = der.as_ref().to_vec();
        bytes[at] ^= 1;
        let encoded = rcgen_pem(&bytes);
        assert!(authority.sign(&encoded, &identity(), None).is_err(), "byte {at}");
    }
    let mut trailing = der.as_ref().to_vec();
    trailing.push(0);
    let more = [rcgen_pem(&trailing), String::new(), "x".repeat(17 << 10), sound.replace("REQUEST", "NONSENSE")];
    for text in more {
        assert!(authority.sign(&text, &identity(), None).is_err());
    }
}

/// PEM without a crate for it.
fn rcgen_pem(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0_u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            match at <= chunk.len() {
                true => body.push(char::from(ALPHABET[(word >> (18 - 6 * at)) as usize & 63])),
                false => body.push('='),
            }
        }
    }
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn the_wanted_life_is_cut_to_what_is_allowed() {
    let scratch = Scratch::new("life");
    let authority = scratch.authority().expect("an authority");
    let hours = |wanted: Option<u64>| {
        let [leaf, _] = authority.sign(&csr(), &identity(), wanted.map(Duration::from_secs)).expect("a certificate");
        let der = CertificateDer::from_pem_slice(leaf.as_bytes()).expect("PEM");
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp() - 120
    };
    assert_eq!([hours(None), hours(Some(600)), hours(Some(u64::MAX / 2)), hours(Some(1))], [3600, 600, 3600, 60]);
}

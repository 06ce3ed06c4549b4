//! The source of certificates against an authority in this process, in paused time.

use super::*;
use rcgen::{BasicConstraints, CertificateSigningRequestParams, IsCa, Issuer, SerialNumber};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};
use tokio::time::timeout;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

#[tokio::test(start_paused = true)]
async fn a_certificate_is_asked_for_checked_and_published() {
    let mut bench = Bench::start();
    let svid = bench.next().await.expect("a certificate");
    assert_eq!(svid.id().to_string(), OWN);
    assert_eq!(until(svid.not_after(), bench.now()), TTL);
    assert!(bench.identity_reason().is_none());
    let expiry = svid.not_after().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    bench.check_metric(&format!("heddle_certificate_expiry_timestamp_seconds {expiry}"));
    bench.check_metric("heddle_certificate_renewals_total{result=\"ok\"} 1");
}

#[tokio::test(start_paused = true)]
async fn the_request_has_one_uri_name_and_no_common_name() {
    let mut bench = Bench::start();
    bench.next().await.expect("a certificate");
    let (asked, ttl) = bench.ca.asked.lock().expect("not poisoned")[0].clone();
    assert_eq!(ttl, TTL);
    let (_, pem) = x509_parser::pem::parse_x509_pem(asked.as_bytes()).expect("PEM");
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).expect("PKCS#10");
    assert_eq!(request.certification_request_info.subject.iter().count(), 0);
    let text = format!("{:?}", request.requested_extensions().expect("extensions").collect::<Vec<_>>());
    assert_eq!(text.matches("URI(").count(), 1, "{text}");
    assert!(text.contains(OWN), "{text}");
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_at_about_half_of_its_life_each_time_with_a_new_key() {
    let mut bench = Bench::start();
    let mut before = bench.next().await.expect("a certificate");
    for _ in 0..3 {
        let begun = Instant::now();
        let svid = bench.next().await.expect("the next one");
        let share = begun.elapsed().as_secs_f64() / TTL.as_secs_f64();
        assert!((0.44..0.56).contains(&share), "renewed after {share} of its life");
        assert_ne!(svid.serial(), before.serial());
        assert_ne!(public_key(&svid), public_key(&before));
        before = svid;
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_authority_it_is_not_ready_and_says_why_and_asks_ever_more_rarely() {
    let mut bench = Bench::refused();
    sleep(Duration::from_secs(600)).await;
    let reason = bench.identity_reason().expect("not ready");
    assert!(reason.starts_with("no certificate yet; the controller did not sign"), "{reason}");
    // 1 + 2 + 4 + 8 + 16 + 32 s, then one a minute.
    let asked = bench.ca.asked.lock().expect("not poisoned").len();
    assert!((13..=18).contains(&asked), "asked {asked} times in 10 minutes");
    bench.check_metric(&format!("heddle_certificate_renewals_total{{result=\"failed\"}} {asked}"));

    bench.ca.set(Mood::Signs);
    let svid = timeout(Duration::from_secs(70), bench.next()).await.expect("it heals alone");
    assert!(svid.is_some() && bench.identity_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_old_one_serves_to_its_end_and_then_nothing_does() {
    let mut bench = Bench::start();
    let svid = bench.next().await.expect("a certificate");
    let begun = Instant::now();
    bench.ca.set(Mood::Refuses);
    assert!(bench.next().await.is_none(), "the certificate is over");
    let lived = begun.elapsed();
    assert!(lived >= TTL && lived < TTL + Duration::from_secs(1), "{lived:?}");
    let reason = bench.identity_reason().expect("not ready");
    assert!(reason.contains(svid.serial()) && reason.contains("ended at"), "{reason}");
    assert!(reason.contains("the controller did not sign"), "{reason}");
    bench.check_metric("heddle_certificate_expiry_timestamp_seconds 0");

    bench.ca.set(Mood::Signs);
    let healed = timeout(Duration::from_secs(70), bench.next()).await.expect("it heals alone");
    assert!(healed.is_some() && bench.identity_reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_hangs_does_not_prolong_a_certificate() {
    let mut bench = Bench::start();
    bench.next().await.expect("a certificate");
    let begun = Instant::now();
    bench.ca.set(Mood::Hangs);
    assert!(bench.next().await.is_none());
    assert!(begun.elapsed() < TTL + Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_somebody_else_is_not_used() {
    let bench = Bench::with(Mood::SignsAs("spiffe://cluster.local/ns/shop/sa/thief"));
    sleep(Duration::from_secs(5)).await;
    let reason = bench.identity_reason().expect("not ready");
    assert!(reason.contains("signed spiffe://cluster.local/ns/shop/sa/thief, and this pod is"), "{reason}");
    assert!(bench.svids.borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_another_key_is_not_used() {
    let bench = Bench::with(Mood::SignsAnotherKey);
    sleep(Duration::from_secs(5)).await;
    let reason = bench.identity_reason().expect("not ready");
    assert!(reason.contains("private key"), "{reason}");
    assert!(bench.svids.borrow().is_none());
}

/// Hazard I9.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_two_days_ahead_brings_a_new_certificate_within_a_minute() {
    let mut bench = Bench::start();
    bench.next().await.expect("a certificate");
    bench.set_clock(2 * 24 * 60 * 60);
    bench.ca.set(Mood::Refuses);
    let ended = timeout(Duration::from_secs(61), bench.next()).await.expect("noticed within a minute");
    assert!(ended.is_none());
    assert!(bench.identity_reason().expect("not ready").contains("by this machine's clock"));
    bench.ca.set(Mood::Signs);
    let svid = timeout(Duration::from_secs(61), bench.next()).await.expect("and healed").expect("a certificate");
    assert!(svid.not_before() <= bench.now() && svid.not_after() > bench.now());
}

/// Hazard I9.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_two_days_back_brings_a_new_certificate_and_no_spin() {
    let mut bench = Bench::start();
    bench.next().await.expect("a certificate");
    bench.set_clock(-2 * 24 * 60 * 60);
    let svid = timeout(Duration::from_secs(61), bench.next()).await.expect("noticed").expect("a certificate");
    assert!(svid.not_before() <= bench.now());
    sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.ca.asked.lock().expect("not poisoned").len(), 2);
}

#[test]
fn pauses_grow_to_a_minute() {
    let within = |pause: Duration, seconds: f64| (0.89..1.11).contains(&(pause.as_secs_f64() / seconds));
    for (failures, seconds) in [(0, 1.0), (1, 2.0), (2, 4.0), (5, 32.0), (6, 60.0), (7, 60.0), (u32::MAX, 60.0)] {
        assert!(within(backoff(failures), seconds), "{failures} failures: {:?}", backoff(failures));
    }
}

/// A source that runs, and what it is seen through.
struct Bench {
    ca: Arc<Ca>,
    svids: watch::Receiver<Option<Arc<Svid>>>,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    source: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start() -> Self {
        Self::with(Mood::Signs)
    }

    fn refused() -> Self {
        Self::with(Mood::Refuses)
    }

    fn with(mood: Mood) -> Self {
        let ca = Arc::new(Ca::new(mood));
        let (sender, svids) = watch::channel(None);
        let (readiness, metrics) = (Readiness::default(), Metrics::new());
        let id = OWN.parse().expect("an identity");
        let mut source = Source::new(id, TTL, ca.clone(), sender, metrics.clone(), readiness.clone());
        let clock = ca.clone();
        source.clock = Box::new(move || clock.now());
        Self { ca, svids, readiness, metrics, source: tokio::spawn(source.run()) }
    }

    /// What is published next.
    async fn next(&mut self) -> Option<Arc<Svid>> {
        self.svids.changed().await.expect("the source runs");
        self.svids.borrow_and_update().clone()
    }

    fn now(&self) -> SystemTime {
        self.ca.now()
    }

    fn set_clock(&self, seconds: i64) {
        self.ca.offset_seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    fn identity_reason(&self) -> Option<String> {
        let reasons = self.readiness.reasons().into_iter().map(|reason| reason.to_string());
        reasons.filter_map(|reason| reason.strip_prefix("identity: ").map(str::to_owned)).next()
    }

    fn check_metric(&self, line: &str) {
        let text = self.metrics.encode();
        assert!(text.lines().any(|has| has == line), "{line} is missing in\n{text}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.source.abort();
    }
}

/// An authority with moods, and the clock that everybody goes by.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: rustls_pki_types::CertificateDer<'static>,
    mood: Mutex<Mood>,
    asked: Mutex<Vec<(String, Duration)>>,
    serial: AtomicU64,
    started: Instant,
    offset_seconds: AtomicI64,
}

#[derive(Debug, Clone, Copy)]
enum Mood {
    Signs,
    SignsAs(&'static str),
    SignsAnotherKey,
    Refuses,
    Hangs,
}

impl Ca {
    fn new(mood: Mood) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root").der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
            mood: Mutex::new(mood),
            asked: Mutex::default(),
            serial: AtomicU64::new(1),
            started: Instant::now(),
            offset_seconds: AtomicI64::new(0),
        }
    }

    fn now(&self) -> SystemTime {
        let base = UNIX_EPOCH + Duration::from_secs(2_000_000_000) + self.started.elapsed();
        let offset = self.offset_seconds.load(Ordering::Relaxed);
        let distance = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { base - distance } else { base + distance }
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().expect("not poisoned") = mood;
    }

    fn issue(&self, csr_pem: &str, ttl: Duration, mood: Mood) -> Signed {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).expect("a sound request");
        if let Mood::SignsAs(id) = mood {
            request.params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
        }
        let now = self.now();
        request.params.serial_number = Some(SerialNumber::from(self.serial.fetch_add(1, Ordering::Relaxed)));
        request.params.not_before = now.into();
        request.params.not_after = (now + ttl).into();
        let certificate = match mood {
            Mood::SignsAnotherKey => {
                let another = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
                request.params.signed_by(&another, &self.issuer)
            }
            _ => request.signed_by(&self.issuer),
        };
        Signed { chain: vec![certificate.expect("signed").der().clone()], roots: vec![self.root.clone()] }
    }
}

impl Signer for Arc<Ca> {
    async fn sign(&self, csr_pem: &str, ttl: Duration) -> Result<Signed, SignError> {
        self.asked.lock().expect("not poisoned").push((csr_pem.to_owned(), ttl));
        let mood = *self.mood.lock().expect("not poisoned");
        match mood {
            Mood::Refuses => Err(SignError::Timeout { seconds: 30 }),
            Mood::Hangs => std::future::pending().await,
            mood => Ok(self.issue(csr_pem, ttl, mood)),
        }
    }
}

fn public_key(svid: &Svid) -> Vec<u8> {
    let leaf = svid.certified_key().cert.first().expect("a leaf");
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(leaf).expect("DER");
    leaf.public_key().raw.to_vec()
}

const OWN: &str = "spiffe://cluster.local/ns/shop/sa/web";
/// A whole number of seconds, as certificates count.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

//! Certificates from the controller: a fresh key and a request for each, renewal long before the end, and nothing after it.
//!
//! Invariant: the published certificate is our own, goes with its key, and is not over. A key never leaves the memory of this
//! process, and no key is used for a second certificate.

use super::{Svid, SvidError};
use crate::telemetry::{access_log::chain, metrics::Metrics, readiness::Readiness};
use heddle_controller_client::{CertificateClient, SignError, Signed};
use heddle_mesh::identity::SpiffeId;
use humantime::format_rfc3339_seconds;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::RootCertStore;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    fmt,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use zeroize::Zeroize;

/// Keeps the proxy's certificate current.
pub struct Source<S> {
    id: SpiffeId,
    ttl: Duration,
    signer: S,
    clock: Clock,
    state: State,
    metrics: Arc<Metrics>,
    /// Failures since the last certificate.
    failures: u32,
    /// Not before this may the controller be asked again.
    retry_at: Option<Instant>,
}

/// Who signs: the controller, or a stand-in in tests.
pub trait Signer: Send + Sync {
    /// Has the key of `csr_pem` signed for at most `ttl`. Bounded in time.
    ///
    /// # Errors
    /// When there is no certificate.
    fn sign(&self, csr_pem: &str, ttl: Duration) -> impl Future<Output = Result<Signed, SignError>> + Send;
}

impl Signer for CertificateClient {
    async fn sign(&self, csr_pem: &str, ttl: Duration) -> Result<Signed, SignError> {
        Self::sign(self, csr_pem, ttl).await
    }
}

impl<S: Signer> Source<S> {
    /// Nothing happens before [`Source::run`] is polled. `published` starts as `None`.
    pub fn new(
        id: SpiffeId,
        ttl: Duration,
        signer: S,
        published: watch::Sender<Option<Arc<Svid>>>,
        metrics: Arc<Metrics>,
        readiness: Readiness,
    ) -> Self {
        Self {
            id,
            ttl,
            signer,
            clock: Box::new(SystemTime::now),
            state: State { held: None, published, metrics: metrics.clone(), readiness, ended: None, last_error: None },
            metrics,
            failures: 0,
            retry_at: None,
        }
    }

    /// Asks for a certificate, publishes it, and renews it at about half of its remaining life; a failure is repeated with a
    /// growing pause, and the certificate in use serves to its end. Then `None` is published. Never returns; whoever drops it
    /// stops it.
    pub async fn run(mut self) {
        let mut watched = Watched::new((self.clock)());
        loop {
            let now = (self.clock)();
            if let Some(jump) = watched.jump(now) {
                tracing::warn!(seconds = jump, "the system clock jumped: the certificate's times are looked at again");
            }
            self.state.expire(now);
            if self.due(now) {
                self.renew().await;
            }
            sleep(self.pause()).await;
        }
    }

    fn due(&self, now: SystemTime) -> bool {
        self.state.held.as_ref().is_none_or(|held| held.due(now)) && self.retry_at.is_none_or(|at| at <= Instant::now())
    }

    /// Time to the next look: when something is due, but soon enough to notice a clock that was set.
    fn pause(&self) -> Duration {
        let now = (self.clock)();
        let renewal = match (self.retry_at, &self.state.held) {
            (Some(at), _) => at.saturating_duration_since(Instant::now()),
            (None, Some(held)) => until(held.renew_at, now),
            (None, None) => Duration::ZERO,
        };
        // A moment more, so that the clock has passed the time when the sleep is over.
        renewal.min(self.state.until_end(now)).min(LOOK_INTERVAL) + Duration::from_millis(1)
    }

    async fn renew(&mut self) {
        let mut asking = pin!(obtain(&self.signer, &self.id, self.ttl, &self.clock));
        let result = loop {
            let end = self.state.until_end((self.clock)()).min(LOOK_INTERVAL);
            tokio::select! {
                result = &mut asking => break result,
                // The controller may take long to say no; the certificate's end does not wait for it.
                () = sleep(end + Duration::from_millis(1)) => self.state.expire((self.clock)()),
            }
        };
        self.metrics.certificate_renewed(result.is_ok());
        match result {
            Ok(svid) => {
                self.failures = 0;
                self.retry_at = None;
                self.state.replace(svid, (self.clock)());
            }
            Err(error) => {
                let pause = backoff(self.failures);
                self.failures = self.failures.saturating_add(1);
                self.retry_at = Some(Instant::now() + pause);
                self.state.failed(&error, self.failures, pause);
            }
        }
    }
}

impl<S> fmt::Debug for Source<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("id", &self.id).field("failures", &self.failures).finish_non_exhaustive()
    }
}

/// The wall clock, passed in.
type Clock = Box<dyn Fn() -> SystemTime + Send + Sync>;

/// The certificate in use, and everybody who is told of it.
#[derive(Debug)]
struct State {
    held: Option<Held>,
    published: watch::Sender<Option<Arc<Svid>>>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    /// Which certificate was the last one, when it is over.
    ended: Option<String>,
    /// Why the last request failed, if it did.
    last_error: Option<String>,
}

#[derive(Debug)]
struct Held {
    svid: Arc<Svid>,
    renew_at: SystemTime,
}

impl Held {
    /// Before its beginning, too: then the clock was set back, and peers would refuse it.
    fn due(&self, now: SystemTime) -> bool {
        now >= self.renew_at || now < self.svid.not_before()
    }
}

impl State {
    fn replace(&mut self, svid: Svid, now: SystemTime) {
        let renew_in = until(svid.not_after(), now).mul_f64(0.5 * jitter()).max(RENEWAL_MIN);
        tracing::info!(
            serial = svid.serial(),
            not_after = %format_rfc3339_seconds(svid.not_after()),
            renew_in_seconds = renew_in.as_secs(),
            "certificate in use",
        );
        (self.ended, self.last_error) = (None, None);
        self.metrics.certificate_expiry(Some(svid.not_after()));
        let svid = Arc::new(svid);
        self.held = Some(Held { svid: svid.clone(), renew_at: now + renew_in });
        self.published.send_replace(Some(svid));
        self.readiness.identity(Ok(()));
    }

    fn failed(&mut self, error: &SourceError, failures: u32, pause: Duration) {
        let reason = chain(error);
        let retry_in_seconds = pause.as_secs_f64().round();
        self.last_error = Some(reason.clone());
        match &self.held {
            Some(Held { svid, .. }) => {
                let serves_until = format_rfc3339_seconds(svid.not_after());
                tracing::warn!(reason, failures, retry_in_seconds, %serves_until, "certificate not renewed");
            }
            None => {
                tracing::warn!(reason, failures, retry_in_seconds, "no certificate");
                self.not_ready();
            }
        }
    }

    /// Takes the certificate away when it is over.
    fn expire(&mut self, now: SystemTime) {
        if self.until_end(now) > Duration::ZERO {
            return;
        }
        let Some(Held { svid, .. }) = self.held.take() else { return };
        let not_after = format_rfc3339_seconds(svid.not_after());
        tracing::error!(serial = svid.serial(), %not_after, "the certificate is over: mutual TLS is refused from now on");
        self.ended = Some(format!("certificate {} ended at {not_after} by this machine's clock", svid.serial()));
        self.published.send_replace(None);
        self.metrics.certificate_expiry(None);
        self.not_ready();
    }

    fn not_ready(&self) {
        let what = self.ended.as_deref().unwrap_or("no certificate yet");
        self.readiness.identity(Err(match &self.last_error {
            Some(error) => format!("{what}; {error}"),
            None => what.to_owned(),
        }));
    }

    fn until_end(&self, now: SystemTime) -> Duration {
        self.held.as_ref().map_or(Duration::MAX, |held| until(held.svid.not_after(), now))
    }
}

/// One request, from a new key to a certificate that was checked.
async fn obtain<S: Signer>(signer: &S, id: &SpiffeId, ttl: Duration, clock: &Clock) -> Result<Svid, SourceError> {
    let key = Key::generate()?;
    let signed = signer.sign(&key.request(id)?, ttl).await?;
    let mut roots = RootCertStore::empty();
    for root in signed.roots {
        roots.add(root).map_err(SourceError::Root)?;
    }
    let svid = Svid::new(signed.chain, key.into_der(), Arc::new(roots), clock())?;
    // The controller signs for whom the token proves, whatever the request says.
    if svid.id() != id {
        return Err(SourceError::OtherIdentity { got: svid.id().clone(), expected: id.clone() });
    }
    Ok(svid)
}

/// A private key while it waits for its certificate; its memory is wiped afterwards.
struct Key(KeyPair);

impl Key {
    fn generate() -> Result<Self, SourceError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(SourceError::Key)
    }

    /// PKCS#10 in PEM with one URI name and no common name: what the Istio CSR service expects.
    fn request(&self, id: &SpiffeId) -> Result<String, SourceError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(SourceError::Key)?)];
        params.serialize_request(&self.0).and_then(|request| request.pem()).map_err(SourceError::Key)
    }

    /// PKCS#8, for rustls, which takes it over.
    fn into_der(self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No key or no request could be made.
    #[error("no key or certificate request could be made")]
    Key(#[source] rcgen::Error),
    /// The controller did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A root that came along cannot be used.
    #[error("a root certificate from the controller cannot be used")]
    Root(#[source] rustls::Error),
    /// What came is no certificate for our key.
    #[error("the certificate from the controller cannot be used")]
    Svid(#[from] SvidError),
    /// What came is somebody else's.
    #[error(
        "the controller signed {got}, and this pod is {expected}; compare --service-account, --pod-namespace and \
         --trust-domain with the token in --token-file"
    )]
    OtherIdentity {
        /// Who was signed.
        got: SpiffeId,
        /// Who we are.
        expected: SpiffeId,
    },
}

/// Notices when the wall clock and the monotonic clock go apart: somebody set the clock, or the machine slept.
#[derive(Debug)]
struct Watched {
    wall: SystemTime,
    monotonic: Instant,
}

impl Watched {
    fn new(now: SystemTime) -> Self {
        Self { wall: now, monotonic: Instant::now() }
    }

    /// The jump since the last look in seconds, forward or back; `None` for less than [`JUMP_MIN`].
    fn jump(&mut self, now: SystemTime) -> Option<f64> {
        let before = std::mem::replace(self, Self::new(now));
        let expected = before.wall + self.monotonic.duration_since(before.monotonic);
        match now.duration_since(expected) {
            Ok(forward) => (forward >= JUMP_MIN).then_some(forward.as_secs_f64()),
            Err(back) => (back.duration() >= JUMP_MIN).then_some(-back.duration().as_secs_f64()),
        }
    }
}

fn until(at: SystemTime, now: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or_default()
}

/// The pause after so many earlier failures: 1 s, doubled each time, at most 60 s, with jitter so that a mesh that lost its
/// controller does not come back in step.
fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF_MIN * 2_u32.pow(failures.min(6));
    doubled.min(BACKOFF_MAX).mul_f64(jitter())
}

/// 0.9 to 1.1.
fn jitter() -> f64 {
    0.9 + 0.2 * fastrand::f64()
}

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Longest time without a look at the wall clock.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Least time between two certificates, however short they live.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
/// Smaller differences of the clocks are adjustments by NTP.
const JUMP_MIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;

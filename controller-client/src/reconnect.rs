//! The client: one stream after the other, for ever, with a pause that grows while they fail. The last good mesh stays.

use crate::{ads, error::StreamError, index::Index, settings::Settings, snapshots::Publisher};
use std::{
    convert::Infallible,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};
use tokio::time::Instant;

/// Holds the discovery stream. Nothing happens before it runs, and dropping it ends the stream.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    index: Index,
}

impl Client {
    pub(crate) fn new(settings: Settings, publisher: Publisher) -> Self {
        let index = Index::new(settings.discovery, publisher);
        Self { settings, index }
    }

    /// Keeps the mesh current until it is dropped. Failures are logged, never returned: the mesh that was published stays.
    pub async fn run(mut self) -> Infallible {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let error = ads::run(&self.settings, &mut self.index).await;
            let pause = backoff.pause(began.elapsed());
            self.report(&error, pause);
            tokio::time::sleep(pause).await;
        }
    }

    fn report(&self, error: &StreamError, pause: Duration) {
        let mut state = self.index.shared().lock();
        state.reconnects += 1;
        state.last_error = Some(error.to_string());
        drop(state);
        let (controller, pause_ms) = (&self.settings.address, pause.as_millis());
        match error {
            // What a controller does to every stream from time to time is no reason to look.
            StreamError::Closed => tracing::info!(controller, pause_ms, reason = %error, "stream ended"),
            StreamError::Connect(_) | StreamError::Status { .. } | StreamError::Stalled => {
                tracing::warn!(controller, pause_ms, reason = %error, "no stream; the last good configuration serves");
            }
        }
    }
}

/// The pause before the next stream: a random part of a ceiling that doubles with each failure in a row.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after a stream that took `lived` from the first dial to its end.
    fn pause(&mut self, lived: Duration) -> Duration {
        if lived >= STABLE {
            self.failures = 0;
        }
        let ceiling = CEILING_MIN.saturating_mul(1 << self.failures.min(16)).min(CEILING_MAX);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random_fraction())
    }
}

/// A number in 0..1, so that the proxies of a cluster do not come back all at once. The standard library seeds every
/// `RandomState` differently; nothing secret depends on it.
fn random_fraction() -> f64 {
    let random = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(u32::MAX);
    f64::from(random) / f64::from(u32::MAX)
}

/// First ceiling of the pause.
const CEILING_MIN: Duration = Duration::from_millis(10);

/// Last ceiling of the pause.
const CEILING_MAX: Duration = Duration::from_secs(15);

/// A stream that lived so long was no failure.
const STABLE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_ceiling_and_start_over_after_a_stable_stream() {
        let mut backoff = Backoff::default();
        let mut ceiling = CEILING_MIN;
        for _ in 0..100 {
            assert!(backoff.pause(Duration::ZERO) <= ceiling);
            ceiling = (ceiling * 2).min(CEILING_MAX);
        }
        assert!(backoff.pause(STABLE) <= CEILING_MIN);
    }
}

//! Waiting for a condition, with a deadline and a name, instead of sleeping.

use anyhow::{Context, Result, bail};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Asks `probe` until it answers, and returns the answer.
///
/// # Errors
/// The probe's own, at once; or that `what` did not come within `deadline`.
pub fn until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = PAUSE_MIN;
    loop {
        if let Some(answer) = probe().with_context(|| format!("waiting for {what}"))? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {deadline:?}");
        }
        // Conditions outside of this process announce themselves to nobody, so they are asked for.
        thread::park_timeout(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// As [`until`], for a condition without an answer.
///
/// # Errors
/// As [`until`].
pub fn until_true(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, deadline, || Ok(probe()?.then_some(())))
}

/// How long anything on one machine may take that is not under test, on a busy one.
pub const PATIENCE: Duration = Duration::from_secs(20);

const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(40);

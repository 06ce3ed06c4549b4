//! The idle deadline of a relay, at no cost for a byte.

use super::RelayError;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// Fires when nothing was carried for the idle time.
///
/// Traffic sets a flag and asks no clock. The timer looks at the flag four times per idle time, so silence is noticed after one
/// to one and a quarter of it.
pub(super) struct IdleTimer {
    timer: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    silent_quarters: u32,
    active: bool,
}

impl IdleTimer {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self { timer: Box::pin(sleep(idle_timeout / QUARTERS)), idle_timeout, silent_quarters: 0, active: false }
    }

    /// Resolves when nothing was carried for too long. To be polled after every turn of the relay, and told whether that turn
    /// carried something.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, active: bool) -> Poll<RelayError> {
        self.active |= active;
        while self.timer.as_mut().poll(cx).is_ready() {
            let active = std::mem::take(&mut self.active);
            self.silent_quarters = if active { 0 } else { self.silent_quarters + 1 };
            if self.silent_quarters >= QUARTERS {
                return Poll::Ready(RelayError::IdleTimeout(self.idle_timeout));
            }
            self.timer.as_mut().reset(Instant::now() + self.idle_timeout / QUARTERS);
        }
        Poll::Pending
    }
}

const QUARTERS: u32 = 4;

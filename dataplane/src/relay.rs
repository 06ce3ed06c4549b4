//! Both directions of a connection, byte for byte, until both have ended.
//!
//! Each direction ends by itself: `nc -N` sends FIN and then waits, perhaps for minutes, for the reply. A FIN goes on as a FIN
//! (END_STREAM on a tunnel), a reset as a reset, so that a cut body never looks whole. An idle relay holds no buffer.

mod error;
mod idle;
mod meter;
mod plain;
mod socket;
mod tunnel;

pub use error::{RelayError, Side};
pub use meter::Meter;

use crate::stream::{Transport, Tunnel};
use h2::Reason;
use idle::IdleTimer;
use socket::Socket;
use std::{future::poll_fn, pin::pin, time::Duration};
use tokio::net::TcpStream;

/// Bounds of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayLimits {
    /// Longest time without a byte in either direction; it may last a quarter longer before it is noticed.
    pub idle_timeout: Duration,
    /// Most bytes taken from a socket at once. Small messages never use so much.
    pub read_bytes_max: usize,
}

impl Default for RelayLimits {
    /// 1 h, 128 KiB: with 64 KiB bulk costs a twelfth more, with 256 KiB nothing less.
    fn default() -> Self {
        Self { idle_timeout: Duration::from_secs(60 * 60), read_bytes_max: 128 * 1024 }
    }
}

/// Carries bytes between `near`, a socket of the application or of a client, and `far`, until both directions have ended.
/// The bytes in `meter` can be read at any time; what the kernel says of both sides is in it when this has returned or was
/// dropped.
///
/// Dropped before that, it resets both sides: that is how a revoked policy ends a connection.
///
/// # Errors
/// Which side failed, and how. Both have been reset then.
pub async fn relay(near: TcpStream, far: Transport, limits: &RelayLimits, meter: &Meter) -> Result<(), RelayError> {
    let near = Socket::new(near, Side::Near, meter);
    let mut idle = IdleTimer::new(limits.idle_timeout);
    match far {
        Transport::Plain(far) => {
            let far = Socket::new(far, Side::Far, meter);
            let mut relay = plain::Relay::new(&near, &far, limits.read_bytes_max, meter);
            let (mut near_failed, mut far_failed) = (pin!(near.failed()), pin!(far.failed()));
            poll_fn(|cx| {
                let (active, mut result) = relay.poll(cx);
                if result.is_pending() && relay.blind(Side::Near) {
                    result = near_failed.as_mut().poll(cx).map(Err);
                }
                if result.is_pending() && relay.blind(Side::Far) {
                    result = far_failed.as_mut().poll(cx).map(Err);
                }
                if result.is_pending() { idle.poll(cx, active).map(Err) } else { result }
            })
            .await?;
            far.finished();
        }
        Transport::Tunnel(tunnel) => {
            let mut far = Reported { tunnel, meter };
            let result = {
                let mut relay = tunnel::Relay::new(&near, &mut far.tunnel, limits.read_bytes_max, meter);
                let mut near_failed = pin!(near.failed());
                poll_fn(|cx| {
                    let (active, mut result) = relay.poll(cx);
                    if result.is_pending() && relay.blind() {
                        result = near_failed.as_mut().poll(cx).map(Err);
                    }
                    if result.is_pending() { idle.poll(cx, active).map(Err) } else { result }
                })
                .await
            };
            if let Err(error) = result {
                far.tunnel.reset(reset_reason(&error));
                return Err(error);
            }
        }
    }
    near.finished();
    Ok(())
}

/// A tunnel whose connection is asked about at the end, however that comes.
struct Reported<'a> {
    tunnel: Tunnel,
    meter: &'a Meter,
}

impl Drop for Reported<'_> {
    fn drop(&mut self) {
        self.meter.report(Side::Far, self.tunnel.report());
    }
}

/// RFC 9113, section 8.5: a failure of the TCP connection is CONNECT_ERROR.
fn reset_reason(error: &RelayError) -> Reason {
    match error.side() {
        Some(Side::Near) => Reason::CONNECT_ERROR,
        Some(Side::Far) | None => Reason::CANCEL,
    }
}

#[cfg(test)]
mod tests;

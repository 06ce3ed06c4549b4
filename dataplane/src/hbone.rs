//! HBONE: connections between pods as HTTP/2 CONNECT streams inside one mutual-TLS connection on port 15008.
//!
//! What is fixed by Istio's peers is in [`client`] and [`server`]; what both sides share is here.

pub mod authority;
pub mod client;
mod drive;
pub mod server;

pub use crate::stream::{Carrier, Tunnel, TunnelError};

use std::time::Duration;

/// The response header that says in one word why a tunnel was refused, such as `policy_denied`. Ours alone: a peer of another
/// kind sends none, and ignores it.
pub const REASON_HEADER: &str = "x-heddle-reason";

/// How a peer's silence is noticed, the same on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// From the connection's start, or from the last answer, to the next PING.
    pub interval: Duration,
    /// Without an answer for this long the connection is given up.
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// 10 s and 20 s, as the field has them.
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), timeout: Duration::from_secs(20) }
    }
}

/// Credit of one stream, in bytes: what a reader that has stopped can make us hold.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Largest frame that we take, in bytes. Peers that send smaller ones are as welcome.
const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// Largest header block that we take, decoded, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that a stream may have queued in us before its sender waits.
const SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Streams that we reset because of the peer's mistakes before the connection is ended (CVE-2025-8671).
const LOCAL_ERROR_RESETS_MAX: usize = 128;
/// Streams that we reset and still take late frames for.
const RESET_STREAMS_MAX: usize = 64;
/// How long that is.
const RESET_STREAM_DURATION: Duration = Duration::from_secs(1);

/// A connection's credit: all its streams together, so that no number of stalled ones can use it up. A limit, not memory held.
fn connection_window_bytes(streams_max: u32) -> u32 {
    STREAM_WINDOW_BYTES.saturating_mul(streams_max.max(1)).min(WINDOW_BYTES_MAX)
}

/// RFC 9113, section 6.9.1.
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;

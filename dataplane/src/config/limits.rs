//! How long and how much: every deadline and bound that a user may set.

use super::Checks;
use serde::Serialize;
use std::time::Duration;

/// What may be typed about deadlines and bounds.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Deadlines and bounds")]
pub struct LimitsArgs {
    /// Longest time to reach an endpoint: dial, TLS handshake and tunnel together. Then the connection is refused. From 10ms
    /// to 5m.
    #[arg(long, env = "HEDDLE_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "2s")]
    pub connect_timeout: String,
    /// Longest time without a byte in either direction before a connection is closed. From 1s to 30d.
    #[arg(long, env = "HEDDLE_IDLE_TIMEOUT", value_name = "DURATION", default_value = "1h")]
    pub idle_timeout: String,
    /// Longest time that connections may go on after SIGTERM; what is still open then is cut. From 0s to 1h. Keep it below
    /// the pod's terminationGracePeriodSeconds.
    #[arg(long, env = "HEDDLE_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "25s")]
    pub drain_timeout: String,
    /// Longest wait for the controller's answer about an address that the proxy has not met. Then the connection is refused.
    /// From 10ms to 1m.
    #[arg(long, env = "HEDDLE_DISCOVERY_TIMEOUT", value_name = "DURATION", default_value = "1s")]
    pub discovery_timeout: String,
    /// Most connections at a time, both directions and all workers together; more are refused at once. From 1 to 1000000.
    #[arg(long, env = "HEDDLE_CONNECTIONS_MAX", value_name = "COUNT", default_value = "10000")]
    pub connections_max: String,
    /// Idle time after which the kernel begins to probe a connection's other end (tcp(7), TCP_KEEPIDLE). Whole seconds from 1s
    /// to 2h.
    #[arg(long, env = "HEDDLE_TCP_KEEPALIVE", value_name = "DURATION", default_value = "15s")]
    pub tcp_keepalive: String,
    /// Longest time that sent bytes may stay unacknowledged before the connection counts as dead (tcp(7), TCP_USER_TIMEOUT).
    /// From 1s to 1h.
    #[arg(long, env = "HEDDLE_TCP_USER_TIMEOUT", value_name = "DURATION", default_value = "30s")]
    pub tcp_user_timeout: String,
    /// Most connections that share one tunnel connection between two proxies; a further one is opened for more. From 1 to 1000.
    #[arg(long, env = "HEDDLE_HBONE_STREAMS_MAX", value_name = "COUNT", default_value = "100")]
    pub hbone_streams_max: String,
    /// How long a tunnel connection between two proxies is kept open with nothing on it. From 1s to 1d.
    #[arg(long, env = "HEDDLE_HBONE_IDLE_TIMEOUT", value_name = "DURATION", default_value = "5m")]
    pub hbone_idle_timeout: String,
}

/// The deadlines and bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Dial, TLS handshake and tunnel together (`--connect-timeout`).
    pub connect_timeout: Duration,
    /// Longest time without a byte (`--idle-timeout`).
    pub idle_timeout: Duration,
    /// From SIGTERM to the cut (`--drain-timeout`).
    pub drain_timeout: Duration,
    /// Longest wait for an answer about an unknown address (`--discovery-timeout`).
    pub discovery_timeout: Duration,
    /// Most connections at a time over all workers (`--connections-max`).
    pub connections_max: usize,
    /// TCP_KEEPIDLE, whole seconds (`--tcp-keepalive`).
    pub tcp_keepalive: Duration,
    /// TCP_USER_TIMEOUT (`--tcp-user-timeout`).
    pub tcp_user_timeout: Duration,
    /// Streams a tunnel connection, both as client and as server (`--hbone-streams-max`).
    pub hbone_streams_max: u32,
    /// How long an unused tunnel connection is kept (`--hbone-idle-timeout`).
    pub hbone_idle_timeout: Duration,
}

impl Limits {
    pub(super) fn check(args: &LimitsArgs, checks: &mut Checks) -> Option<Self> {
        let connect = checks.duration("--connect-timeout", &args.connect_timeout, ms(10)..=s(5 * MINUTE));
        let idle = checks.duration("--idle-timeout", &args.idle_timeout, s(1)..=s(30 * DAY));
        let drain = checks.duration("--drain-timeout", &args.drain_timeout, s(0)..=s(HOUR));
        let discovery = checks.duration("--discovery-timeout", &args.discovery_timeout, ms(10)..=s(MINUTE));
        let connections_max = checks.number("--connections-max", &args.connections_max, 1..=1_000_000);
        let keepalive = checks.duration("--tcp-keepalive", &args.tcp_keepalive, s(1)..=s(2 * HOUR));
        let keepalive = keepalive.and_then(|_| checks.parsed("--tcp-keepalive", &args.tcp_keepalive, whole_seconds));
        let user_timeout = checks.duration("--tcp-user-timeout", &args.tcp_user_timeout, s(1)..=s(HOUR));
        let streams = checks.number("--hbone-streams-max", &args.hbone_streams_max, 1..=HBONE_STREAMS_MAX);
        let hbone_idle = checks.duration("--hbone-idle-timeout", &args.hbone_idle_timeout, s(1)..=s(DAY));
        Some(Self {
            connect_timeout: connect?,
            idle_timeout: idle?,
            drain_timeout: drain?,
            discovery_timeout: discovery?,
            connections_max: connections_max?,
            tcp_keepalive: keepalive?,
            tcp_user_timeout: user_timeout?,
            hbone_streams_max: streams?,
            hbone_idle_timeout: hbone_idle?,
        })
    }
}

fn whole_seconds(text: &str) -> Result<Duration, String> {
    match super::duration::parse(text) {
        Ok(parsed) if parsed.subsec_nanos() == 0 => Ok(parsed),
        _ => Err("the kernel counts it in seconds; write whole seconds, such as 15s".to_owned()),
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Most streams a tunnel connection: with 256 KiB a stream, the connection's window stays well below the 2^31-1 bytes that
/// HTTP/2 allows (RFC 9113, section 6.9.1).
const HBONE_STREAMS_MAX: u32 = 1000;

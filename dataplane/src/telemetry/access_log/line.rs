//! An entry as it is written: one JSON object, whose fields `docs/observability.md` explains.

use super::Entry;
use serde::Serialize;
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

/// One line of the access log.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    time: String,
    direction: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    source: SocketAddr,
    destination: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    security: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dry_run_denied_by: Vec<String>,
    bytes_sent: u64,
    bytes_received: u64,
    duration_ms: f64,
}

impl<'a> Line<'a> {
    /// As it is at this moment: the connection ends now.
    pub(super) fn of(entry: &'a Entry) -> Self {
        let elapsed = entry.started.elapsed();
        Self {
            time: humantime::format_rfc3339_micros(SystemTime::now() - elapsed).to_string(),
            direction: entry.direction.as_str(),
            reason: entry.flag.code(),
            error: entry.error.as_deref(),
            source: entry.source,
            destination: entry.destination,
            service: entry.service.as_ref().map(ToString::to_string),
            workload: entry.workload.as_deref(),
            endpoint: entry.endpoint,
            security: entry.security.as_str(),
            peer: entry.peer.as_ref().map(ToString::to_string),
            policy: entry.policy.as_ref().map(ToString::to_string),
            dry_run_denied_by: entry.dry_run.iter().map(ToString::to_string).collect(),
            bytes_sent: entry.bytes_sent,
            bytes_received: entry.bytes_received,
            duration_ms: milliseconds(elapsed),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

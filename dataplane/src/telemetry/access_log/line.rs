//! An entry as it is written: one JSON object, whose fields `docs/observability.md` explains.

use super::Entry;
use crate::telemetry::tcp::TcpSample;
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
    #[serde(skip_serializing_if = "Option::is_none")]
    downstream: Option<TcpSample>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<TcpSample>,
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
            downstream: entry.downstream.as_ref().map(|report| report.sample),
            upstream: entry.upstream.as_ref().map(|report| report.sample),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Direction, access_log::Sink, metrics::Metrics, tcp::TcpReport};
    use std::time::Instant;

    #[test]
    fn the_two_tcp_connections_are_objects_of_their_own_and_absent_when_there_was_none() {
        let sink = Sink { metrics: Metrics::new(), log: None };
        let (source, destination) = (([10, 0, 0, 1], 40_000).into(), ([10, 0, 0, 2], 80).into());
        let mut entry = Entry::new(&sink, Direction::Outbound, source, destination, Instant::now());
        let sample = TcpSample { rtt_us: Some(61), retransmits: Some(0), bytes_acked: Some(9), ..TcpSample::default() };
        entry.downstream = Some(Box::new(TcpReport::whole(sample)));
        let line = serde_json::to_value(Line::of(&entry)).expect("it can be written");
        assert_eq!(line["downstream"], serde_json::json!({ "rtt_us": 61, "retransmits": 0, "bytes_acked": 9 }));
        assert_eq!(line.get("upstream"), None);
    }
}

//! The metrics of the proxy's own TCP connections, as the kernel sees them.

use super::{Labelled, family, histogram::RttHistogram};
use crate::telemetry::tcp::TcpSample;
use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// The families.
pub(super) struct Tcp {
    rtt: Labelled<2, RttHistogram>,
    retransmits: Labelled<2, Counter>,
    bytes_retransmitted: Labelled<2, Counter>,
    bytes_acked: Labelled<2, Counter>,
    bytes_received: Labelled<2, Counter>,
}

impl Tcp {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            rtt: family(
                registry,
                "heddle_tcp_rtt_seconds",
                "Smoothed round-trip time of the TCP connection on that side, at the end of each connection",
            ),
            retransmits: family(
                registry,
                "heddle_tcp_retransmitted_segments",
                "Segments that were sent again on that side",
            ),
            bytes_retransmitted: family(
                registry,
                "heddle_tcp_retransmitted_bytes",
                "Bytes that were sent again on that side",
            ),
            bytes_acked: family(
                registry,
                "heddle_tcp_acked_bytes",
                "Bytes that the other end on that side acknowledged, with what TLS and HTTP/2 add",
            ),
            bytes_received: family(
                registry,
                "heddle_tcp_received_bytes",
                "Bytes that came from the other end on that side, with what TLS and HTTP/2 add",
            ),
        }
    }
}

/// The handles of one direction's connections on one side of the proxy.
#[derive(Debug)]
pub(super) struct PerTcpSide {
    rtt: RttHistogram,
    retransmits: Counter,
    bytes_retransmitted: Counter,
    bytes_acked: Counter,
    bytes_received: Counter,
}

impl PerTcpSide {
    pub(super) fn new(labels: &[(&'static str, &'static str); 2], families: &Tcp) -> Self {
        Self {
            rtt: families.rtt.get_or_create_owned(labels),
            retransmits: families.retransmits.get_or_create_owned(labels),
            bytes_retransmitted: families.bytes_retransmitted.get_or_create_owned(labels),
            bytes_acked: families.bytes_acked.get_or_create_owned(labels),
            bytes_received: families.bytes_received.get_or_create_owned(labels),
        }
    }

    /// Counts what a connection that ended has not counted yet.
    pub(super) fn add(&self, sample: &TcpSample) {
        if let Some(rtt_us) = sample.rtt_us {
            self.rtt.observe(rtt_us);
        }
        let counts = [
            (&self.retransmits, sample.retransmits.map(u64::from)),
            (&self.bytes_retransmitted, sample.bytes_retransmitted),
            (&self.bytes_acked, sample.bytes_acked),
            (&self.bytes_received, sample.bytes_received),
        ];
        for (counter, count) in counts {
            // Mostly nothing was sent again.
            if let Some(count @ 1..) = count {
                counter.inc_by(count);
            }
        }
    }
}

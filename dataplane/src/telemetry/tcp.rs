//! What the kernel says of the proxy's own TCP connections: round-trip time, retransmissions, bytes.

use serde::Serialize;

/// Which of a proxied connection's two TCP connections, seen from the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpSide {
    /// With whoever connected: the application, a client, or a peer's tunnel.
    Downstream,
    /// With where the bytes go: the application, an endpoint, or the tunnel to a peer.
    Upstream,
}

impl TcpSide {
    /// Both, in the order of declaration.
    pub const ALL: [Self; 2] = [Self::Downstream, Self::Upstream];

    /// As logs and metrics show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
        }
    }
}

/// One look at a TCP connection (tcp(7), TCP_INFO). A field is absent where the kernel is too old to say it, or has measured
/// nothing yet. The access log shows it as it is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TcpSample {
    /// Round-trip time, smoothed (RFC 6298, SRTT), in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    /// The shortest round trip of late, in microseconds: five minutes, as the kernel is set by default. Linux 4.6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_min_us: Option<u32>,
    /// Segments that were sent again, whatever was in them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u32>,
    /// Bytes of payload in those. Linux 4.19.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_retransmitted: Option<u64>,
    /// Bytes that the other end has acknowledged (RFC 4898, tcpEStatsAppHCThruOctetsAcked); SYN and FIN may count as one each.
    /// Linux 4.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_acked: Option<u64>,
    /// Bytes that came (RFC 4898, tcpEStatsAppHCThruOctetsReceived); the FIN may count as one. Linux 4.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
}

impl TcpSample {
    /// What was counted since an earlier look at the same connection. The times stay what they are now.
    pub fn since(&self, earlier: &Self) -> Self {
        let bytes = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then.unwrap_or_default()));
        let retransmits = self.retransmits.map(|now| now.saturating_sub(earlier.retransmits.unwrap_or_default()));
        Self {
            rtt_us: self.rtt_us,
            rtt_min_us: self.rtt_min_us,
            retransmits,
            bytes_retransmitted: bytes(self.bytes_retransmitted, earlier.bytes_retransmitted),
            bytes_acked: bytes(self.bytes_acked, earlier.bytes_acked),
            bytes_received: bytes(self.bytes_received, earlier.bytes_received),
        }
    }
}

/// What the end of a proxied connection has to say of one of its TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpReport {
    /// For the log: since this proxied connection began.
    pub sample: TcpSample,
    /// For the metrics: what no report has counted yet. It differs where a tunnel's streams share a TCP connection.
    pub uncounted: TcpSample,
}

impl TcpReport {
    /// Of a TCP connection that nobody shares.
    pub fn whole(sample: TcpSample) -> Self {
        Self { sample, uncounted: sample }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_since_and_times_as_they_are() {
        let then = TcpSample { rtt_us: Some(900), retransmits: Some(2), bytes_acked: Some(10), ..TcpSample::default() };
        let now = TcpSample { rtt_us: Some(80), retransmits: Some(5), bytes_acked: Some(15), ..TcpSample::default() };
        let since = now.since(&then);
        assert_eq!((since.rtt_us, since.retransmits, since.bytes_acked), (Some(80), Some(3), Some(5)));
        assert_eq!(since.bytes_received, None, "what the kernel does not say stays unsaid");
    }

    #[test]
    fn the_log_leaves_out_what_is_not_known() {
        let sample = TcpSample { rtt_us: Some(80), retransmits: Some(0), ..TcpSample::default() };
        let text = serde_json::to_string(&sample).expect("it can be written");
        assert_eq!(text, r#"{"rtt_us":80,"retransmits":0}"#);
    }
}

//! What the bench measures: names, units, goals, and the median of the rounds.

use std::collections::BTreeMap;

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Answers a second at [`crate::load::CONNECTIONS`] keep-alive connections.
    RequestsPerSecond,
    /// Median latency of one closed-loop connection.
    LatencyP50,
    /// 99th percentile of the same.
    LatencyP99,
    /// Requests a second, each on a connection of its own.
    ConnectionsPerSecond,
    /// Payload rate of [`crate::bulk::STREAMS`] streams.
    GbitPerSecond,
    /// Run time of both proxies for one request.
    CpuPerRequest,
    /// Run time of both proxies for one connection with one request.
    CpuPerConnection,
    /// Run time of both proxies for 10⁹ payload bytes.
    CpuPerGb,
    /// Resident memory of both proxies after start, before any load.
    RssIdle,
    /// Resident memory of both proxies after the last round.
    RssAfterLoad,
    /// Anonymous memory of the client's proxy for each idle connection.
    IdleConnectionClient,
    /// Anonymous memory of the server's proxy for each idle connection.
    IdleConnectionServer,
}

impl Measure {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 12] = [
        Self::RequestsPerSecond,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::ConnectionsPerSecond,
        Self::GbitPerSecond,
        Self::CpuPerRequest,
        Self::CpuPerConnection,
        Self::CpuPerGb,
        Self::RssIdle,
        Self::RssAfterLoad,
        Self::IdleConnectionClient,
        Self::IdleConnectionServer,
    ];

    /// The table's first column.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests/s, 64 connections",
            Self::LatencyP50 => "latency p50, 1 connection, us",
            Self::LatencyP99 => "latency p99, 1 connection, us",
            Self::ConnectionsPerSecond => "new connections/s",
            Self::GbitPerSecond => "Gbit/s, 2 streams",
            Self::CpuPerRequest => "proxy CPU us/request",
            Self::CpuPerConnection => "proxy CPU us/new connection",
            Self::CpuPerGb => "proxy CPU s/GB",
            Self::RssIdle => "RSS idle, both proxies, MB",
            Self::RssAfterLoad => "RSS after load, both proxies, MB",
            Self::IdleConnectionClient => "KB/idle connection, client side",
            Self::IdleConnectionServer => "KB/idle connection, server side",
        }
    }

    /// The name in the JSON file, with its unit.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests_per_second",
            Self::LatencyP50 => "latency_p50_us",
            Self::LatencyP99 => "latency_p99_us",
            Self::ConnectionsPerSecond => "connections_per_second",
            Self::GbitPerSecond => "gbit_per_second",
            Self::CpuPerRequest => "proxy_cpu_us_per_request",
            Self::CpuPerConnection => "proxy_cpu_us_per_connection",
            Self::CpuPerGb => "proxy_cpu_s_per_gb",
            Self::RssIdle => "rss_idle_mb",
            Self::RssAfterLoad => "rss_after_load_mb",
            Self::IdleConnectionClient => "idle_connection_client_kb",
            Self::IdleConnectionServer => "idle_connection_server_kb",
        }
    }

    /// Digits behind the point in the table.
    pub(crate) const fn decimals(self) -> usize {
        match self {
            Self::RequestsPerSecond | Self::ConnectionsPerSecond | Self::LatencyP50 | Self::LatencyP99 => 0,
            Self::CpuPerGb => 3,
            _ => 1,
        }
    }

    /// Largest ratio of Heddle to Envoy's `tcp_proxy` that meets the goal of this measure, if it has one.
    pub(crate) const fn goal(self) -> Option<f64> {
        match self {
            Self::CpuPerRequest => Some(0.6),
            Self::CpuPerConnection => Some(0.2),
            Self::CpuPerGb => Some(0.95),
            _ => None,
        }
    }
}

/// Every value of one subject, by measure; several where the measure was taken in several rounds.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<Measure, Vec<f64>>);

impl Figures {
    /// Adds one round's value.
    pub(crate) fn push(&mut self, measure: Measure, value: f64) {
        self.0.entry(measure).or_default().push(value);
    }

    /// Adds one round's value, if there is one.
    pub(crate) fn extend(&mut self, measure: Measure, value: Option<f64>) {
        if let Some(value) = value {
            self.push(measure, value);
        }
    }

    /// The rounds' values in the order in which they were taken; empty if the measure does not apply.
    pub(crate) fn rounds(&self, measure: Measure) -> &[f64] {
        self.0.get(&measure).map_or(&[], Vec::as_slice)
    }

    /// Middle of the rounds; the mean of the two middle ones when their number is even.
    pub(crate) fn median(&self, measure: Measure) -> Option<f64> {
        let mut sorted = self.rounds(measure).to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            count if count % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_the_order_of_the_rounds() {
        let mut figures = Figures::default();
        assert_eq!(figures.median(Measure::CpuPerGb), None);
        for value in [3.0, 1.0, 8.0] {
            figures.push(Measure::CpuPerGb, value);
        }
        assert_eq!(figures.median(Measure::CpuPerGb), Some(3.0));
        figures.push(Measure::CpuPerGb, 4.0);
        assert_eq!(figures.median(Measure::CpuPerGb), Some(3.5));
    }
}

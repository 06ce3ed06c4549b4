//! What the eBPF programs on the pod count: refusals, and what did not go through the proxy. Read from the kernel at each
//! scrape.
//!
//! Invariant: destinations are what applications dialled, and still the number of series is bounded, since the kernel tells at
//! most [`FLOWS_MAX`] of them apart. Without the programs there are no such metrics.

use heddle_init_abi::ebpf::{Counters, FLOWS_MAX, Flow, Reason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

/// What the programs have counted since they were loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardReading {
    /// Refusals, and what was not told apart any more.
    pub counters: Counters,
    /// What was told apart.
    pub flows: Vec<Flow>,
}

type Read = Box<dyn Fn() -> Option<GuardReading> + Send + Sync>;

/// How the programs are asked, when it is known; clones share it.
#[derive(Clone, Default)]
pub(super) struct Guard(Arc<OnceLock<Read>>);

impl Guard {
    /// Says how; only the first word counts.
    pub(super) fn watch(&self, read: impl Fn() -> Option<GuardReading> + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(read));
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.0.get().is_some()).finish()
    }
}

impl Collector for Guard {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        match self.0.get().and_then(|read| read()) {
            Some(reading) => encode(&mut encoder, &reading),
            None => Ok(()),
        }
    }
}

fn encode(encoder: &mut DescriptorEncoder<'_>, reading: &GuardReading) -> Result<(), fmt::Error> {
    let refusals = Reason::ALL.map(|reason| ([("reason", reason.name())], reading.counters.refused[reason as usize]));
    family(encoder, "heddle_capture_refused", "Attempts that the guard refused, by reason", refusals)?;
    let help = "Of those, the ones that a destination is known of";
    family(encoder, "heddle_capture_refused_flows", help, flows(reading, true))?;
    let help = "Connections, and datagrams of unconnected sockets, that went past the proxy; destination other: what came after \
                256 destinations, refused or not";
    let mut bypasses = flows(reading, false);
    if reading.counters.overflow > 0 {
        bypasses.insert(FlowLabels::other(), reading.counters.overflow);
    }
    family(encoder, "heddle_capture_bypass", help, bypasses)
}

fn family<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (L, u64)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    series.into_iter().try_for_each(|(labels, count)| ConstCounter::new(count).encode(metric.encode_family(&labels)?))
}

/// The destinations in order. The kernel may keep two records of one that several CPUs met first.
fn flows(reading: &GuardReading, refused: bool) -> BTreeMap<FlowLabels, u64> {
    let mut sums = BTreeMap::new();
    let used = reading.flows.iter().take(FLOWS_MAX).filter(|flow| flow.count > 0);
    for flow in used.filter(|flow| (flow.refused != 0) == refused) {
        *sums.entry(FlowLabels::of(flow)).or_default() += flow.count;
    }
    sums
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct FlowLabels {
    reason: &'static str,
    protocol: Cow<'static, str>,
    destination: Cow<'static, str>,
    port: Cow<'static, str>,
}

impl FlowLabels {
    fn of(flow: &Flow) -> Self {
        let destination = flow.destination();
        Self {
            // A reason that only newer programs know.
            reason: flow.why().map_or(OTHER, Reason::name),
            protocol: protocol(flow.protocol),
            destination: destination.ip().to_string().into(),
            port: destination.port().to_string().into(),
        }
    }

    fn other() -> Self {
        Self { reason: OTHER, protocol: OTHER.into(), destination: OTHER.into(), port: OTHER.into() }
    }
}

/// The name of an IP protocol, or its number.
fn protocol(number: u8) -> Cow<'static, str> {
    match i32::from(number) {
        libc::IPPROTO_TCP => "tcp".into(),
        libc::IPPROTO_UDP => "udp".into(),
        libc::IPPROTO_DCCP => "dccp".into(),
        libc::IPPROTO_SCTP => "sctp".into(),
        libc::IPPROTO_UDPLITE => "udplite".into(),
        _ => number.to_string().into(),
    }
}

/// Stands for what is not told apart.
const OTHER: &str = "other";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;
    use heddle_init_abi::ebpf::Endpoint;
    use std::net::SocketAddr;

    fn flow(destination: &str, protocol: i32, reason: Reason, refused: bool, count: u64) -> Flow {
        let address: SocketAddr = destination.parse().expect("a test's address");
        let Endpoint { address, port, .. } = address.into();
        let protocol = u8::try_from(protocol).expect("a protocol number");
        Flow { address, port, protocol, reason: reason as u8, refused: refused.into(), count }
    }

    fn scrape(read: impl Fn() -> Option<GuardReading> + Send + Sync + 'static) -> Vec<String> {
        let metrics = Metrics::new();
        metrics.watch_guard(read);
        let text = metrics.encode();
        text.lines().filter(|line| line.starts_with("heddle_capture_")).map(str::to_owned).collect()
    }

    #[test]
    fn refusals_and_bypasses_are_told_by_reason_and_destination() {
        let mut counters = Counters { flows: 5, overflow: 7, ..Counters::default() };
        counters.refused[Reason::Quic as usize] = 4;
        let flows = vec![
            flow("192.0.2.1:443", libc::IPPROTO_UDP, Reason::Quic, true, 4),
            flow("192.0.2.1:123", libc::IPPROTO_UDP, Reason::Udp, false, 2),
            flow("[2001:db8::1]:22", libc::IPPROTO_TCP, Reason::Excluded, false, 1),
            // Two CPUs met it at the same moment.
            flow("192.0.2.1:123", libc::IPPROTO_UDP, Reason::Udp, false, 3),
            Flow::default(),
        ];
        let lines = scrape(move || Some(GuardReading { counters, flows: flows.clone() }));
        for wanted in [
            r#"heddle_capture_refused_total{reason="quic"} 4"#,
            r#"heddle_capture_refused_total{reason="not_captured"} 0"#,
            r#"heddle_capture_refused_flows_total{reason="quic",protocol="udp",destination="192.0.2.1",port="443"} 4"#,
            r#"heddle_capture_bypass_total{reason="udp",protocol="udp",destination="192.0.2.1",port="123"} 5"#,
            r#"heddle_capture_bypass_total{reason="excluded",protocol="tcp",destination="2001:db8::1",port="22"} 1"#,
            r#"heddle_capture_bypass_total{reason="other",protocol="other",destination="other",port="other"} 7"#,
        ] {
            assert!(lines.iter().any(|line| line == wanted), "{wanted} is missing in\n{lines:#?}");
        }
        assert_eq!(lines.len(), Reason::ALL.len() + 4, "{lines:#?}");
    }

    #[test]
    fn without_the_programs_there_are_no_such_metrics() {
        assert_eq!(scrape(|| None), Vec::<String>::new());
        assert!(!Metrics::new().encode().contains("heddle_capture_"));
    }

    #[test]
    fn destinations_without_number_make_a_bounded_number_of_series() {
        let flows: Vec<Flow> = (0..FLOWS_MAX + 100)
            .map(|host| {
                let destination = format!("[2001:db8::{host:x}]:9");
                flow(&destination, libc::IPPROTO_UDP, Reason::Udp, false, 1)
            })
            .collect();
        let counters = Counters { overflow: 100, ..Counters::default() };
        let lines = scrape(move || Some(GuardReading { counters, flows: flows.clone() }));
        assert_eq!(lines.len(), Reason::ALL.len() + FLOWS_MAX + 1);
    }

    #[test]
    fn what_newer_programs_say_is_not_lost() {
        let newer = Flow { reason: 200, ..flow("192.0.2.1:9", 200, Reason::Udp, false, 1) };
        let lines = scrape(move || Some(GuardReading { counters: Counters::default(), flows: vec![newer] }));
        let wanted = r#"heddle_capture_bypass_total{reason="other",protocol="200",destination="192.0.2.1",port="9"} 1"#;
        assert!(lines.iter().any(|line| line == wanted), "{lines:#?}");
    }
}

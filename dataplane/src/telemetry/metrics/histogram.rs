//! A histogram of round-trip times that threads add to without a lock. (The library's own takes one.)

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// How many times fell into each bucket, and their sum. Clones share both.
#[derive(Debug, Clone, Default)]
pub(super) struct RttHistogram(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// One for each bound, and one for what is above the last.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl RttHistogram {
    /// Counts one time, in microseconds.
    pub(super) fn observe(&self, rtt_us: u32) {
        let bucket = BOUNDS_US.partition_point(|bound_us| *bound_us < rtt_us);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum_us.fetch_add(u64::from(rtt_us), Ordering::Relaxed);
    }
}

impl EncodeMetric for RttHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut buckets = [(f64::INFINITY, 0); BOUNDS_US.len() + 1];
        for (bucket, bound_us) in buckets.iter_mut().zip(BOUNDS_US) {
            bucket.0 = f64::from(bound_us) / 1e6;
        }
        for (bucket, count) in buckets.iter_mut().zip(&self.0.buckets) {
            bucket.1 = count.load(Ordering::Relaxed);
        }
        // Not counted apart, so that it always equals the last bucket, as OpenMetrics demands.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum_us = self.0.sum_us.load(Ordering::Relaxed);
        let sum = sum_us as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for RttHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

/// Upper bounds, in microseconds: from loopback to the other side of the world.
const BOUNDS_US: [u32; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text, registry::Registry};

    #[test]
    fn each_time_is_in_its_bucket_and_in_those_above() {
        let (histogram, mut registry) = (RttHistogram::default(), Registry::default());
        registry.register("rtt_seconds", "Help", histogram.clone());
        for rtt_us in [1, 50, 51, 1_000_000, 1_000_001] {
            histogram.observe(rtt_us);
        }
        let mut encoded = String::new();
        text::encode(&mut encoded, &registry).expect("writing into a String cannot fail");
        let lines: Vec<&str> = encoded.lines().collect();
        for wanted in [
            "# TYPE rtt_seconds histogram",
            "rtt_seconds_sum 2.000103",
            "rtt_seconds_count 5",
            "rtt_seconds_bucket{le=\"0.00005\"} 2",
            "rtt_seconds_bucket{le=\"0.0001\"} 3",
            "rtt_seconds_bucket{le=\"0.5\"} 3",
            "rtt_seconds_bucket{le=\"1.0\"} 4",
            "rtt_seconds_bucket{le=\"+Inf\"} 5",
        ] {
            assert!(lines.contains(&wanted), "{wanted} is missing in\n{encoded}");
        }
    }
}

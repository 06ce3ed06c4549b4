//! How the proxy takes connections: its workers, and the watch over capture.

use super::Checks;
use serde::Serialize;
use std::{num::NonZeroUsize, time::Duration};

/// What may be typed about taking connections.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Taking connections")]
pub struct ListenArgs {
    /// Threads that carry connections, each with its own listening sockets and pools; the control plane has one more of its
    /// own. A whole number from 1 to 256.
    #[arg(long, env = "HEDDLE_WORKERS", value_name = "COUNT", default_value = "1")]
    pub workers: String,
    /// Whether the proxy itself checks that the pod's connections still come to it, and turns not ready when they do not:
    /// `on` or `off`.
    #[arg(long, env = "HEDDLE_CAPTURE_PROBE", value_name = "on|off", default_value = "on")]
    pub capture_probe: String,
    /// Time between two checks of capture. From 100ms to 1h.
    #[arg(long, env = "HEDDLE_CAPTURE_PROBE_INTERVAL", value_name = "DURATION", default_value = "5s")]
    pub capture_probe_interval: String,
}

/// How connections are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Data threads (`--workers`).
    pub workers: NonZeroUsize,
    /// Time between two checks of capture (`--capture-probe-interval`); `None` with `--capture-probe off`.
    pub capture_probe: Option<Duration>,
}

impl Listen {
    pub(super) fn check(args: &ListenArgs, checks: &mut Checks) -> Option<Self> {
        let workers = checks.number("--workers", &args.workers, 1..=WORKERS_MAX);
        let probe = checks.choice("--capture-probe", &args.capture_probe, &[("on", true), ("off", false)]);
        let bounds = Duration::from_millis(100)..=Duration::from_secs(60 * 60);
        let interval = checks.duration("--capture-probe-interval", &args.capture_probe_interval, bounds)?;
        Some(Self { workers: NonZeroUsize::new(workers?)?, capture_probe: probe?.then_some(interval) })
    }
}

/// Most data threads: more than a sidecar's cores, few enough to start.
const WORKERS_MAX: usize = 256;

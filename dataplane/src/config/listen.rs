//! How the proxy takes connections: its workers, and the watch over capture.

use super::Checks;
use serde::Serialize;
use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

/// What may be typed about taking connections.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Taking connections")]
pub struct ListenArgs {
    /// Threads that carry connections, each with its own listening sockets and pools; the control plane has one more of its
    /// own. A whole number from 1 to 256.
    #[arg(long, env = "HEDDLE_WORKERS", value_name = "COUNT", default_value = "1")]
    pub workers: String,
    /// How the pod's connections come to the proxy: `tproxy`, as uid 0 with CAP_NET_RAW and nothing else, or `ebpf`, without any
    /// capability. heddle-init must have been told the same.
    #[arg(long, env = "HEDDLE_MODE", value_name = "tproxy|ebpf", default_value = "tproxy")]
    pub mode: String,
    /// File of 32 secret bytes by which a restarted container proves to the eBPF programs that it is the same proxy; made when it
    /// is not there. Keep it in a volume that only the proxy's container mounts. [default: none; then a restarted container is
    /// refused while heddle-init's programs are the same]
    #[arg(long, env = "HEDDLE_CAPTURE_KEY", value_name = "FILE")]
    pub capture_key: Option<PathBuf>,
    /// Whether the proxy itself checks that the pod's connections still come to it, and turns not ready when they do not:
    /// `on` or `off`.
    #[arg(long, env = "HEDDLE_CAPTURE_PROBE", value_name = "on|off", default_value = "on")]
    pub capture_probe: String,
    /// Time between two checks of capture. Lost capture is noticed after this and the 1.5s that a check waits for its connection,
    /// at the latest. From 100ms to 1h.
    #[arg(long, env = "HEDDLE_CAPTURE_PROBE_INTERVAL", value_name = "DURATION", default_value = "3s")]
    pub capture_probe_interval: String,
}

/// How connections are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Data threads (`--workers`).
    pub workers: NonZeroUsize,
    /// How connections come (`--mode`).
    pub mode: Mode,
    /// The key's file (`--capture-key`).
    pub capture_key: Option<PathBuf>,
    /// Time between two checks of capture (`--capture-probe-interval`); `None` with `--capture-probe off`.
    pub capture_probe: Option<Duration>,
}

/// How the pod's connections come to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By nftables TPROXY, with their addresses as they are.
    Tproxy,
    /// By eBPF programs, which know the addresses.
    Ebpf,
}

impl Listen {
    pub(super) fn check(args: &ListenArgs, checks: &mut Checks) -> Option<Self> {
        let workers = checks.number("--workers", &args.workers, 1..=WORKERS_MAX);
        let mode = checks.choice("--mode", &args.mode, &[("tproxy", Mode::Tproxy), ("ebpf", Mode::Ebpf)]);
        let probe = checks.choice("--capture-probe", &args.capture_probe, &[("on", true), ("off", false)]);
        let bounds = Duration::from_millis(100)..=Duration::from_secs(60 * 60);
        let interval = checks.duration("--capture-probe-interval", &args.capture_probe_interval, bounds)?;
        Some(Self {
            workers: NonZeroUsize::new(workers?)?,
            mode: mode?,
            capture_key: args.capture_key.clone(),
            capture_probe: probe?.then_some(interval),
        })
    }
}

/// Most data threads: more than a sidecar's cores, few enough to start.
const WORKERS_MAX: usize = 256;

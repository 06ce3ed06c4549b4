//! What is counted, and its OpenMetrics text.
//!
//! Invariant: every label value comes from a closed list, so the number of series is fixed at start. The handles that the
//! data path uses are made then, too; counting is one relaxed atomic addition, without a look-up and without a lock.

mod guard;
mod histogram;
mod process;
mod tcp;

pub use guard::GuardReading;

use super::{
    Direction,
    tcp::{TcpSample, TcpSide},
};
use crate::error::Flag;
use guard::Guard;
use process::Process;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::{ConstGauge, Gauge},
    },
    registry::{Metric, Registry},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tcp::{PerTcpSide, Tcp};

/// Everything that the proxy counts. One a process, shared by all threads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    directions: [PerDirection; Direction::ALL.len()],
    accept_overloaded: Counter,
    accept_failed: Counter,
    access_log_dropped: Counter,
    dry_run_denials: Counter,
    panics: Counter,
    certificate_expiry: Gauge,
    renewals_ok: Counter,
    renewals_failed: Counter,
    controller: Arc<Controller>,
    guard: Guard,
}

/// The handles of one direction.
#[derive(Debug)]
struct PerDirection {
    opened: Counter,
    active: Gauge,
    captured: Counter,
    closed: [Counter; Flag::ALL.len()],
    sent: Counter,
    received: Counter,
    carriers: Gauge,
    handshakes_ok: Counter,
    handshakes_failed: Counter,
    tcp: [PerTcpSide; TcpSide::ALL.len()],
}

/// Counts as an open tunnel connection until it is dropped.
#[derive(Debug)]
pub struct OpenCarrier {
    metrics: Arc<Metrics>,
    direction: Direction,
}

impl Drop for OpenCarrier {
    fn drop(&mut self) {
        self.metrics.of(self.direction).carriers.dec();
    }
}

/// What went wrong with accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptTrouble {
    /// The proxy served as many connections as it may, and refused another one.
    Overloaded,
    /// The kernel gave no connection: no file descriptor was left, say.
    Failed,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::default();
        let connections = Connections::register(&mut registry);
        let carriers = Carriers::register(&mut registry);
        let tcp = Tcp::register(&mut registry);
        let accept = family::<1, Counter>(
            &mut registry,
            "heddle_accept_errors",
            "Connections that were not taken, by kind: overloaded (more than --connections-max), failed (the kernel gave none)",
        );
        let renewals = family::<1, Counter>(
            &mut registry,
            "heddle_certificate_renewals",
            "Certificates asked for, by result: ok, failed",
        );
        let controller = Arc::new(Controller::new());
        registry.register_collector(Box::new(controller.clone()));
        registry.register_collector(Box::new(Process::new()));
        let guard = Guard::default();
        registry.register_collector(Box::new(guard.clone()));
        Arc::new(Self {
            directions: Direction::ALL.map(|direction| PerDirection::new(direction, &connections, &carriers, &tcp)),
            accept_overloaded: accept.get_or_create_owned(&[("kind", "overloaded")]),
            accept_failed: accept.get_or_create_owned(&[("kind", "failed")]),
            access_log_dropped: single(
                &mut registry,
                "heddle_access_log_dropped",
                "Access-log lines lost because standard output was not read fast enough",
            ),
            dry_run_denials: single(
                &mut registry,
                "heddle_policy_denials_dry_run",
                "Connections that a dry-run policy would have denied, one for each such policy",
            ),
            panics: single(&mut registry, "heddle_panics", "Panics; each ended one task"),
            certificate_expiry: single(
                &mut registry,
                "heddle_certificate_expiry_timestamp_seconds",
                "When the certificate in use ends, in seconds since 1970; 0 without a certificate",
            ),
            renewals_ok: renewals.get_or_create_owned(&[("result", "ok")]),
            renewals_failed: renewals.get_or_create_owned(&[("result", "failed")]),
            controller,
            guard,
            registry,
        })
    }

    /// A connection began.
    pub fn opened(&self, direction: Direction) {
        let counters = self.of(direction);
        counters.opened.inc();
        counters.active.inc();
    }

    /// A connection ended, with the bytes it carried from downstream to upstream (`sent`) and back (`received`).
    pub fn closed(&self, direction: Direction, flag: Flag, sent: u64, received: u64) {
        let counters = self.of(direction);
        counters.active.dec();
        counters.closed[flag as usize].inc();
        counters.sent.inc_by(sent);
        counters.received.inc_by(received);
    }

    /// A connection ended, and this is what the kernel said of its TCP connection on one side and nobody has counted yet.
    pub fn tcp(&self, direction: Direction, side: TcpSide, sample: &TcpSample) {
        self.of(direction).tcp[side as usize].add(sample);
    }

    /// A connection came by capture, not by a tunnel.
    pub fn captured(&self, direction: Direction) {
        self.of(direction).captured.inc();
    }

    /// A tunnel connection to (outbound) or from (inbound) another proxy is open, as long as what this gives lives.
    pub fn carrier(self: &Arc<Self>, direction: Direction) -> OpenCarrier {
        self.of(direction).carriers.inc();
        OpenCarrier { metrics: self.clone(), direction }
    }

    /// A TLS handshake with another proxy succeeded or failed.
    pub fn handshake(&self, direction: Direction, succeeded: bool) {
        let counters = self.of(direction);
        if succeeded {
            counters.handshakes_ok.inc()
        } else {
            counters.handshakes_failed.inc()
        };
    }

    /// A connection was not taken.
    pub fn accept_trouble(&self, trouble: AcceptTrouble) {
        match trouble {
            AcceptTrouble::Overloaded => self.accept_overloaded.inc(),
            AcceptTrouble::Failed => self.accept_failed.inc(),
        };
    }

    /// An access-log line was lost.
    pub fn access_log_dropped(&self) {
        self.access_log_dropped.inc();
    }

    /// So many dry-run policies would have denied a connection.
    pub fn dry_run_denied(&self, policies: usize) {
        self.dry_run_denials.inc_by(policies as u64);
    }

    /// A task panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// The end of the certificate in use; `None` without one.
    pub fn certificate_expiry(&self, not_after: Option<SystemTime>) {
        let since_1970 = not_after.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        self.certificate_expiry.set(since_1970.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)));
    }

    /// A certificate was asked for, and came or did not.
    pub fn certificate_renewed(&self, succeeded: bool) {
        if succeeded {
            self.renewals_ok.inc()
        } else {
            self.renewals_failed.inc()
        };
    }

    /// The stream with the controller is up, or is not.
    pub fn controller_connected(&self, connected: bool) {
        let mut state = self.controller.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.connected != connected {
            *state = ControllerState { connected, since: Instant::now() };
        }
    }

    /// From now on `read` is asked at each scrape what the eBPF programs count; it gives `None` while there are none. It must
    /// not block. The first call decides.
    pub fn watch_guard(&self, read: impl Fn() -> Option<GuardReading> + Send + Sync + 'static) {
        self.guard.watch(read);
    }

    /// The configuration in use is of this revision.
    pub fn config_revision(&self, revision: u64) {
        self.controller.revision.store(revision, Ordering::Relaxed);
    }

    /// The text that a scrape gets (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing into a String cannot fail, and no metric of ours does");
        text
    }

    fn of(&self, direction: Direction) -> &PerDirection {
        &self.directions[direction as usize]
    }
}

/// What a scraper is told that the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl PerDirection {
    fn new(direction: Direction, connections: &Connections, carriers: &Carriers, tcp: &Tcp) -> Self {
        let label = ("direction", direction.as_str());
        let with = |name, value| [label, (name, value)];
        Self {
            opened: connections.opened.get_or_create_owned(&[label]),
            active: connections.active.get_or_create_owned(&[label]),
            captured: connections.captured.get_or_create_owned(&[label]),
            closed: Flag::ALL.map(|flag| connections.closed.get_or_create_owned(&with("reason", flag.code()))),
            sent: connections.bytes.get_or_create_owned(&with("way", "sent")),
            received: connections.bytes.get_or_create_owned(&with("way", "received")),
            carriers: carriers.open.get_or_create_owned(&[label]),
            handshakes_ok: carriers.handshakes.get_or_create_owned(&with("result", "ok")),
            handshakes_failed: carriers.handshakes.get_or_create_owned(&with("result", "failed")),
            tcp: TcpSide::ALL.map(|side| PerTcpSide::new(&with("side", side.as_str()), tcp)),
        }
    }
}

/// The families about single connections.
struct Connections {
    opened: Labelled<1, Counter>,
    active: Labelled<1, Gauge>,
    captured: Labelled<1, Counter>,
    closed: Labelled<2, Counter>,
    bytes: Labelled<2, Counter>,
}

impl Connections {
    fn register(registry: &mut Registry) -> Self {
        Self {
            opened: family(registry, "heddle_connections_opened", "Connections that began"),
            active: family(registry, "heddle_connections_active", "Connections that are open"),
            captured: family(
                registry,
                "heddle_captured_connections",
                "Connections that came by capture: outbound all, inbound those in plaintext",
            ),
            closed: family(
                registry,
                "heddle_connections_closed",
                "Connections that ended, by the reason that the access log shows, too",
            ),
            bytes: family(
                registry,
                "heddle_bytes",
                "Bytes of payload of the connections that ended: sent from the client on, received for the client",
            ),
        }
    }
}

/// The families about connections between proxies.
struct Carriers {
    open: Labelled<1, Gauge>,
    handshakes: Labelled<2, Counter>,
}

impl Carriers {
    fn register(registry: &mut Registry) -> Self {
        Self {
            open: family(
                registry,
                "heddle_hbone_connections_active",
                "Tunnel connections with other proxies that are open",
            ),
            handshakes: family(
                registry,
                "heddle_hbone_handshakes",
                "TLS handshakes with other proxies, by result: ok, failed",
            ),
        }
    }
}

/// A metric with labels that are all known at compile time.
type Labelled<const LABELS: usize, M> = Family<[(&'static str, &'static str); LABELS], M>;

fn family<const LABELS: usize, M>(registry: &mut Registry, name: &str, help: &str) -> Labelled<LABELS, M>
where
    M: Default + Clone,
    fn() -> M: MetricConstructor<M>,
    Labelled<LABELS, M>: Metric + Default,
{
    single(registry, name, help)
}

fn single<M: Metric + Default + Clone>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// What is known of the controller; its age is worked out at the scrape.
#[derive(Debug)]
struct Controller {
    /// Touched when the stream goes up or down, and at a scrape: never by the data path.
    state: Mutex<ControllerState>,
    revision: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct ControllerState {
    connected: bool,
    since: Instant,
}

impl Controller {
    fn new() -> Self {
        let state = ControllerState { connected: false, since: Instant::now() };
        Self { state: Mutex::new(state), revision: AtomicU64::new(0) }
    }
}

impl Collector for Controller {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ControllerState { connected, since } = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let age = if connected { 0.0 } else { since.elapsed().as_secs_f64() };
        gauge(
            &mut encoder,
            "heddle_controller_connected",
            "1 while the configuration stream with the controller is up",
            u64::from(connected),
        )?;
        gauge(
            &mut encoder,
            "heddle_config_age_seconds",
            "How long the configuration may have been out of date: time since the stream was lost, 0 while it is up",
            age,
        )?;
        let revision = self.revision.load(Ordering::Relaxed);
        gauge(
            &mut encoder,
            "heddle_config_revision",
            "Revision of the configuration in use; grows with each change",
            revision,
        )
    }
}

fn gauge<N>(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: N) -> Result<(), std::fmt::Error>
where
    ConstGauge<N>: EncodeMetric,
{
    let value = ConstGauge::new(value);
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

#[cfg(test)]
mod tests;

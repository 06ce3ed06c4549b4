//! Builds every part in order, owns the tasks, and shuts them down in reverse.
//!
//! One thread, the caller's, is the control plane: discovery, certificates, admin, signals. Each worker is a thread of its
//! own; what they share are snapshots, counters and the drain.

mod worker;

use crate::{
    admin::{self, Readiness},
    capture::{Capture, CaptureError, Role, ebpf, key, probe::Probes},
    config::{Config, listen::Mode, telemetry::AccessLogFormat},
    drain::Drain,
    identity::{self, Svid},
    listener::ConnectionLimit,
    socket::SocketOptions,
    telemetry::{
        access_log::{AccessLog, Sink},
        log,
        metrics::{GuardReading, Metrics},
    },
};
use anyhow::Context;
use heddle_controller_client::{CertificateClient, Snapshots};
use std::{net::TcpListener, sync::Arc, thread::JoinHandle, time::Duration};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// Everything that workers share with each other and with the control thread.
#[derive(Debug, Clone)]
struct Shared {
    config: Arc<Config>,
    capture: Capture,
    snapshots: Snapshots,
    svids: watch::Receiver<Option<Arc<Svid>>>,
    probes: Probes,
    limit: ConnectionLimit,
    sink: Sink,
    drain: Drain,
    /// Workers that know which workload they serve.
    serving: watch::Sender<usize>,
}

/// The listeners of one worker, one a family where the kernel has both.
#[derive(Debug, Default)]
struct Listeners {
    outbound: Vec<TcpListener>,
    inbound: Vec<TcpListener>,
    hbone: Vec<TcpListener>,
}

/// Runs the proxy until SIGTERM or SIGINT, then drains it.
///
/// # Errors
/// What could not be set up: a listener, a thread, an option that does not fit this pod.
pub fn run(config: Config) -> anyhow::Result<()> {
    let log_level = log::start(&config.telemetry.log_filter);
    let control = Builder::new_current_thread().enable_all().build().context("cannot start the control runtime")?;
    let config = Arc::new(config);
    let metrics = Metrics::new();
    metrics.watch_guard(guard_reading);
    count_panics(&metrics);

    let (access_log, access_log_thread) = match config.telemetry.access_log {
        AccessLogFormat::Json => {
            let (log, thread) = AccessLog::start().context("cannot start the access log's thread")?;
            (Some(log), Some(thread))
        }
        AccessLogFormat::Off => (None, None),
    };

    let result = control.block_on(serve(config, metrics, access_log, log_level));
    drop(control);
    if let Some(thread) = access_log_thread {
        // Every sender is gone by now, so that the thread ends when its queue is written.
        let _ = thread.join();
    }
    result
}

async fn serve(
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    access_log: Option<AccessLog>,
    log_level: log::LogLevel,
) -> anyhow::Result<()> {
    let (snapshots, client) = heddle_controller_client::connect(config.controller_settings());
    let (svid_sender, svids) = watch::channel(None);
    let readiness = Readiness::default();
    let options =
        SocketOptions { keepalive: config.limits.tcp_keepalive, user_timeout: config.limits.tcp_user_timeout };
    let shared = Shared {
        capture: capture(&config, options)?,
        snapshots: snapshots.clone(),
        svids: svids.clone(),
        probes: Probes::default(),
        limit: ConnectionLimit::new(config.limits.connections_max),
        sink: Sink { metrics: metrics.clone(), log: access_log },
        drain: Drain::default(),
        serving: watch::Sender::default(),
        config: config.clone(),
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let workers = start_workers(&shared)?;

    let admin = admin::Admin {
        config: config.clone(),
        snapshots: snapshots.clone(),
        svids,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        log_level,
    };
    let listening = admin.listen().context("cannot listen for the admin, metrics and readiness ports")?;
    let identity = identity::controller::Source::new(
        config.identity.spiffe_id.clone(),
        config.identity.certificate_ttl,
        CertificateClient::new(&config.controller_settings()),
        svid_sender,
        metrics,
        readiness.clone(),
    );
    let mut control = JoinSet::new();
    control.spawn(async move { match client.run().await {} });
    control.spawn(identity.run());
    control.spawn(listening.run());
    let serving = (shared.serving.subscribe(), config.listen.workers.get());
    control.spawn(watch_config(snapshots, serving, readiness.clone()));
    let probe = (shared.probes.clone(), shared.capture.clone());
    control.spawn(watch_capture(probe, config.listen.capture_probe, readiness.clone()));

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
    }
    readiness.draining();
    drain(&shared, workers).await;
    control.shutdown().await;
    Ok(())
}

/// Claims the pod before any connection is made, where the kernel must know who the proxy is.
fn capture(config: &Config, options: SocketOptions) -> Result<Capture, CaptureError> {
    let key = key::load_or_make(config.listen.capture_key.as_deref())?;
    match config.listen.mode {
        Mode::Tproxy => {
            match ebpf::claim(&key) {
                Ok(()) => tracing::info!("the guard's eBPF programs are in place"),
                Err(CaptureError::NoPrograms) => {}
                Err(error) => tracing::warn!(%error, "what the guard refused is not counted here"),
            }
            Ok(Capture::tproxy(options))
        }
        Mode::Ebpf => Ok(Capture::ebpf(options, ebpf::Pod::claim(key, config.identity.pod_ips.clone())?)),
    }
}

/// Two stages: first nothing new comes in and what is open may finish, then the rest is cut.
async fn drain(shared: &Shared, workers: Vec<JoinHandle<()>>) {
    shared.drain.start();
    shared.capture.release();
    let finished = async {
        let mut look = interval(DRAIN_LOOK);
        while shared.limit.open() > 0 {
            look.tick().await;
        }
    };
    let begun = Instant::now();
    match timeout(shared.config.limits.drain_timeout, finished).await {
        Ok(()) => tracing::info!(after = ?begun.elapsed(), "drained: every connection has finished"),
        Err(_) => tracing::warn!(open = shared.limit.open(), "drain timeout: the remaining connections are cut"),
    }
    shared.drain.cut();
    for worker in workers {
        if worker.join().is_err() {
            tracing::error!("a worker ended by a panic");
        }
    }
}

fn start_workers(shared: &Shared) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let count = shared.config.listen.workers.get();
    let listeners = (0..count).map(|_| Listeners::open(&shared.capture)).collect::<Result<Vec<_>, _>>()?;
    let start = |(number, listeners)| {
        let shared = Shared { drain: shared.drain.child(), ..shared.clone() };
        let thread = std::thread::Builder::new().name(format!("worker-{number}"));
        thread.spawn(move || worker::run(shared, listeners)).context("cannot start a worker's thread")
    };
    listeners.into_iter().enumerate().map(start).collect()
}

impl Listeners {
    fn open(capture: &Capture) -> Result<Self, CaptureError> {
        let mut listeners = Self::default();
        for (role, of_role) in [
            (Role::Outbound, &mut listeners.outbound),
            (Role::Inbound, &mut listeners.inbound),
            (Role::Hbone, &mut listeners.hbone),
        ] {
            of_role.push(capture.listen(role, false)?);
            match capture.listen(role, true) {
                Ok(listener) => of_role.push(listener),
                Err(error) if error.no_ipv6() => tracing::info!(?role, "the kernel has no IPv6: IPv4 only"),
                Err(error) => return Err(error),
            }
        }
        Ok(listeners)
    }
}

/// Keeps the readiness condition "config": it holds when all `workers` go by what the controller said.
async fn watch_config(
    mut snapshots: Snapshots,
    (mut serving, workers): (watch::Receiver<usize>, usize),
    readiness: Readiness,
) {
    loop {
        let taken = *serving.borrow_and_update();
        let verdict = match snapshots.ready() {
            Ok(()) if taken < workers => Err(format!("{taken} of {workers} workers have the configuration")),
            verdict => verdict.map_err(|reason| reason.to_string()),
        };
        readiness.config(verdict);
        tokio::select! {
            () = snapshots.changed() => {}
            // The sender is ours and outlives this task.
            _ = serving.changed() => {}
        }
    }
}

/// Keeps the readiness condition "capture".
async fn watch_capture((probes, capture): (Probes, Capture), every: Option<Duration>, readiness: Readiness) {
    let Some(every) = every else {
        readiness.capture(Ok(()));
        return;
    };
    let mut look = interval(every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        look.tick().await;
        let verdict = probes.verify(&capture).await.map_err(|error| error.to_string());
        if before.as_ref() != Some(&verdict) {
            match &verdict {
                Ok(()) => tracing::info!("outbound capture works"),
                Err(reason) => tracing::error!("{reason}"),
            }
            before = Some(verdict.clone());
        }
        readiness.capture(verdict);
    }
}

/// What the eBPF programs on the pod have counted; none where there are none, or they do not know this process.
fn guard_reading() -> Option<GuardReading> {
    Some(GuardReading { counters: ebpf::counters()?, flows: ebpf::flows() })
}

/// A panic ends one connection's task only; it must still be seen.
fn count_panics(metrics: &Arc<Metrics>) {
    let metrics = metrics.clone();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        metrics.panicked();
        print(info);
    }));
}

/// How often the drain looks whether connections are left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

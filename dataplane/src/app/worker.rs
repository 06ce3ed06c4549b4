//! One worker: a thread with a runtime, listeners, pools and a view of the mesh of its own.

use super::{Listeners, Shared};
use crate::{
    authorize::Admissions,
    capture::{Capture, Role},
    connect::Connector,
    error::{ConnectionError, Flag},
    hbone::{
        Keepalive,
        client::{Dial, Pool, PoolLimits},
        server::ServerLimits,
    },
    inbound::{self, Inbound, PORTS_FIRST, tunnel},
    listener::{self, Accepted, Trouble},
    outbound::{self, Outbound},
    relay::RelayLimits,
    socket,
    telemetry::{
        Direction,
        access_log::{Entry, Sink},
        metrics::AcceptTrouble,
    },
    view::View,
};
use std::{
    cell::{Cell, RefCell},
    io,
    net::TcpListener,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener as AsyncListener,
    runtime::{Builder, LocalOptions},
    task::spawn_local,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Everything that one worker owns.
struct Worker {
    shared: Shared,
    view: Rc<View>,
    admissions: Rc<Admissions>,
    outbound: Rc<Outbound>,
    inbound: Rc<Inbound>,
    tunnels: Rc<tunnel::Server>,
    connections: TaskTracker,
}

/// Runs a worker on this thread until the drain is over.
pub(super) fn run(shared: Shared, listeners: Listeners) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker cannot start its runtime");
            return;
        }
    };
    runtime.block_on(async move {
        let worker = Rc::new(Worker::new(shared));
        if let Err(error) = worker.listen(listeners) {
            tracing::error!(%error, "a worker cannot use its listeners");
            return;
        }
        spawn_local(worker.clone().follow());
        spawn_local(worker.clone().reopen());
        worker.shared.drain.now().await;
        let cut = worker.admissions.cut();
        tracing::debug!(cut, "connections were cut");
        worker.connections.close();
        // What was cut only has to write its log line; a task that hangs must not hold the process.
        let _ = tokio::time::timeout(CUT_TIMEOUT, worker.connections.wait()).await;
    });
}

impl Worker {
    fn new(shared: Shared) -> Self {
        let limits = &shared.config.limits;
        let view = Rc::<View>::default();
        let admissions = Rc::<Admissions>::default();
        let relay = RelayLimits { idle_timeout: limits.idle_timeout, ..RelayLimits::default() };
        let keepalive = Keepalive::default();
        let pool_limits = PoolLimits {
            streams_max: limits.hbone_streams_max,
            idle_timeout: limits.hbone_idle_timeout,
            keepalive,
            ..PoolLimits::default()
        };
        let pool = Pool::new(shared.svids.clone(), pool_limits, dial_from(shared.capture.clone()))
            .counted(shared.sink.metrics.clone());
        let outbound = Outbound {
            capture: shared.capture.clone(),
            view: view.clone(),
            snapshots: shared.snapshots.clone(),
            discovery_timeout: limits.discovery_timeout,
            upstreams: Rc::default(),
            connector: Connector::new(shared.capture.clone(), pool, limits.connect_timeout),
            admissions: admissions.clone(),
            probes: shared.probes.clone(),
            relay: relay.clone(),
        };
        let inbound = Inbound {
            capture: shared.capture.clone(),
            view: view.clone(),
            admissions: admissions.clone(),
            connect_timeout: limits.connect_timeout,
            relay,
            next_port: Cell::new(fastrand::u16(PORTS_FIRST..2 * PORTS_FIRST)),
        };
        let inbound = Rc::new(inbound);
        let tunnels = tunnel::Server {
            inbound: inbound.clone(),
            svids: shared.svids.clone(),
            trust_domain: shared.config.identity.spiffe_id.trust_domain().clone(),
            limits: ServerLimits { streams_max: limits.hbone_streams_max, keepalive, ..ServerLimits::default() },
            sink: shared.sink.clone(),
            drain: shared.drain.clone(),
            tls: RefCell::default(),
        };
        Self {
            view,
            admissions,
            outbound: Rc::new(outbound),
            inbound,
            tunnels: Rc::new(tunnels),
            shared,
            connections: TaskTracker::new(),
        }
    }

    /// Starts the accept loops. Inbound ones stop when the drain starts; outbound ones go on to its end, since the
    /// application still works while it is being drained.
    fn listen(self: &Rc<Self>, listeners: Listeners) -> io::Result<()> {
        let soon = self.shared.drain.soon_token();
        let now = self.shared.drain.now_token();
        for listener in listeners.outbound {
            self.accept(listener, Direction::Outbound, now, Self::serve_outbound)?;
        }
        for listener in listeners.inbound {
            self.accept(listener, Direction::Inbound, soon, Self::serve_inbound)?;
        }
        for listener in listeners.hbone {
            self.accept(listener, Direction::Inbound, soon, Self::serve_hbone)?;
        }
        Ok(())
    }

    /// Opens inbound listeners beside those that the eBPF programs have forgotten, until the drain starts.
    async fn reopen(self: Rc<Self>) {
        let Some(mut forgotten) = self.shared.capture.forgotten() else { return };
        let soon = self.shared.drain.soon_token();
        while soon.run_until_cancelled(forgotten.changed()).await.is_some_and(|changed| changed.is_ok()) {
            for ipv6 in [false, true] {
                let opened = match self.shared.capture.listen(Role::Inbound, ipv6) {
                    Err(error) if error.no_ipv6() => continue,
                    opened => opened.map_err(io::Error::other),
                };
                let accepting =
                    opened.and_then(|listener| self.accept(listener, Direction::Inbound, soon, Self::serve_inbound));
                if let Err(error) = accepting {
                    tracing::error!(%error, "a worker cannot open its inbound listener again");
                }
            }
        }
    }

    fn accept(
        self: &Rc<Self>,
        listener: TcpListener,
        direction: Direction,
        stop: &CancellationToken,
        serve: fn(&Rc<Self>, Accepted),
    ) -> io::Result<()> {
        let listener = AsyncListener::from_std(listener)?;
        let (worker, sink) = (self.clone(), self.shared.sink.clone());
        spawn_local(listener::run(
            listener,
            self.shared.limit.clone(),
            stop.clone(),
            move |accepted| serve(&worker, accepted),
            move |trouble| report(&sink, direction, &trouble),
        ));
        Ok(())
    }

    fn serve_outbound(self: &Rc<Self>, mut accepted: Accepted) {
        self.shared.capture.restore_outbound(&mut accepted);
        if self.shared.probes.arrived(accepted.peer, accepted.local) {
            return;
        }
        let (cx, sink) = (self.outbound.clone(), self.shared.sink.clone());
        sink.metrics.captured(Direction::Outbound);
        self.connections.spawn_local(async move {
            let mut log = Entry::new(&sink, Direction::Outbound, accepted.peer, accepted.local, accepted.at);
            let result = outbound::serve(&cx, &mut accepted, &mut log).await;
            finish(accepted, result.err(), &mut log);
        });
    }

    fn serve_inbound(self: &Rc<Self>, mut accepted: Accepted) {
        let (cx, sink) = (self.inbound.clone(), self.shared.sink.clone());
        sink.metrics.captured(Direction::Inbound);
        self.connections.spawn_local(async move {
            let mut log = Entry::new(&sink, Direction::Inbound, accepted.peer, accepted.local, accepted.at);
            let result = inbound::serve(&cx, &mut accepted, &mut log).await;
            finish(accepted, result.err(), &mut log);
        });
    }

    fn serve_hbone(self: &Rc<Self>, accepted: Accepted) {
        self.connections.spawn_local(tunnel::serve(self.tunnels.clone(), accepted));
    }

    /// Follows the mesh: takes every new snapshot, and looks at what was admitted when policies changed.
    async fn follow(self: Rc<Self>) {
        let mut snapshots = self.shared.snapshots.clone();
        let mut serves = false;
        loop {
            let mesh = snapshots.current();
            let workload = snapshots.own_workload();
            let changed = self.view.update(mesh.clone(), workload.clone());
            if workload.is_some() && !std::mem::replace(&mut serves, true) {
                self.shared.serving.send_modify(|workers| *workers += 1);
            }
            if let (true, Some(workload)) = (changed, workload) {
                let ended = self.admissions.recheck(&mesh, &workload);
                if ended > 0 {
                    tracing::info!(ended, revision = mesh.policy_revision, "a policy change ended connections");
                }
            }
            snapshots.changed().await;
        }
    }
}

/// Tunnel connections are made by sockets of the proxy's own.
fn dial_from(capture: Capture) -> Dial {
    Dial::new(move |address| {
        let socket = capture.socket(address.ip());
        async move { socket.map_err(io::Error::other)?.connect(address).await }
    })
}

/// Tells how a connection ended, and resets what was not taken from it.
fn finish(accepted: Accepted, error: Option<ConnectionError>, log: &mut Entry) {
    if let Some(error) = error {
        log.end(error.flag(), &error);
    }
    if let Some(stream) = accepted.stream {
        socket::reset(stream);
    }
}

fn report(sink: &Sink, direction: Direction, trouble: &Trouble) {
    match trouble {
        Trouble::Overloaded(peer) => {
            let mut log = Entry::new(sink, direction, *peer, *peer, Instant::now());
            log.flag = Flag::Overloaded;
            sink.metrics.accept_trouble(AcceptTrouble::Overloaded);
        }
        Trouble::Accept(error) => {
            tracing::warn!(%error, "accept failed");
            sink.metrics.accept_trouble(AcceptTrouble::Failed);
        }
    }
}

/// Longest wait for cut connections to write their log lines.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

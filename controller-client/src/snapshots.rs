//! What everybody holds: the newest mesh, and what is known about its source.

use crate::{
    asks::{self, Asks},
    error::{DiscoverError, NotReady},
    settings::Node,
};
use heddle_mesh::{Coverage, Mesh, workload::Workload};
use std::{
    future,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The newest mesh. Clones see the same meshes, and each notices changes by itself.
#[derive(Debug, Clone)]
pub struct Snapshots {
    published: watch::Receiver<Published>,
    shared: Arc<Shared>,
}

impl Snapshots {
    /// The newest mesh. A connection takes it once and decides everything on it.
    pub fn current(&self) -> Arc<Mesh> {
        self.published.borrow().mesh.clone()
    }

    /// Resolves when a mesh was published that this clone has not been told of; never when the source is gone.
    /// Cancel safe.
    pub async fn changed(&mut self) {
        if self.published.changed().await.is_err() {
            future::pending::<()>().await;
        }
    }

    /// The workload of this pod in the newest mesh: the one with its address in its network, and with its name where the
    /// controller gives names, so that a reused address is not taken for it.
    pub fn own_workload(&self) -> Option<Arc<Workload>> {
        self.published.borrow().own.clone()
    }

    /// Whether the mesh is complete enough to serve: everything was received once, and this pod is known. A controller that
    /// goes away later does not change it.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), NotReady> {
        let mut readiness = self.published.borrow().readiness.clone();
        if let Err(NotReady::Unsynced { last_error, .. } | NotReady::OwnWorkloadUnknown { last_error, .. }) =
            &mut readiness
        {
            last_error.clone_from(&self.shared.lock().last_error);
        }
        readiness
    }

    /// Resolves when [`ready`](Self::ready) says so; never when the source is gone before. Cancel safe.
    pub async fn wait_ready(&self) {
        let mut published = self.published.clone();
        if published.wait_for(|published| published.readiness.is_ok()).await.is_err() {
            future::pending::<()>().await;
        }
    }

    /// Asks the controller about an address, and resolves when the answer is in [`current`](Self::current): a service, a
    /// workload, or that it does not exist. At once when that is known already. Questions about one address share one
    /// request; at most [`ASKS_MAX`](crate::ASKS_MAX) addresses wait. There is no deadline here: that is the
    /// caller's. Cancel safe.
    ///
    /// # Errors
    /// At once when there is no stream or too many questions wait; later when the stream ends or the answer is malformed.
    pub async fn discover(&self, address: IpAddr) -> Result<(), DiscoverError> {
        let address = address.to_canonical();
        if self.knows(address) {
            return Ok(());
        }
        let mut answer = self.shared.asks.join(address)?;
        // The answer may have come between the look and the question; it is published before questions are resolved.
        if self.knows(address) {
            return Ok(());
        }
        answer.recv().await.unwrap_or(Err(DiscoverError::NotConnected(address)))
    }

    /// Figures for metrics and the admin page.
    pub fn status(&self) -> Status {
        let state = self.shared.lock();
        Status {
            connected: state.connected,
            last_update_age: state.updated.map(|at| at.elapsed()),
            nacks: state.nacks,
            reconnects: state.reconnects,
            last_error: state.last_error.clone(),
            last_refusal: state.last_refusal.clone(),
        }
    }

    fn knows(&self, address: IpAddr) -> bool {
        knows(&self.published.borrow().mesh, &self.shared.network, address)
    }
}

/// How the connection to the controller is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// A stream is up.
    pub connected: bool,
    /// Time since the last response of the controller was applied; `None` before the first.
    pub last_update_age: Option<Duration>,
    /// Responses that were refused in part or as a whole.
    pub nacks: u64,
    /// Streams that ended, or could not be opened.
    pub reconnects: u64,
    /// Why the last one did.
    pub last_error: Option<String>,
    /// What the last refusal named.
    pub last_refusal: Option<String>,
}

/// The writing end of [`Snapshots`]. The client owns the one that matters; others make their own to drive a dataplane
/// without a controller, as tests do.
#[derive(Debug)]
pub struct Publisher {
    published: watch::Sender<Published>,
    shared: Arc<Shared>,
    node: Node,
}

impl Publisher {
    /// Both ends, with an empty mesh that is not ready.
    pub fn new(node: &Node) -> (Self, Snapshots) {
        let start = Published {
            mesh: Arc::default(),
            own: None,
            readiness: Err(NotReady::Unsynced { missing: "anything", last_error: None }),
        };
        let (sender, receiver) = watch::channel(start);
        let shared = Arc::new(Shared {
            asks: Asks::default(),
            network: node.network.as_str().into(),
            state: Mutex::new(State::default()),
        });
        let publisher = Self { published: sender, shared: shared.clone(), node: node.clone() };
        (publisher, Snapshots { published: receiver, shared })
    }

    /// Publishes a mesh. `missing` says what the source has not sent yet, if anything; then it is not ready.
    pub fn publish(&self, mesh: Mesh, missing: Option<&'static str>) {
        let own = own_workload(&mesh, &self.shared.network, &self.node).cloned();
        let readiness = match (missing, &own) {
            (Some(missing), _) => Err(NotReady::Unsynced { missing, last_error: None }),
            (None, None) => Err(NotReady::OwnWorkloadUnknown {
                addresses: self.node.ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                last_error: None,
            }),
            (None, Some(_)) => Ok(()),
        };
        self.published.send_replace(Published { mesh: Arc::new(mesh), own, readiness });
    }

    /// Whether this is an address of our own pod.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.node.ips.iter().any(|ip| ip.to_canonical() == address)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// One published state.
#[derive(Debug)]
struct Published {
    mesh: Arc<Mesh>,
    own: Option<Arc<Workload>>,
    readiness: Result<(), NotReady>,
}

/// What both ends see beside the mesh.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) asks: Asks,
    pub(crate) network: Arc<str>,
    state: Mutex<State>,
}

impl Shared {
    /// A stream is up, until what is returned is dropped.
    pub(crate) fn connected(&self) -> Connected<'_> {
        self.lock().connected = true;
        Connected { shared: self, _asks: self.asks.connected() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the figures stay usable if something did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While this lives, a stream is up.
#[derive(Debug)]
pub(crate) struct Connected<'a> {
    shared: &'a Shared,
    _asks: asks::Connected<'a>,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.shared.lock().connected = false;
    }
}

/// The figures behind [`Status`].
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) connected: bool,
    pub(crate) updated: Option<Instant>,
    pub(crate) nacks: u64,
    pub(crate) reconnects: u64,
    pub(crate) last_error: Option<String>,
    pub(crate) last_refusal: Option<String>,
}

/// Whether the mesh can say what an address is.
pub(crate) fn knows(mesh: &Mesh, network: &Arc<str>, address: IpAddr) -> bool {
    mesh.workload_by_address(network, address).is_some()
        || mesh.service_by_address(network, address).is_some()
        || match &mesh.coverage {
            Coverage::Complete => true,
            Coverage::OnDemand { absent } => absent.contains(&address),
        }
}

fn own_workload<'a>(mesh: &'a Mesh, network: &Arc<str>, node: &Node) -> Option<&'a Arc<Workload>> {
    let candidates = node.ips.iter().filter_map(|ip| mesh.workload_by_address(network, ip.to_canonical()));
    let same = |told: &str, ours: &str| told.is_empty() || ours.is_empty() || told == ours;
    candidates
        .filter(|workload| same(&workload.name, &node.pod_name) && same(&workload.namespace, &node.namespace))
        .find(|workload| !workload.host_network)
}

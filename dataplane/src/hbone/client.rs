//! The client's side: pooled connections to other proxies, and tunnels opened on them.

mod connection;
mod dial;
mod error;

pub use dial::Dial;
pub use error::{DialError, OpenError};

use super::{Keepalive, Tunnel};
use crate::{identity::Svid, telemetry::metrics::Metrics};
use connection::Connection;
use heddle_mesh::identity::SpiffeId;
use http::HeaderMap;
use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// Where a tunnel connection leads, and who may be there.
///
/// The whole key is compared: a connection to the same address that was verified for other identities is never shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The peer's address and HBONE port.
    pub address: SocketAddr,
    /// Whom the peer may prove to be.
    pub identities: Arc<[SpiffeId]>,
}

/// Bounds of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Streams on one connection; a further one is opened for more.
    pub streams_max: u32,
    /// How long a connection without streams is kept.
    pub idle_timeout: Duration,
    /// How a peer's silence is noticed.
    pub keepalive: Keepalive,
    /// Longest time to dial and to shake hands. Callers may give up earlier; the dial then goes on for the next one.
    pub dial_timeout: Duration,
}

impl Default for PoolLimits {
    /// 100 streams, 5 min idle, 10 s to dial.
    fn default() -> Self {
        Self {
            streams_max: 100,
            idle_timeout: Duration::from_secs(5 * 60),
            keepalive: Keepalive::default(),
            dial_timeout: Duration::from_secs(10),
        }
    }
}

/// The tunnel connections of one worker. Clones share them; when the last clone is dropped, all are closed.
#[derive(Debug, Clone)]
pub struct Pool(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: OnceCell<Arc<Metrics>>,
    svids: watch::Receiver<Option<Arc<Svid>>>,
    limits: PoolLimits,
    dial: Dial,
    peers: RefCell<HashMap<Key, Peer>>,
    /// Every dial, each of which goes on as the connection that it made.
    tasks: RefCell<JoinSet<()>>,
}

/// What there is towards one key.
#[derive(Debug, Default)]
struct Peer {
    connections: Vec<Rc<Connection>>,
    /// The dial that is under way: exactly one, however many wait for it.
    dialling: Option<watch::Receiver<Option<Dialled>>>,
}

type Dialled = Result<Rc<Connection>, DialError>;

impl Pool {
    /// An empty pool. `dial` makes the TCP connections; every handshake uses the newest of `svids`.
    pub fn new(svids: watch::Receiver<Option<Arc<Svid>>>, limits: PoolLimits, dial: Dial) -> Self {
        let (peers, tasks, metrics) = (RefCell::default(), RefCell::default(), OnceCell::new());
        Self(Rc::new(Inner { svids, limits, dial, metrics, peers, tasks }))
    }

    /// The same pool, which counts its handshakes and connections from now on. The first call decides where.
    pub fn counted(self, metrics: Arc<Metrics>) -> Self {
        let _ = self.0.metrics.set(metrics);
        self
    }

    /// Opens a tunnel to `authority` through the peer of `key`, and waits for its 200. Cancel safe: a stream that nobody
    /// waits for any more is reset.
    ///
    /// Before the 200 no byte of the application is sent. So a request that met a dying connection is sent again on another
    /// one.
    ///
    /// # Errors
    /// The peer cannot be reached, is somebody else, or refused.
    pub async fn open(&self, key: &Key, authority: SocketAddr, headers: &HeaderMap) -> Result<Tunnel, OpenError> {
        let mut attempts_left = ATTEMPTS_MAX;
        loop {
            let (connection, pooled) = self.connection(key).await?;
            attempts_left -= 1;
            let error = match connection.open(authority, headers).await {
                Ok(tunnel) => return Ok(tunnel),
                Err(error) => error,
            };
            if error.ends_connection() {
                connection.retire();
            }
            if attempts_left == 0 || !error.unprocessed(pooled) {
                return Err(error);
            }
            tracing::debug!(peer = %key.address, %error, "a tunnel is opened again on another connection");
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.0.peers.borrow().values().map(|peer| peer.connections.len()).sum()
    }

    /// A connection with room for a stream, and whether it was there before.
    async fn connection(&self, key: &Key) -> Result<(Rc<Connection>, bool), OpenError> {
        let mut fresh = false;
        loop {
            let svid = self.0.svids.borrow().clone().ok_or(OpenError::NoIdentity)?;
            let mut dialling = match self.pick(key, svid) {
                Pick::Connection(connection) => return Ok((connection, !fresh)),
                Pick::Dialling(dialling) => dialling,
            };
            fresh = true;
            let dialled = dialling.wait_for(Option::is_some).await.map_err(|_| OpenError::PoolClosed)?.clone();
            // More may have waited for it than it has room for; they go round again.
            if let Some(Err(error)) = dialled {
                return Err(error.into());
            }
        }
    }

    fn pick(&self, key: &Key, svid: Arc<Svid>) -> Pick {
        let mut peers = self.0.peers.borrow_mut();
        if !peers.contains_key(key) {
            peers.insert(key.clone(), Peer::default());
        }
        let peer = peers.get_mut(key).expect("inserted above");
        if let Some(connection) = peer.pick(&svid, self.0.limits.streams_max) {
            return Pick::Connection(connection);
        }
        if let Some(dialling) = &peer.dialling {
            return Pick::Dialling(dialling.clone());
        }
        let (done, dialling) = watch::channel(None);
        peer.dialling = Some(dialling.clone());
        let mut tasks = self.0.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(dial::run(Rc::downgrade(&self.0), key.clone(), svid, done));
        Pick::Dialling(dialling)
    }
}

enum Pick {
    Connection(Rc<Connection>),
    Dialling(watch::Receiver<Option<Dialled>>),
}

impl Peer {
    /// The first connection with room: the fuller one connection is, the more messages share a read and a write. Connections
    /// of an older certificate get no new streams and end with those they have.
    fn pick(&mut self, svid: &Arc<Svid>, streams_max: u32) -> Option<Rc<Connection>> {
        self.connections.retain(|connection| {
            let current = connection.is_of(svid);
            if !current {
                connection.retire();
            }
            current
        });
        let mut stalled = None;
        let mut stalled_count = 0;
        for connection in self.connections.iter().filter(|connection| connection.has_room(streams_max)) {
            if !connection.carrier().stalled(STALL) {
                return Some(connection.clone());
            }
            stalled_count += 1;
            stalled.get_or_insert(connection);
        }
        // One more connection helps where a neighbour holds all credit; many more would not.
        stalled.filter(|_| stalled_count >= STALLED_MAX).cloned()
    }
}

/// Connections that a request is tried on, when none of them has looked at it.
const ATTEMPTS_MAX: u32 = 3;
/// Waiting for credit this long without getting any, the streams of a connection are stalled, and new ones go elsewhere.
const STALL: Duration = Duration::from_secs(1);
/// Stalled connections to one peer beyond which no more are opened on that account.
const STALLED_MAX: u32 = 4;

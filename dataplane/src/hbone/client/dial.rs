//! Making a connection, and running it to its end.

use super::{DialError, Dialled, Inner, Key, connection::Connection};
use crate::{
    hbone::connection_window_bytes,
    identity::Svid,
    telemetry::{
        Direction,
        metrics::{Metrics, OpenCarrier},
    },
    tls::{self, TlsError},
};
use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
};
use tokio::{net::TcpStream, sync::watch, time::timeout};

/// How TCP connections to peers are made: with the marks and options of the proxy's own sockets.
pub struct Dial(Box<dyn Fn(SocketAddr) -> Connecting>);

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

impl Dial {
    /// Dials with `connect`.
    pub fn new<F>(connect: impl Fn(SocketAddr) -> F + 'static) -> Self
    where
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        Self(Box::new(move |address| Box::pin(connect(address))))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// Dials, tells everybody who waits, and runs the connection until it ends.
pub(super) async fn run(pool: Weak<Inner>, key: Key, svid: Arc<Svid>, done: watch::Sender<Option<Dialled>>) {
    // Boxed: the handshake is large, seldom, and gone when the connection runs.
    let result = match pool.upgrade() {
        Some(pool) => Box::pin(dial(pool, &key, svid)).await,
        None => return,
    };
    let (result, driver) = match result {
        Ok((connection, driver)) => (Ok(connection), Some(driver)),
        Err(error) => (Err(error), None),
    };
    if let Some(pool) = pool.upgrade() {
        settle(&pool, &key, &result);
    }
    let metrics = pool.upgrade().and_then(|pool| pool.metrics.get().cloned());
    let connection = result.as_ref().ok().cloned();
    let _open = metrics.and_then(|metrics| count(&metrics, &result));
    // Nobody waits any more: the connection is for the next one.
    let _ = done.send(Some(result));
    drop(done);
    let (Some(connection), Some(driver)) = (connection, driver) else { return };
    let ended = driver.run().await;
    connection.retire();
    match ended {
        Ok(()) => tracing::debug!(peer = %key.address, "a tunnel connection ended"),
        Err(error) => tracing::debug!(peer = %key.address, %error, "a tunnel connection was lost"),
    }
    if let Some(pool) = pool.upgrade() {
        forget(&pool, &key, &connection);
    }
}

/// Counts the handshake, if there was one, and the connection for as long as it is open.
fn count(metrics: &Arc<Metrics>, result: &Dialled) -> Option<OpenCarrier> {
    match result {
        Ok(_) => {
            metrics.handshake(Direction::Outbound, true);
            Some(metrics.carrier(Direction::Outbound))
        }
        Err(DialError::Tls { .. } | DialError::Http2 { .. }) => {
            metrics.handshake(Direction::Outbound, false);
            None
        }
        Err(DialError::Connect { .. } | DialError::Timeout { .. }) => None,
    }
}

async fn dial(
    pool: Rc<Inner>,
    key: &Key,
    svid: Arc<Svid>,
) -> Result<(Rc<Connection>, super::connection::Driver), DialError> {
    let address = key.address;
    let limits = pool.limits;
    let connecting = (pool.dial.0)(address);
    // The dial must not keep the pool alive.
    drop(pool);
    let establish = async {
        let tcp = connecting.await.map_err(|source| DialError::Connect { address, source: Arc::new(source) })?;
        let config = tls::client_config(&svid, &key.identities);
        let (stream, peer) = tls::connect(tcp, config)
            .await
            .map_err(|source: TlsError| DialError::Tls { address, source: Arc::new(source) })?;
        let window = connection_window_bytes(limits.streams_max);
        Connection::start(stream, peer, svid, window, limits)
            .await
            .map_err(|source| DialError::Http2 { address, source: Arc::new(source) })
    };
    timeout(limits.dial_timeout, establish)
        .await
        .unwrap_or(Err(DialError::Timeout { address, after: limits.dial_timeout }))
}

fn settle(pool: &Inner, key: &Key, result: &Dialled) {
    let mut peers = pool.peers.borrow_mut();
    let Some(peer) = peers.get_mut(key) else { return };
    peer.dialling = None;
    match result {
        Ok(connection) => peer.connections.push(connection.clone()),
        Err(_) if peer.connections.is_empty() => drop(peers.remove(key)),
        Err(_) => {}
    }
}

fn forget(pool: &Inner, key: &Key, connection: &Rc<Connection>) {
    let mut peers = pool.peers.borrow_mut();
    let Some(peer) = peers.get_mut(key) else { return };
    peer.connections.retain(|other| !Rc::ptr_eq(other, connection));
    if peer.connections.is_empty() && peer.dialling.is_none() {
        peers.remove(key);
    }
}

//! Accepts TCP connections and finishes their TLS handshakes, so many at a time and each within a deadline.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; choose another with {option}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The option that names it.
    pub option: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// Listens on an address; `[::]` takes IPv4, too, and falls back to `0.0.0.0` where there is no IPv6.
///
/// # Errors
/// The address is taken, not ours, or needs a right.
pub async fn bind(address: SocketAddr, option: &'static str) -> Result<TcpListener, ListenError> {
    match TcpListener::bind(address).await {
        Err(source) if address.ip().is_unspecified() && source.raw_os_error() == Some(EAFNOSUPPORT) => {
            let any = SocketAddr::from(([0, 0, 0, 0], address.port()));
            TcpListener::bind(any).await.map_err(|source| ListenError { address: any, option, source })
        }
        bound => bound.map_err(|source| ListenError { address, option, source }),
    }
}

/// Connections whose handshake is done, until `ending` turns true.
pub(super) fn connections(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    mut ending: watch::Receiver<bool>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (done, connections) = mpsc::channel(HANDSHAKES_MAX);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, TlsAcceptor::from(tls), &handshakes, &done) => {}
            () = done.closed() => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: &Arc<Semaphore>,
    done: &mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    loop {
        // Never closed, so never an error.
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(handshake(stream, peer, acceptor.clone(), done.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    done: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
    permit: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        // Nobody takes it when the server has ended.
        Ok(Ok(stream)) => drop(done.send(Ok(stream)).await),
        Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(%peer, "TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}"),
    }
    drop(permit);
}

/// errno(3): no such address family.
const EAFNOSUPPORT: i32 = 97;

/// Handshakes at once; further connections wait in the kernel.
const HANDSHAKES_MAX: usize = 256;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept, which is out of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

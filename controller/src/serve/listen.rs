//! Accepts TCP connections and finishes their TLS handshakes, so many at a time and each within a deadline.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

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

/// A connection whose handshake is done. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    _counted: OwnedSemaphorePermit,
}

/// Connections, until `ending` turns true.
pub(super) fn connections(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    mut ending: watch::Receiver<bool>,
) -> ReceiverStream<io::Result<Connection>> {
    let (done, connections) = mpsc::channel(HANDSHAKES_MAX);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, TlsAcceptor::from(tls), &done) => {}
            () = done.closed() => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, done: &mpsc::Sender<io::Result<Connection>>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let counted = connections.clone().acquire_owned().await;
        let permit = handshakes.clone().acquire_owned().await;
        // They are never closed, so there is no error.
        let (Ok(counted), Ok(permit)) = (counted, permit) else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tokio::spawn(async move {
                    if let Some(stream) = handshake(stream, peer, acceptor).await {
                        // Nobody takes it when the server has ended.
                        drop(done.send(Ok(Connection { stream, _counted: counted })).await);
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor) -> Option<TlsStream<TcpStream>> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(%peer, "TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}"),
    }
    None
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// errno(3): no such address family.
const EAFNOSUPPORT: i32 = 97;

/// Connections at once; a proxy has one, and one more for the moment of a certificate. Further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 16_384;

/// Handshakes at once; further connections wait in the kernel.
const HANDSHAKES_MAX: usize = 256;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept, which is out of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

//! A small HTTP/1.1 server with a bound on everything: connections, header bytes, and the time of one connection.
//!
//! A connection carries one request. Whoever asks so rarely gains nothing from keeping it, and what is over cannot be held.

use super::ListenError;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    convert::Infallible,
    future::poll_fn,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    task::Poll,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Listens on one address.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let open = || {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        if let SocketAddr::V6(address) = address {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // A restarted proxy must not wait for the old one's connections to leave TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|source| ListenError { address, source })
}

/// Listens on a port in both families with one socket, or in IPv4 alone where the kernel has no IPv6.
pub(super) fn listen_on_all_interfaces(port: u16) -> Result<TcpListener, ListenError> {
    match listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Ok(listener) => Ok(listener),
        Err(error) if error.source.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(_) => listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
    }
}

/// Answers every request on any of the listeners with `answer`, until it is dropped.
pub(super) async fn serve<F>(
    listeners: Vec<TcpListener>,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept_any(&listeners) => {
                // Full: the newcomer is closed at once, so that a port that is flooded costs nothing else.
                if let Some(stream) = accepted && connections.len() < CONNECTIONS_MAX {
                    connections.spawn(serve_connection(stream, answer.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection<F>(stream: TcpStream, answer: impl Fn(Request<Incoming>) -> F)
where
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let response = answer(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection failed"),
        Err(_) => tracing::debug!("an admin connection was too slow"),
    }
}

/// The next connection; `None` after an error, which is waited out.
async fn accept_any(listeners: &[TcpListener]) -> Option<TcpStream> {
    let next = poll_fn(|cx| {
        let mut polls = listeners.iter().map(|listener| listener.poll_accept(cx));
        polls.find(Poll::is_ready).unwrap_or(Poll::Pending)
    });
    match next.await {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "the admin server cannot accept");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Connections at a time on one port.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Longest time to send a request's header.
pub(super) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time of a connection, the reading of the response included.
pub(super) const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest header of a request, in bytes.
pub(super) const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Pause after an accept that failed, for want of file descriptors for instance, instead of a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 128;

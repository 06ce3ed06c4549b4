//! The server's side: a peer's connection, each CONNECT stream of it one inbound connection.

use super::{
    FRAME_BYTES_MAX, HEADER_LIST_BYTES_MAX, Keepalive, LOCAL_ERROR_RESETS_MAX, REASON_HEADER, RESET_STREAM_DURATION,
    RESET_STREAMS_MAX, SEND_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES, Tunnel,
    authority::{Authority, AuthorityError},
    connection_window_bytes,
    drive::{Beat, Heartbeat, poll_and_send},
};
use crate::{
    stream::{Carrier, Lease},
    tls::{TlsStream, transport::Sender},
};
use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use heddle_mesh::identity::SpiffeId;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// What one connection of a peer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Streams at a time. More are refused with REFUSED_STREAM, which tells the peer to try elsewhere.
    pub streams_max: u32,
    /// How the peer's silence is noticed.
    pub keepalive: Keepalive,
    /// Longest time from the end of the TLS handshake to the peer's first frames.
    pub preface_timeout: Duration,
}

impl Default for ServerLimits {
    /// 100 streams, and 10 s for the preface.
    fn default() -> Self {
        Self { streams_max: 100, keepalive: Keepalive::default(), preface_timeout: Duration::from_secs(10) }
    }
}

/// Serves one connection of a peer until it ends. `each` is called for every CONNECT with an authority that can be read; its
/// future runs as a task of its own, which may live on after the connection for as long as it has received bytes to deliver.
///
/// When `drain` is cancelled the peer is told to open no more streams (GOAWAY, twice), those that are open go on, and this
/// returns after the last of them. Dropping this ends the connection and all its streams at once.
///
/// # Errors
/// What ended the connection, if not the peer or the drain in order.
pub async fn serve<F>(
    stream: TlsStream,
    peer: SpiffeId,
    limits: &ServerLimits,
    drain: &CancellationToken,
    each: impl Fn(Incoming) -> F,
) -> Result<(), ServeError>
where
    F: Future<Output = ()> + 'static,
{
    let socket = stream.watch();
    let (stream, sender) = stream.defer();
    let mut handshake = std::pin::pin!(builder(limits).handshake(stream));
    let started = poll_fn(|cx| poll_and_send(cx, &sender, |cx| handshake.as_mut().poll(cx)));
    let connection = timeout(limits.preface_timeout, started).await.map_err(|_| ServeError::NoPreface)??;
    let connection = connection.map_err(ServeError::Connection)?;

    let mut tasks = JoinSet::new();
    let result = run(connection, &sender, Carrier::new(peer, socket), limits, drain, |incoming| {
        tasks.spawn_local(each(incoming));
        while tasks.try_join_next().is_some() {}
    })
    .await;
    if result.is_ok() {
        let _ = timeout(LINGER, sender.drain()).await;
    }
    drop(sender);
    while tasks.join_next().await.is_some() {}
    result
}

/// A CONNECT request that waits for an answer. Dropped without one, its stream is reset.
#[derive(Debug)]
pub struct Incoming {
    authority: Authority,
    headers: HeaderMap,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    lease: Lease,
}

impl Incoming {
    /// Where the peer wants to go. It may lead anywhere: compare it before it is dialled.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The request's headers, as the peer sent them.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The connection that it came on.
    pub fn carrier(&self) -> &Carrier {
        self.lease.carrier()
    }

    /// Answers 200, after which bytes flow.
    ///
    /// # Errors
    /// The peer is gone, or has reset the stream in the meantime.
    pub fn accept(mut self) -> Result<Tunnel, h2::Error> {
        let send = self.respond.send_response(Response::new(()), false)?;
        Ok(Tunnel::new(send, self.body, self.lease))
    }

    /// Answers with an error status and a reason of one word for [`REASON_HEADER`].
    pub fn refuse(mut self, status: StatusCode, reason: &'static str) {
        refuse(&mut self.respond, status, reason);
    }

    /// Resets the stream, for when the proxy itself cannot serve it.
    pub fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Resolves when the peer has given up waiting. Cancel safe.
    pub async fn abandoned(&mut self) {
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

/// What ended a peer's connection out of order.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The peer finished the TLS handshake and then said nothing.
    #[error("the peer sent no HTTP/2 preface in time")]
    NoPreface,
    /// The peer broke HTTP/2's rules, or its connection was cut.
    #[error("the tunnel connection failed")]
    Connection(#[source] h2::Error),
    /// The socket failed.
    #[error("the tunnel connection's socket failed")]
    Socket(#[from] io::Error),
    /// No answer to a PING.
    #[error("the peer has not answered a PING within {0:?}")]
    PeerDead(Duration),
}

fn builder(limits: &ServerLimits) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(connection_window_bytes(limits.streams_max))
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(limits.streams_max)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_ACCEPT_RESETS_MAX)
        .max_local_error_reset_streams(Some(LOCAL_ERROR_RESETS_MAX))
        .reset_stream_duration(RESET_STREAM_DURATION)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX);
    builder
}

async fn run(
    mut connection: Connection<TlsStream, Bytes>,
    sender: &Sender,
    carrier: Rc<Carrier>,
    limits: &ServerLimits,
    drain: &CancellationToken,
    mut each: impl FnMut(Incoming),
) -> Result<(), ServeError> {
    let mut heartbeat = connection.ping_pong().map(|ping_pong| Heartbeat::new(ping_pong, limits.keepalive));
    let mut drained = std::pin::pin!(drain.cancelled());
    let mut draining = false;
    poll_fn(|cx| {
        if !draining && drained.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.graceful_shutdown();
        }
        if let Some(heartbeat) = &mut heartbeat {
            while let Poll::Ready(beat) = heartbeat.poll_beat(cx) {
                if beat == Beat::PeerDead {
                    return Poll::Ready(Err(ServeError::PeerDead(limits.keepalive.timeout)));
                }
            }
        }
        poll_and_send(cx, sender, |cx| poll_streams(cx, &mut connection, &carrier, &mut each))
            .map(|result| result.map_err(ServeError::Socket)?.map_err(ServeError::Connection))
    })
    .await
}

/// Takes every stream that is there. Ready when the connection has ended.
fn poll_streams(
    cx: &mut Context<'_>,
    connection: &mut Connection<TlsStream, Bytes>,
    carrier: &Rc<Carrier>,
    each: &mut impl FnMut(Incoming),
) -> Poll<Result<(), h2::Error>> {
    loop {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => take(request, respond, carrier).map_or((), &mut *each),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(None) => return Poll::Ready(Ok(())),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Checks a request's form. What is no CONNECT with a readable authority is answered here.
fn take(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, carrier: &Rc<Carrier>) -> Option<Incoming> {
    let (head, body) = request.into_parts();
    if head.method != Method::CONNECT {
        refuse(&mut respond, StatusCode::BAD_REQUEST, REASON_METHOD);
        return None;
    }
    let authority = head.uri.authority().ok_or(AuthorityError::NoPort).and_then(|text| text.as_str().parse());
    match authority {
        Ok(authority) => Some(Incoming { authority, headers: head.headers, body, respond, lease: carrier.lease() }),
        Err(error) => {
            tracing::debug!(peer = %carrier.peer(), %error, "a tunnel's authority was refused");
            refuse(&mut respond, StatusCode::BAD_REQUEST, REASON_AUTHORITY);
            None
        }
    }
}

fn refuse(respond: &mut SendResponse<Bytes>, status: StatusCode, reason: &'static str) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(reason));
    // Fails only when the peer has gone, and then nobody needs an answer.
    let _ = respond.send_response(response, true);
}

/// A request that is no CONNECT.
const REASON_METHOD: &str = "not_a_tunnel";
/// A CONNECT whose authority cannot be read.
const REASON_AUTHORITY: &str = "bad_authority";
/// Streams that the peer may open and reset before we have looked at them (CVE-2023-44487).
const PENDING_ACCEPT_RESETS_MAX: usize = 32;
/// Longest wait for the peer to close after us.
const LINGER: Duration = Duration::from_secs(1);

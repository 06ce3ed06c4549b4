//! One pooled connection: what streams are opened on, and what drives it.

use super::{OpenError, PoolLimits};
use crate::{
    hbone::{
        FRAME_BYTES_MAX, HEADER_LIST_BYTES_MAX, LOCAL_ERROR_RESETS_MAX, REASON_HEADER, RESET_STREAM_DURATION,
        RESET_STREAMS_MAX, SEND_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES,
        drive::{Beat, Heartbeat, poll_and_send},
    },
    identity::Svid,
    stream::{Carrier, Tunnel},
    tls::{TlsStream, transport::Sender},
};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use heddle_mesh::identity::SpiffeId;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, uri};
use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep, timeout};

/// One connection to a peer, open for streams until it is retired.
pub(super) struct Connection {
    carrier: Rc<Carrier>,
    svid: Arc<Svid>,
    /// None once it is retired: then it ends with its last stream.
    requests: RefCell<Option<SendRequest<Bytes>>>,
}

impl Connection {
    /// Speaks HTTP/2 on an established TLS connection. The driver must run for anything to happen.
    pub(super) async fn start(
        stream: TlsStream,
        peer: SpiffeId,
        svid: Arc<Svid>,
        window_bytes: u32,
        limits: PoolLimits,
    ) -> Result<(Rc<Self>, Driver), h2::Error> {
        let socket = stream.watch();
        let (stream, sender) = stream.defer();
        // Only buffers the preface and our settings, since the stream's flush is deferred.
        let (requests, mut http2) = builder(window_bytes).handshake(stream).await?;
        let heartbeat = http2.ping_pong().map(|ping_pong| Heartbeat::new(ping_pong, limits.keepalive));
        let carrier = Carrier::new(peer, socket);
        let connection = Rc::new(Self { carrier: carrier.clone(), svid, requests: RefCell::new(Some(requests)) });
        let driver = Driver {
            http2,
            sender,
            heartbeat,
            idle: Box::pin(sleep(limits.idle_timeout)),
            connection: connection.clone(),
            limits,
        };
        Ok((connection, driver))
    }

    pub(super) fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Whether it was made with this very certificate.
    pub(super) fn is_of(&self, svid: &Arc<Svid>) -> bool {
        Arc::ptr_eq(&self.svid, svid)
    }

    /// Whether one more stream fits, by our bound and by the peer's.
    pub(super) fn has_room(&self, streams_max: u32) -> bool {
        let requests = self.requests.borrow();
        let Some(requests) = &*requests else { return false };
        let streams = self.carrier.streams();
        streams < streams_max && (streams as usize) < requests.current_max_send_streams()
    }

    /// Opens no more streams. The connection ends with the last one.
    pub(super) fn retire(&self) {
        self.requests.take();
    }

    /// Asks for a tunnel and waits for the answer.
    pub(super) async fn open(&self, authority: SocketAddr, headers: &HeaderMap) -> Result<Tunnel, OpenError> {
        let lease = self.carrier.lease();
        let (response, send) = {
            // A clone, since the original would wait for its turn where the peer's bound was lowered meanwhile.
            let mut requests = self.requests.borrow().clone().ok_or_else(closed)?;
            requests
                .send_request(request(authority, headers), false)
                .map_err(|error| OpenError::NotSent(Arc::new(error)))?
        };
        let response = response.await.map_err(|error| OpenError::NoAnswer(Arc::new(error)))?;
        if response.status() == StatusCode::OK {
            return Ok(Tunnel::new(send, response.into_body(), lease));
        }
        let reason = response.headers().get(REASON_HEADER).and_then(|value| value.to_str().ok());
        let reason = reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect());
        Err(OpenError::Refused { status: response.status(), reason })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("carrier", &self.carrier).field("serial", &self.svid.serial()).finish()
    }
}

/// What makes a connection run.
pub(super) struct Driver {
    http2: h2::client::Connection<TlsStream, Bytes>,
    sender: Sender,
    heartbeat: Option<Heartbeat>,
    idle: Pin<Box<Sleep>>,
    connection: Rc<Connection>,
    limits: PoolLimits,
}

impl Driver {
    /// Runs until the connection has ended.
    pub(super) async fn run(mut self) -> Result<(), LostError> {
        poll_fn(|cx| self.poll(cx)).await?;
        let Self { http2, sender, .. } = self;
        drop(http2);
        let _ = timeout(LINGER, sender.drain()).await;
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LostError>> {
        if let Some(heartbeat) = &mut self.heartbeat {
            while let Poll::Ready(beat) = heartbeat.poll_beat(cx) {
                if beat == Beat::PeerDead {
                    return Poll::Ready(Err(LostError::PeerDead(self.limits.keepalive.timeout)));
                }
            }
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            let idle = self.connection.carrier.idle().unwrap_or_default();
            if idle >= self.limits.idle_timeout {
                self.connection.retire();
            }
            self.idle
                .as_mut()
                .reset(Instant::now() + self.limits.idle_timeout.saturating_sub(idle).max(IDLE_CHECK_MIN));
        }
        let http2 = &mut self.http2;
        poll_and_send(cx, &self.sender, |cx| Pin::new(&mut *http2).poll(cx)).map(|ended| Ok(ended??))
    }
}

/// Why a connection was lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum LostError {
    /// HTTP/2, or the peer's GOAWAY with an error.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// No answer to a PING.
    #[error("the peer has not answered a PING within {0:?}")]
    PeerDead(Duration),
}

fn builder(window_bytes: u32) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window_bytes)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(Some(LOCAL_ERROR_RESETS_MAX))
        .reset_stream_duration(RESET_STREAM_DURATION)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX);
    builder
}

/// RFC 9113, section 8.5: a CONNECT has an authority, and neither scheme nor path.
fn request(authority: SocketAddr, headers: &HeaderMap) -> Request<()> {
    let authority: uri::Authority = authority.to_string().parse().expect("an address and a port are an authority");
    let mut target = uri::Parts::default();
    target.authority = Some(authority);
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(target).expect("an authority alone is a URI in authority form");
    *request.headers_mut() = headers.clone();
    request
}

fn closed() -> OpenError {
    OpenError::NotSent(Arc::new(h2::Reason::CANCEL.into()))
}

/// Longest reason of a peer that is kept.
const REASON_CHARS_MAX: usize = 64;
/// Longest wait for the peer to close after us.
const LINGER: Duration = Duration::from_secs(1);
/// Shortest pause between two looks at whether a connection is still in use.
const IDLE_CHECK_MIN: Duration = Duration::from_millis(100);

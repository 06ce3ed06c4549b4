//! The server against clients that speak HTTP/2, but not as they should.

use crate::support::{CLIENT, Ca, SERVER, accept_one, local};
use bytes::Bytes;
use h2::{
    Reason,
    client::{Builder, SendRequest},
};
use heddle_dataplane::{
    hbone::{
        Keepalive, REASON_HEADER,
        server::{self, Incoming, ServeError, ServerLimits},
    },
    tls::{self, TlsStream},
};
use http::{Method, Request, StatusCode};
use std::{
    cell::Cell,
    future::{pending, poll_fn},
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::{JoinHandle, spawn_local},
};
use tokio_util::sync::CancellationToken;

/// A server that runs, and a client that is past the TLS handshake.
async fn serving<F>(
    limits: ServerLimits,
    each: impl Fn(Incoming) -> F + 'static,
) -> (TlsStream, JoinHandle<Result<(), ServeError>>)
where
    F: Future<Output = ()> + 'static,
{
    let ca = Ca::new();
    let (web, cart) = (ca.svid(CLIENT), ca.svid(SERVER));
    let (client_tcp, server_tcp) = accept_one().await;
    let client = tls::connect(client_tcp, tls::client_config(&web, std::slice::from_ref(cart.id())));
    let server = tls::accept(server_tcp, tls::server_config(&cart, web.id().trust_domain()));
    let (client, server) = tokio::join!(client, server);
    let (stream, peer) = server.expect("a good client");
    let task = spawn_local(async move { server::serve(stream, peer, &limits, &CancellationToken::new(), each).await });
    (client.expect("a good server").0, task)
}

/// An HTTP/2 client on it, of the library's own making.
async fn http2(stream: TlsStream) -> SendRequest<Bytes> {
    let (requests, connection) =
        Builder::new().enable_push(false).handshake(stream).await.expect("a preface can be sent");
    spawn_local(async move {
        let _ = connection.await;
    });
    requests
}

fn connect_to(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).expect("a request")
}

async fn accept_and_hold(incoming: Incoming) {
    let tunnel = incoming.accept();
    pending::<()>().await;
    drop(tunnel);
}

#[test]
fn what_is_no_tunnel_is_answered_with_400() {
    local(async {
        let reached = Rc::new(Cell::new(0));
        let (stream, _task) = serving(ServerLimits::default(), {
            let reached = reached.clone();
            move |incoming| {
                reached.set(reached.get() + 1);
                accept_and_hold(incoming)
            }
        })
        .await;
        let mut requests = http2(stream).await;
        let get = Request::builder().uri("https://10.0.0.7:80/").body(()).expect("a request");
        let bad = [
            (get, "not_a_tunnel"),
            (connect_to("10.0.0.7"), "bad_authority"),
            (connect_to("010.0.0.7:80"), "bad_authority"),
            (connect_to("10.0.0.7:0"), "bad_authority"),
            (connect_to("user@10.0.0.7:80"), "bad_authority"),
        ];
        for (request, why) in bad {
            let what = format!("{request:?}");
            let (response, _) = requests.send_request(request, true).expect("sent");
            let response = response.await.expect("answered");
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{what}");
            assert_eq!(response.headers()[REASON_HEADER], why, "{what}");
        }
        assert_eq!(reached.get(), 0);
        let (response, _send) = requests.send_request(connect_to("10.0.0.7:80"), false).expect("sent");
        assert_eq!(response.await.expect("answered").status(), StatusCode::OK);
        assert_eq!(reached.get(), 1);
    });
}

#[test]
fn a_client_that_sends_no_preface_is_dropped() {
    local(async {
        let limits = ServerLimits { preface_timeout: Duration::from_millis(50), ..ServerLimits::default() };
        let (mut stream, task) = serving(limits, accept_and_hold).await;
        let result = task.await.expect("joined");
        assert!(matches!(result, Err(ServeError::NoPreface)), "{result:?}");
        assert!(stream.read_to_end(&mut Vec::new()).await.is_err(), "cut");
    });
}

#[test]
fn a_client_that_speaks_something_else_is_dropped() {
    local(async {
        let (mut stream, task) = serving(ServerLimits::default(), accept_and_hold).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: 10.0.0.7\r\n\r\n").await.expect("sent");
        stream.flush().await.expect("sent");
        let result = task.await.expect("joined");
        assert!(matches!(result, Err(ServeError::Connection(_))), "{result:?}");
    });
}

#[test]
fn a_silent_client_is_given_up() {
    local(async {
        let keepalive = Keepalive { interval: Duration::from_millis(30), timeout: Duration::from_millis(60) };
        let (stream, task) = serving(ServerLimits { keepalive, ..ServerLimits::default() }, hold_until_lost).await;
        // Speaks once, and is never polled again: no PING is answered.
        let (mut requests, mut connection) =
            Builder::new().handshake::<_, Bytes>(stream).await.expect("a preface can be sent");
        let _open = requests.send_request(connect_to("10.0.0.7:80"), false).expect("sent");
        let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx))).await;
        let result = task.await.expect("joined");
        assert!(matches!(result, Err(ServeError::PeerDead(_))), "{result:?}");
    });
}

async fn hold_until_lost(incoming: Incoming) {
    let mut tunnel = incoming.accept().expect("the peer is there");
    poll_fn(|cx| tunnel.poll_reset(cx)).await;
}

#[test]
fn streams_beyond_the_limit_are_refused_and_the_others_live() {
    local(async {
        let limits = ServerLimits { streams_max: 2, ..ServerLimits::default() };
        let (stream, _task) = serving(limits, accept_and_hold).await;
        let mut requests = http2(stream).await;
        let mut open = Vec::new();
        let mut refused = 0;
        // All before the server's SETTINGS have arrived.
        for _ in 0..4 {
            open.push(requests.send_request(connect_to("10.0.0.7:80"), false).expect("sent"));
        }
        let mut alive = Vec::new();
        for (response, send) in open {
            match tokio::time::timeout(Duration::from_millis(300), response).await {
                Ok(Ok(response)) => alive.push((response, send)),
                Ok(Err(error)) => {
                    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
                    refused += 1;
                }
                // Held back by the client library once it has seen our SETTINGS.
                Err(_) => refused += 1,
            }
        }
        assert_eq!((alive.len(), refused), (2, 2));
    });
}

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A CONNECT on a stream (RFC 7541, section 6.2.2: literals without indexing).
fn connect_frame(stream: u32, flags: u8) -> Vec<u8> {
    frame(1, flags, stream, b"\x02\x07CONNECT\x01\x0b10.0.0.7:80")
}

/// The frames of one turn of a flood.
type Frames = fn(u32) -> Vec<u8>;

const END_HEADERS: u8 = 4;

/// Sends a preface, then frames without end; says how the server's connection ended, if it did.
async fn flood(frames: impl Fn(u32) -> Vec<u8> + 'static) -> Option<Result<(), ServeError>> {
    let (stream, mut task) = serving(ServerLimits::default(), hold_until_lost).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let reading = spawn_local(async move {
        let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
    });
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    write.write_all(&preface).await.expect("sent");
    for turn in 0..50 {
        let batch: Vec<u8> = (0..1000).flat_map(|index| frames(turn * 1000 + index)).collect();
        if write.write_all(&batch).await.is_err() || write.flush().await.is_err() {
            break;
        }
    }
    let ended = tokio::time::timeout(Duration::from_millis(500), &mut task).await;
    reading.abort();
    task.abort();
    ended.ok().map(|joined| joined.expect("the server does not panic"))
}

#[test]
fn floods_that_cost_more_than_they_pay_end_the_connection() {
    local(async {
        let reset =
            flood(|turn| [connect_frame(2 * turn + 1, END_HEADERS), frame(3, 0, 2 * turn + 1, &[0, 0, 0, 8])].concat());
        assert!(matches!(reset.await, Some(Err(ServeError::Connection(_)))), "rapid reset");

        // A mistake that is the stream's, so that the server must reset it (CVE-2025-8671): no increment.
        let made =
            flood(|turn| [connect_frame(2 * turn + 1, END_HEADERS), frame(8, 0, 2 * turn + 1, &[0; 4])].concat());
        assert!(matches!(made.await, Some(Err(ServeError::Connection(_)))), "made-you-reset");

        let continuation = flood(|turn| if turn == 0 { connect_frame(1, 0) } else { frame(9, 0, 1, &[]) });
        assert!(matches!(continuation.await, Some(Err(ServeError::Connection(_)))), "CONTINUATION");

        let headers =
            flood(|turn| if turn == 0 { connect_frame(1, 0) } else { frame(9, 0, 1, b"\x00\x01a\x08bbbbbbbb") });
        assert!(matches!(headers.await, Some(Err(ServeError::Connection(_)))), "a header block without end");

        let empty = flood(|turn| if turn == 0 { connect_frame(1, END_HEADERS) } else { frame(0, 0, 1, &[]) });
        assert!(matches!(empty.await, Some(Err(ServeError::Connection(_)))), "empty DATA");
    });
}

#[test]
fn floods_that_cost_little_are_answered_or_ended() {
    local(async {
        let kinds: [(&str, Frames); 4] = [
            ("PING", |turn| frame(6, 0, 0, &u64::from(turn).to_be_bytes())),
            ("SETTINGS", |_| frame(4, 0, 0, &[])),
            ("PRIORITY", |turn| frame(2, 0, 2 * turn + 1, &[0, 0, 0, 0, 1])),
            ("unknown frames", |_| frame(0xfa, 0, 0, &[0; 64])),
        ];
        for (what, frames) in kinds {
            let ended = flood(frames).await;
            assert!(matches!(ended, None | Some(Err(_))), "{what}: {ended:?}");
        }
    });
}

//! The pool of tunnel connections: how many there are, when one is given up, and what its users learn.

use crate::support::{Ca, Mesh, Options, SERVER, echo, listen, local};
use heddle_dataplane::{
    hbone::{
        Keepalive,
        client::{Dial, DialError, Key, OpenError, Pool, PoolLimits},
        server::Incoming,
    },
    relay::{Meter, RelayError, RelayLimits, relay},
    stream::Transport,
    tls,
};
use http::{HeaderMap, StatusCode};
use std::{cell::Cell, future::pending, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, watch},
    task::{spawn_local, yield_now},
};

const ANYWHERE: &str = "10.0.0.7:80";

fn anywhere() -> SocketAddr {
    ANYWHERE.parse().expect("an address")
}

/// Accepts every tunnel and holds it.
async fn hold(incoming: Incoming) {
    let tunnel = incoming.accept();
    pending::<()>().await;
    drop(tunnel);
}

/// Waits for something that other tasks bring about.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        // The driver looks at sockets and timers only now and then while tasks are ready.
        tokio::time::sleep(Duration::from_millis(1)).await;
        yield_now().await;
    }
}

#[test]
fn a_hundred_streams_share_a_connection_and_the_next_opens_another() {
    local(async {
        let mesh = Mesh::answering(Options::default(), hold).await;
        let mut tunnels = Vec::new();
        for expected in [1, 2] {
            for _ in 0..100 {
                tunnels.push(mesh.open(anywhere()).await.expect("opened"));
            }
            assert_eq!(mesh.pool.connections(), expected);
        }
        tunnels.truncate(150);
        mesh.open(anywhere()).await.expect("opened");
        assert_eq!(mesh.pool.connections(), 2, "room is used again");
    });
}

#[test]
fn exactly_one_dials_and_the_rest_wait() {
    local(async {
        let mesh = Mesh::answering(Options::default(), hold).await;
        let dials = Rc::new(Cell::new(0));
        let pool = mesh.pool_with(Options::default().pool, {
            let dials = dials.clone();
            Dial::new(move |address| {
                dials.set(dials.get() + 1);
                TcpStream::connect(address)
            })
        });
        let opening: Vec<_> = (0..150)
            .map(|_| {
                let (pool, key) = (pool.clone(), mesh.key.clone());
                spawn_local(async move { pool.open(&key, anywhere(), &HeaderMap::new()).await })
            })
            .collect();
        let mut tunnels = Vec::new();
        for opening in opening {
            tunnels.push(opening.await.expect("joined").expect("opened"));
        }
        assert_eq!((dials.get(), pool.connections()), (2, 2));
    });
}

#[test]
fn everybody_learns_why_a_dial_failed() {
    local(async {
        let mesh = Mesh::start().await;
        let (listener, nobody) = listen().await;
        drop(listener);
        let key = Key { address: nobody, ..mesh.key.clone() };
        let (headers, pool) = (HeaderMap::new(), &mesh.pool);
        let (one, other) = tokio::join!(pool.open(&key, anywhere(), &headers), pool.open(&key, anywhere(), &headers));
        for result in [one, other] {
            let Err(OpenError::Dial(DialError::Connect { address, source })) = result else { panic!("{result:?}") };
            assert_eq!((address, source.kind()), (nobody, io::ErrorKind::ConnectionRefused));
        }
        let key = Key {
            identities: Arc::from(["spiffe://cluster.local/ns/a/sa/b".parse().expect("an id")]),
            ..mesh.key.clone()
        };
        let result = pool.open(&key, anywhere(), &headers).await;
        let Err(OpenError::Dial(DialError::Tls { source, .. })) = result else { panic!("{result:?}") };
        assert!(source.to_string().contains(SERVER), "{source}");
        assert_eq!(pool.connections(), 0);
    });
}

#[test]
fn a_dial_that_takes_too_long_ends() {
    local(async {
        let mesh = Mesh::start().await;
        let limits = PoolLimits { dial_timeout: Duration::from_millis(50), ..PoolLimits::default() };
        let pool = mesh.pool_with(limits, Dial::new(|_| pending()));
        let result = pool.open(&mesh.key, anywhere(), &HeaderMap::new()).await;
        assert!(matches!(result, Err(OpenError::Dial(DialError::Timeout { .. }))), "{result:?}");
    });
}

#[test]
fn without_a_certificate_nothing_is_dialled() {
    local(async {
        let mesh = Mesh::start().await;
        mesh.svids.send_replace(None);
        let result = mesh.open(anywhere()).await;
        assert!(matches!(result, Err(OpenError::NoIdentity)), "{result:?}");
    });
}

#[test]
fn a_refusal_brings_its_status_and_reason() {
    local(async {
        let cases = [
            (StatusCode::BAD_REQUEST, "authority_refused"),
            (StatusCode::UNAUTHORIZED, "policy_denied"),
            (StatusCode::SERVICE_UNAVAILABLE, "connect_failed"),
        ];
        let next = Rc::new(Cell::new(0));
        let mesh = Mesh::answering(Options::default(), {
            let next = next.clone();
            move |incoming| {
                let (status, reason) = cases[next.get()];
                async move { incoming.refuse(status, reason) }
            }
        })
        .await;
        for (index, (expected, why)) in cases.into_iter().enumerate() {
            next.set(index);
            let result = mesh.open(anywhere()).await;
            let Err(OpenError::Refused { status, reason }) = result else { panic!("{result:?}") };
            assert_eq!((status, reason.as_deref()), (expected, Some(why)));
        }
        assert_eq!(mesh.pool.connections(), 1, "a refusal says nothing of the connection");
    });
}

#[test]
fn headers_and_authority_arrive_as_they_were_sent() {
    local(async {
        let seen = Rc::new(Cell::new(String::new()));
        let mesh = Mesh::answering(Options::default(), {
            let seen = seen.clone();
            move |incoming| {
                let forwarded = incoming.headers().get("forwarded").and_then(|value| value.to_str().ok()).unwrap_or("");
                seen.set(format!("{} {forwarded} {}", incoming.authority(), incoming.carrier().peer()));
                hold(incoming)
            }
        })
        .await;
        let headers =
            HeaderMap::from_iter([(http::header::FORWARDED, "for=\"10.0.0.1:5000\"".parse().expect("a value"))]);
        for (authority, expected) in [
            ("10.0.0.7:80", "10.0.0.7:80 for=\"10.0.0.1:5000\" spiffe://cluster.local/ns/shop/sa/web"),
            ("[fd00::7]:80", "[fd00::7]:80 for=\"10.0.0.1:5000\" spiffe://cluster.local/ns/shop/sa/web"),
        ] {
            let tunnel =
                mesh.pool.open(&mesh.key, authority.parse().expect("an address"), &headers).await.expect("opened");
            assert_eq!(seen.take(), expected);
            assert_eq!(tunnel.carrier().peer().to_string(), SERVER);
        }
    });
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    local(async {
        let keepalive = Keepalive { interval: Duration::from_millis(50), timeout: Duration::from_millis(100) };
        let limits = PoolLimits { keepalive, ..PoolLimits::default() };
        let mesh = Mesh::with(Options { pool: limits, ..Options::default() }).await;
        let (frozen, frozen_task) = freezing_network(mesh.key.address).await;
        let key = Key { address: frozen.address, ..mesh.key.clone() };
        let mut client = {
            let tunnel = mesh.pool.open(&key, echo().await, &HeaderMap::new()).await.expect("opened");
            let (client, near) = crate::support::accept_one().await;
            let ended = mesh.ends();
            spawn_local(async move {
                let result = relay(near, Transport::Tunnel(tunnel), &RelayLimits::default(), &Meter::default()).await;
                let _ = ended.try_send(result);
            });
            client
        };
        client.write_all(b"hello").await.expect("sent");
        client.read_exact(&mut [0; 5]).await.expect("received");
        // Several PINGs are answered meanwhile.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(mesh.pool.connections(), 1);
        frozen.freeze.notify_one();
        assert!(matches!(mesh.client_end().await, Err(RelayError::Carrier(_))));
        until(|| mesh.pool.connections() == 0).await;
        frozen_task.abort();
    });
}

struct FreezingNetwork {
    address: SocketAddr,
    freeze: Rc<Notify>,
}

/// A network that passes everything on until it is told to pass nothing more, while both ends stay connected.
async fn freezing_network(server: SocketAddr) -> (FreezingNetwork, tokio::task::JoinHandle<()>) {
    let (listener, address) = listen().await;
    let freeze = Rc::new(Notify::new());
    let task = spawn_local({
        let freeze = freeze.clone();
        async move {
            let (mut client, _) = listener.accept().await.expect("accepts");
            let mut server = TcpStream::connect(server).await.expect("connects");
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                () = freeze.notified() => {}
            }
            pending::<()>().await;
        }
    });
    (FreezingNetwork { address, freeze }, task)
}

#[test]
fn a_drain_finishes_streams_and_sends_new_ones_elsewhere() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        mesh.drain.cancel();
        // What is under way goes on, both ways.
        for _ in 0..10 {
            client.write_all(b"hello").await.expect("sent");
            server.read_exact(&mut [0; 5]).await.expect("received");
            server.write_all(b"you").await.expect("sent");
            client.read_exact(&mut [0; 3]).await.expect("received");
            yield_now().await;
        }
        // A new stream finds the GOAWAY and goes on a connection of its own, which is drained at once, too. It leads nowhere.
        let (nowhere, address) = listen().await;
        drop(nowhere);
        mesh.open(address).await.expect_err("nobody listens");
        client.shutdown().await.expect("ended");
        assert_eq!(server.read(&mut [0; 1]).await.expect("the end"), 0);
        drop(server);
        assert_eq!(client.read(&mut [0; 1]).await.expect("the end"), 0);
        mesh.both_ended_well().await;
        mesh.served().await.expect("the server's connection ended in order");
        until(|| mesh.pool.connections() == 0).await;
    });
}

#[test]
fn a_dead_pooled_connection_costs_nobody_a_failure() {
    local(async {
        let mesh = Mesh::start().await;
        let (network, address) = listen().await;
        let key = Key { address, ..mesh.key.clone() };
        let (application, server) = (echo().await, mesh.key.address);
        let kill = Rc::new(Cell::new(false));
        let network = spawn_local({
            let kill = kill.clone();
            async move {
                loop {
                    let (client, _) = network.accept().await.expect("accepts");
                    let server = TcpStream::connect(server).await.expect("connects");
                    spawn_local(pass_until_killed(client, server, kill.clone()));
                }
            }
        });
        let headers = HeaderMap::new();
        mesh.pool.open(&key, application, &headers).await.expect("opened");
        for _ in 0..3 {
            // The next request finds the connection alive, and kills it.
            kill.set(true);
            mesh.pool.open(&key, application, &headers).await.expect("opened, on another connection");
            assert!(!kill.get(), "the first one was killed");
        }
        network.abort();
    });
}

/// A network that is cut, with a reset, by the first bytes from the client after `kill` was set.
async fn pass_until_killed(mut client: TcpStream, server: TcpStream, kill: Rc<Cell<bool>>) {
    let (mut server_read, mut server_write) = server.into_split();
    let (mut client_read, mut client_write) = client.split();
    let forth = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = client_read.read(&mut buffer).await.unwrap_or(0);
            if read == 0 || kill.replace(false) {
                return;
            }
            server_write.write_all(&buffer[..read]).await.expect("sent");
        }
    };
    tokio::select! {
        () = forth => {}
        _ = tokio::io::copy(&mut server_read, &mut client_write) => {}
    }
    client.set_zero_linger().expect("can be set");
}

#[test]
fn a_new_certificate_is_used_at_once_and_the_old_one_to_the_end() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, address) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        mesh.svids.send_replace(Some(mesh.ca.svid(crate::support::CLIENT)));
        let tunnel = mesh.open(address).await.expect("opened");
        client.write_all(b"hello").await.expect("sent");
        server.read_exact(&mut [0; 5]).await.expect("received");
        client.shutdown().await.expect("ended");
        drop(server);
        mesh.client_end().await.expect("ended well");
        mesh.served().await.expect("the old connection ended with its last stream");
        assert_eq!(mesh.pool.connections(), 1);
        drop(tunnel);
    });
}

#[test]
fn an_unused_connection_is_closed_in_order() {
    local(async {
        let limits = PoolLimits { idle_timeout: Duration::from_millis(200), ..PoolLimits::default() };
        let mesh = Mesh::answering(Options { pool: limits, ..Options::default() }, hold).await;
        let tunnel = mesh.open(anywhere()).await.expect("opened");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(mesh.pool.connections(), 1, "it is in use");
        drop(tunnel);
        until(|| mesh.pool.connections() == 0).await;
    });
}

#[test]
fn giving_up_on_an_answer_tells_the_server() {
    local(async {
        let abandoned = Rc::new(Notify::new());
        let mesh = Mesh::answering(Options::default(), {
            let abandoned = abandoned.clone();
            move |mut incoming| {
                let abandoned = abandoned.clone();
                async move {
                    incoming.abandoned().await;
                    abandoned.notify_one();
                }
            }
        })
        .await;
        let result = tokio::time::timeout(Duration::from_millis(200), mesh.open(anywhere())).await;
        assert!(result.is_err(), "no answer came");
        abandoned.notified().await;
        assert_eq!(mesh.pool.connections(), 1);
    });
}

#[test]
fn dropping_the_pool_ends_its_connections() {
    local(async {
        let mesh = Mesh::answering(Options::default(), hold).await;
        let pool = mesh.pool_with(PoolLimits::default(), Dial::new(TcpStream::connect::<SocketAddr>));
        let tunnel = pool.open(&mesh.key, anywhere(), &HeaderMap::new()).await.expect("opened");
        drop(pool);
        let (mut client, near) = crate::support::accept_one().await;
        let result = relay(near, Transport::Tunnel(tunnel), &RelayLimits::default(), &Meter::default()).await;
        assert!(matches!(result, Err(RelayError::Carrier(_))), "{result:?}");
        assert!(client.read(&mut [0; 1]).await.is_err(), "reset");
    });
}

#[test]
fn a_peer_that_is_no_hbone_endpoint_is_an_error() {
    local(async {
        let ca = Ca::new();
        let (listener, address) = listen().await;
        let server = ca.svid(SERVER);
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.expect("accepts");
                let config = tls::server_config(&server, server.id().trust_domain());
                spawn_local(async move {
                    let Ok((mut stream, _)) = tls::accept(tcp, config).await else { return };
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                    let _ = stream.flush().await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                });
            }
        });
        let (_svids, watched) = watch::channel(Some(ca.svid(crate::support::CLIENT)));
        let pool = Pool::new(watched, PoolLimits::default(), Dial::new(TcpStream::connect::<SocketAddr>));
        let key = Key { address, identities: Arc::from([SERVER.parse().expect("an id")]) };
        let result = pool.open(&key, anywhere(), &HeaderMap::new()).await;
        assert!(matches!(result, Err(OpenError::NoAnswer(_) | OpenError::NotSent(_))), "{result:?}");
    });
}

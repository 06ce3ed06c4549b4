//! Bytes through relay, tunnel and relay: nothing lost, and nothing that was cut looks whole.

use crate::support::{Mesh, Options, Pattern, accept_one, echo, listen, local};
use heddle_dataplane::{
    relay::{Meter, RelayError, RelayLimits, Side, relay},
    stream::Transport,
};
use http::HeaderMap;
use std::{io, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
    time::timeout,
};

const MUCH: u64 = 64 << 20;

/// Sends `length` bytes and the end.
async fn send(mut write: impl AsyncWrite + Unpin, seed: u64, length: u64) {
    let mut pattern = Pattern::new(seed);
    let mut left = length;
    while left > 0 {
        let piece = pattern.next(left);
        write.write_all(&piece).await.expect("sent");
        left -= piece.len() as u64;
    }
    write.shutdown().await.expect("ended");
}

/// Receives exactly `length` bytes and the end.
async fn receive(mut read: impl AsyncRead + Unpin, seed: u64, length: u64) {
    let mut pattern = Pattern::new(seed);
    let mut received = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = read.read(&mut buffer).await.expect("received");
        if read == 0 {
            break;
        }
        pattern.check(&buffer[..read]);
        received += read as u64;
    }
    assert_eq!(received, length);
}

#[test]
fn much_goes_both_ways_and_nothing_is_lost() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::join!(
            send(client_write, 1, MUCH),
            receive(server_read, 1, MUCH),
            send(server_write, 2, MUCH),
            receive(client_read, 2, MUCH),
        );
        mesh.both_ended_well().await;
    });
}

#[test]
fn small_pieces_arrive_while_the_connection_stays_open() {
    local(async {
        let mesh = Mesh::start().await;
        let mut client = mesh.connect(echo().await).await;
        let mut answer = [0; 16];
        for length in 1..=16 {
            client.write_all(&[7; 16][..length]).await.expect("sent");
            client.read_exact(&mut answer[..length]).await.expect("received");
        }
    });
}

#[test]
fn the_client_may_end_first() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        send(&mut client, 1, 1000).await;
        receive(&mut server, 1, 1000).await;
        send(&mut server, 2, 3 << 20).boxed_with(receive(&mut client, 2, 3 << 20)).await;
        mesh.both_ended_well().await;
    });
}

#[test]
fn the_application_may_end_first() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        send(&mut server, 2, 1000).await;
        receive(&mut client, 2, 1000).await;
        send(&mut client, 1, 3 << 20).boxed_with(receive(&mut server, 1, 3 << 20)).await;
        mesh.both_ended_well().await;
    });
}

/// Both at once.
trait BoxedWith: Future<Output = ()> + Sized {
    async fn boxed_with(self, other: impl Future<Output = ()>) {
        tokio::join!(Box::pin(self), Box::pin(other));
    }
}

impl<F: Future<Output = ()>> BoxedWith for F {}

async fn expect_reset(tcp: &mut TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        match tcp.read(&mut buffer).await {
            Ok(0) => panic!("a cut connection looks whole"),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                return;
            }
        }
    }
}

#[test]
fn a_reset_by_the_client_reaches_the_application() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        client.write_all(b"half a sen").await.expect("sent");
        server.read_exact(&mut [0; 10]).await.expect("received");
        client.set_zero_linger().expect("can be set");
        drop(client);
        expect_reset(&mut server).await;
        assert!(matches!(mesh.client_end().await, Err(RelayError::Reset(Side::Near))));
        assert!(matches!(mesh.server_end().await, Err(RelayError::Reset(Side::Far))));
    });
}

#[test]
fn a_reset_by_the_application_reaches_the_client() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        server.write_all(b"half a sen").await.expect("sent");
        client.read_exact(&mut [0; 10]).await.expect("received");
        server.set_zero_linger().expect("can be set");
        drop(server);
        expect_reset(&mut client).await;
        assert!(matches!(mesh.server_end().await, Err(RelayError::Reset(Side::Near))));
        assert!(matches!(mesh.client_end().await, Err(RelayError::Reset(Side::Far))));
    });
}

/// After a FIN nothing is read from that side, so that only the kernel's error can tell.
#[test]
fn a_reset_after_an_end_is_noticed() {
    for client_ends in [true, false] {
        local(async move {
            let mesh = Mesh::start().await;
            let (application, _) = listen().await;
            let (client, server) = mesh.connect_to(&application).await;
            let (mut ends, mut stays) = if client_ends { (client, server) } else { (server, client) };
            ends.shutdown().await.expect("ended");
            assert_eq!(stays.read(&mut [0; 10]).await.expect("the end arrives"), 0);
            ends.set_zero_linger().expect("can be set");
            drop(ends);
            let end = if client_ends { mesh.client_end().await } else { mesh.server_end().await };
            // EPIPE is the kernel's word for a reset after a FIN.
            assert!(matches!(end, Err(RelayError::Reset(Side::Near) | RelayError::ClosedEarly(Side::Near))), "{end:?}");
            let end = if client_ends { mesh.server_end().await } else { mesh.client_end().await };
            assert!(matches!(end, Err(RelayError::Reset(Side::Far))), "{end:?}");
            let error = stays.write_all(&[0; 1 << 20]).await.expect_err("reset");
            assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
        });
    }
}

#[test]
fn a_reset_is_noticed_while_its_bytes_wait_for_credit() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, _server) = mesh.connect_to(&application).await;
        fill(&mut client).await;
        client.set_zero_linger().expect("can be set");
        drop(client);
        assert!(matches!(mesh.client_end().await, Err(RelayError::Reset(Side::Near))));
        assert!(matches!(mesh.server_end().await, Err(RelayError::Reset(_))));
    });
}

/// Writes until nothing more is taken, which must come soon. Says how much was taken.
async fn fill(tcp: &mut TcpStream) -> usize {
    let mut filled = 0;
    while let Ok(written) = timeout(Duration::from_millis(300), tcp.write(&[9; 64 * 1024])).await {
        filled += written.expect("sent");
        assert!(filled < 64 << 20, "nothing bounds what is taken from a client");
    }
    filled
}

#[test]
fn slow_readers_do_not_hold_up_their_neighbours() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, address) = listen().await;
        let entry = mesh.through(address).await;
        let mut stalled = Vec::new();
        for _ in 0..20 {
            let mut client = TcpStream::connect(entry).await.expect("connects");
            let (server, _) = application.accept().await.expect("accepts");
            let bytes = vec![9; 4 << 20];
            let _ = timeout(Duration::from_millis(20), client.write_all(&bytes)).await;
            stalled.push((client, server));
        }
        assert_eq!(mesh.pool.connections(), 1, "all on one connection");
        let (mut client, mut server) = mesh.connect_to(&application).await;
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::join!(
            send(client_write, 1, 4 << 20),
            receive(server_read, 1, 4 << 20),
            send(server_write, 2, 4 << 20),
            receive(client_read, 2, 4 << 20),
        );
    });
}

#[test]
fn a_slow_reader_gets_everything_at_last() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        let filled = fill(&mut client).await;
        client.shutdown().await.expect("ended");
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.expect("received");
        assert_eq!(received.len(), filled);
    });
}

#[test]
fn dropping_a_relay_resets_both_sides() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, address) = listen().await;
        let headers = HeaderMap::new();
        let tunnel = mesh.pool.open(&mesh.key, address, &headers);
        let (tunnel, accepted) = tokio::join!(tunnel, application.accept());
        let (mut server, _) = accepted.expect("accepts");
        let (mut client, near) = accept_one().await;
        let bytes = Rc::new(Meter::default());
        let relay = spawn_local({
            let bytes = bytes.clone();
            async move { relay(near, Transport::Tunnel(tunnel.expect("opened")), &RelayLimits::default(), &bytes).await }
        });
        client.write_all(b"hello").await.expect("sent");
        server.read_exact(&mut [0; 5]).await.expect("received");
        server.write_all(b"you").await.expect("sent");
        client.read_exact(&mut [0; 3]).await.expect("received");
        assert_eq!((bytes.sent(), bytes.received()), (5, 3), "counted while it runs");
        relay.abort();
        expect_reset(&mut client).await;
        expect_reset(&mut server).await;
    });
}

#[test]
fn a_lost_carrier_resets_what_it_carried() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        client.write_all(b"hello").await.expect("sent");
        server.read_exact(&mut [0; 5]).await.expect("received");
        mesh.cut();
        expect_reset(&mut client).await;
        expect_reset(&mut server).await;
        assert!(matches!(mesh.client_end().await, Err(RelayError::Carrier(_))));
    });
}

#[test]
fn silence_ends_a_relay_and_traffic_keeps_it() {
    local(async {
        let relay = RelayLimits { idle_timeout: Duration::from_millis(400), ..RelayLimits::default() };
        let mesh = Mesh::with(Options { relay, ..Options::default() }).await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        for _ in 0..20 {
            // One direction alone, for twice the idle time.
            client.write_all(b"tick").await.expect("sent");
            server.read_exact(&mut [0; 4]).await.expect("received");
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        expect_reset(&mut client).await;
        let end = mesh.client_end().await;
        assert!(matches!(end, Err(RelayError::IdleTimeout(_) | RelayError::Reset(Side::Far))), "{end:?}");
    });
}

#[test]
fn plain_relays_carry_ends_and_resets_too() {
    local(async {
        let limits = RelayLimits::default();
        let pair = || async {
            let ((client, near), (far, server)) = tokio::join!(accept_one(), accept_one());
            let limits = limits.clone();
            let task = spawn_local(async move { relay(near, Transport::Plain(far), &limits, &Meter::default()).await });
            (client, server, task)
        };
        let (mut client, mut server, task) = pair().await;
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::join!(
            send(client_write, 1, 8 << 20),
            receive(server_read, 1, 8 << 20),
            send(server_write, 2, 8 << 20),
            receive(client_read, 2, 8 << 20),
        );
        task.await.expect("joined").expect("both ended");

        let (client, mut server, task) = pair().await;
        client.set_zero_linger().expect("can be set");
        drop(client);
        expect_reset(&mut server).await;
        assert!(matches!(task.await.expect("joined"), Err(RelayError::Reset(Side::Near))));

        let (mut client, server, task) = pair().await;
        server.set_zero_linger().expect("can be set");
        drop(server);
        expect_reset(&mut client).await;
        assert!(matches!(task.await.expect("joined"), Err(RelayError::Reset(Side::Far))));

        // Both halves of one side have ended; the other still sends.
        let (mut client, mut server, task) = pair().await;
        client.shutdown().await.expect("ended");
        receive(&mut server, 1, 0).await;
        send(&mut server, 2, 1 << 20).boxed_with(receive(&mut client, 2, 1 << 20)).await;
        task.await.expect("joined").expect("both ended");

        let (mut client, mut server, task) = pair().await;
        fill(&mut client).await;
        client.set_zero_linger().expect("can be set");
        drop(client);
        assert!(
            matches!(task.await.expect("joined"), Err(RelayError::Reset(Side::Near))),
            "noticed while nothing is read"
        );
        expect_reset(&mut server).await;
    });
}

/// The prompt of a server that speaks first is not held back by anything.
#[test]
fn the_application_may_speak_first() {
    local(async {
        let mesh = Mesh::start().await;
        let (application, _) = listen().await;
        let (mut client, mut server) = mesh.connect_to(&application).await;
        server.write_all(b"220 ready\r\n").await.expect("sent");
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).await.expect("received");
        assert_eq!(&greeting, b"220 ready\r\n");
    });
}

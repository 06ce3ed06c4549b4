//! What the kernel says of the proxy's sockets, by the end of a relay: on real connections, shared and not.

use crate::support::{Mesh, accept_one, echo, local};
use heddle_dataplane::{
    relay::{Meter, RelayLimits, Side, relay},
    socket::tcp_info,
    stream::Transport,
    telemetry::tcp::{TcpReport, TcpSample},
};
use socket2::{Domain, Socket, Type};
use std::{net::SocketAddr, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinHandle, spawn_local},
};

/// A relay that runs as a task, and what it has measured when that is over.
struct Running {
    task: JoinHandle<()>,
    meter: Rc<Meter>,
}

impl Running {
    fn start(near: TcpStream, far: Transport) -> Self {
        let meter = Rc::<Meter>::default();
        let measured = meter.clone();
        // How it ended is what other tests look at.
        let task = spawn_local(async move { drop(relay(near, far, &RelayLimits::default(), &measured).await) });
        Self { task, meter }
    }

    /// Waits for the end; gives what was said of the near and of the far side.
    async fn ended(self) -> (TcpReport, TcpReport) {
        self.task.await.expect("no panic");
        let report = |side| *self.meter.take_report(side).expect("the kernel was asked");
        (report(Side::Near), report(Side::Far))
    }
}

/// Sends so many bytes, and gets them back.
async fn exchange(client: &mut TcpStream, length: usize) {
    let (sent, mut received) = (vec![7; length], vec![0; length]);
    let (mut read, mut write) = client.split();
    let (written, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
    written.expect("sent");
    read.expect("received");
}

async fn connect(address: SocketAddr) -> Transport {
    Transport::Plain(TcpStream::connect(address).await.expect("it listens"))
}

/// A client whose connection goes through a tunnel of `mesh` to an application that sends everything back.
async fn tunnelled(mesh: &Rc<Mesh>) -> (TcpStream, Running) {
    let tunnel = mesh.open(echo().await).await.expect("opened");
    let (client, near) = accept_one().await;
    (client, Running::start(near, Transport::Tunnel(tunnel)))
}

fn measured(sample: &TcpSample) -> bool {
    sample.rtt_us.is_some_and(|rtt| rtt < 10_000_000) && sample.rtt_min_us.is_some() && sample.retransmits.is_some()
}

#[test]
fn both_sides_of_a_plain_relay_are_told_apart() {
    local(async {
        let (mut client, near) = accept_one().await;
        let relay = Running::start(near, connect(echo().await).await);
        exchange(&mut client, LARGE).await;
        client.shutdown().await.expect("shut down");
        assert_eq!(client.read(&mut [0]).await.expect("an end in order"), 0);
        let (near, far) = relay.ended().await;
        for report in [near, far] {
            let sample = report.sample;
            assert!(measured(&sample), "{sample:?}");
            assert_eq!(report.uncounted, sample, "nobody shares it");
            // The FIN counts.
            assert!(matches!(sample.bytes_received, Some(LARGE_U64 | LARGE_AND_FIN)), "{sample:?}");
        }
        let far = far.sample.bytes_acked.expect("this kernel says so");
        assert!((LARGE_U64..LARGE_U64 + 3).contains(&far), "{far} bytes, SYN and FIN");
    });
}

#[test]
fn a_relay_that_is_cut_is_told_as_well() {
    local(async {
        let (mut client, near) = accept_one().await;
        let relay = Running::start(near, connect(echo().await).await);
        exchange(&mut client, 1000).await;
        relay.task.abort();
        while !relay.task.is_finished() {
            tokio::task::yield_now().await;
        }
        for side in [Side::Near, Side::Far] {
            let report = relay.meter.take_report(side).expect("the kernel was asked");
            assert!(measured(&report.sample), "{report:?}");
            assert_eq!(report.sample.bytes_received, Some(1000), "{report:?}");
        }
        assert!(client.read(&mut [0]).await.is_err(), "reset");
    });
}

#[test]
fn a_stream_tells_what_happened_since_it_began() {
    local(async {
        let mesh = Mesh::start().await;
        let (mut client, relay) = tunnelled(&mesh).await;
        exchange(&mut client, LARGE).await;
        drop(client);
        let (_, first) = relay.ended().await;
        assert!(measured(&first.sample), "{first:?}");
        assert!(first.sample.bytes_received >= Some(LARGE_U64), "{first:?}");

        let (mut client, relay) = tunnelled(&mesh).await;
        exchange(&mut client, 1000).await;
        drop(client);
        let (near, second) = relay.ended().await;
        assert_eq!(mesh.pool.connections(), 1, "both used the same connection");
        assert!(near.sample.bytes_received >= Some(1000), "{near:?}");
        assert!((Some(1000)..Some(LARGE_U64)).contains(&second.sample.bytes_received), "{second:?}");
        assert!(measured(&second.sample), "{second:?}");
    });
}

#[test]
fn what_streams_share_is_counted_once() {
    local(async {
        let mesh = Mesh::start().await;
        let (mut busy, busy_relay) = tunnelled(&mesh).await;
        let (quiet, quiet_relay) = tunnelled(&mesh).await;
        exchange(&mut busy, LARGE).await;
        drop(busy);
        let (_, busy) = busy_relay.ended().await;
        drop(quiet);
        let (_, quiet) = quiet_relay.ended().await;
        assert_eq!(mesh.pool.connections(), 1, "both used the same connection");
        assert!(busy.uncounted.bytes_received >= Some(LARGE_U64), "{busy:?}");
        // The quiet one was open while it came.
        assert!(quiet.sample.bytes_received >= Some(LARGE_U64), "{quiet:?}");
        assert!(quiet.uncounted.bytes_received < Some(LARGE_U64), "{quiet:?}");
    });
}

#[test]
fn a_lost_connection_still_has_its_numbers() {
    local(async {
        let mesh = Mesh::start().await;
        let (mut client, relay) = tunnelled(&mesh).await;
        exchange(&mut client, LARGE).await;
        mesh.cut();
        let (_, far) = relay.ended().await;
        assert_eq!(mesh.pool.connections(), 0, "it is gone");
        assert!(measured(&far.sample), "{far:?}");
        assert!(far.sample.bytes_received >= Some(LARGE_U64), "{far:?}");
    });
}

/// The kernel drops a SYN to a listener whose queue is full (listen(2)), and the client sends it again after a second.
#[test]
fn what_was_sent_again_is_counted() {
    local(async {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has free ports");
        listener.listen(0).expect("it listens");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("bound");
        let _first = TcpStream::connect(address).await.expect("one fits into the queue");

        let late = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        late.set_nonblocking(true).expect("set");
        assert!(late.connect(&address.into()).is_err(), "it has to wait");
        let retransmits = || tcp_info::sample(&late).expect("a TCP socket").retransmits;
        assert_eq!(retransmits(), Some(0));
        while retransmits() == Some(0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Both are taken; the second one when its SYN comes once more.
        let (_first_peer, _) = listener.accept().expect("the first one");
        let (late_peer, _) = listener.accept().expect("the second one");
        let late = TcpStream::from_std(late.into()).expect("a socket that does not block");
        late.writable().await.expect("connected");

        let relay = Running::start(late, connect(echo().await).await);
        drop(late_peer);
        let (near, far) = relay.ended().await;
        assert!(near.sample.retransmits >= Some(1), "{near:?}");
        assert_eq!(far.sample.retransmits, Some(0), "{far:?}");
    });
}

/// More than what TLS, HTTP/2 and a small exchange add up to.
const LARGE: usize = 1 << 20;
const LARGE_U64: u64 = LARGE as u64;
const LARGE_AND_FIN: u64 = LARGE_U64 + 1;

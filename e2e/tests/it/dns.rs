//! Port 53 with `--dns` in eBPF mode: every kind of UDP socket is answered by the proxy's listener, and does not notice.

use crate::{sockets, support::soon};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{TestMesh, cgroup, mesh::PROXY_UID};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

scenarios! {
    in ebpf Ebpf:
    every_udp_socket_is_answered_by_the_proxys_dns_listener,
}

fn every_udp_socket_is_answered_by_the_proxys_dns_listener(mesh: &TestMesh) -> Result<()> {
    let pod = mesh.pod("client").uncaptured().init_args(&["--dns"]).start()?;
    pod.init("apply")?.success()?;
    let server = SocketAddr::new(mesh.outside(), 53);
    let proxy = pod.cgroup().container(cgroup::PROXY);
    proxy.make()?;
    // What a proxy does: it claims the pod, then it may bind its port.
    let listener = pod.run_as(&proxy, PROXY_UID, || listen(server))??;
    listener.set_read_timeout(Some(Duration::from_millis(20)))?;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let answers = scope.spawn(|| answer(&listener, &ended));
        let asked = pod.run(|| ask_in_every_way(server));
        ended.store(true, Ordering::Relaxed);
        let answered = answers.join().expect("the listener does not panic")?;
        let ways = asked??;
        ensure!(answered == ways, "{ways} questions, {answered} answers");
        Ok(())
    })?;
    // Without anybody on 15053 a connected socket is told at once.
    drop(listener);
    soon("a refusal without a listener", || {
        let refused = pod.run(|| -> io::Result<()> {
            let socket = client(server, Domain::for_address(server))?;
            socket.connect(server)?;
            socket.send(b"?")?;
            socket.recv(&mut [0; 16]).map(|_| ())
        })?;
        Ok(refused.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
    })
}

/// Connected and not, on a socket of the family, and for IPv4 also on an IPv6 one; twice each. How many questions that were.
fn ask_in_every_way(server: SocketAddr) -> Result<usize> {
    let mut ways = vec![(Domain::for_address(server), server)];
    if server.is_ipv4() {
        ways.push((Domain::IPV6, sockets::mapped(server)));
    }
    let mut asked = 0;
    for (domain, server) in ways {
        for connected in [true, false] {
            let socket = client(server, domain)?;
            if connected {
                socket.connect(server).with_context(|| format!("connecting a {domain:?} socket to {server}"))?;
                ensure!(socket.peer_addr()? == server, "the peer is {}", socket.peer_addr()?);
                ensure!(
                    !socket.local_addr()?.ip().to_canonical().is_loopback(),
                    "own address {}",
                    socket.local_addr()?
                );
            }
            for question in [b"one", b"two"] {
                let sent = if connected { socket.send(question) } else { socket.send_to(question, server) };
                sent.with_context(|| format!("asking {server}, connected: {connected}"))?;
                let mut buffer = [0; 16];
                let (bytes, from) = socket.recv_from(&mut buffer).with_context(|| format!("waiting for {server}"))?;
                ensure!((&buffer[..bytes], from) == (question.as_slice(), server), "an answer came from {from}");
                asked += 1;
            }
        }
    }
    Ok(asked)
}

fn client(like: SocketAddr, domain: Domain) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    let any: IpAddr = if domain == Domain::IPV4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    if like.is_ipv6() && domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket.into())
}

fn listen(like: SocketAddr) -> Result<UdpSocket> {
    let loopback: IpAddr = if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let claim = sockets::stream(SocketAddr::new(loopback, 0), Protocol::TCP)?;
    sockets::set_bytes(claim.as_raw_fd(), LEVEL, CLAIM, &[9; 32]).context("the claim")?;
    UdpSocket::bind((loopback, 15053)).context("binding the proxy's DNS port")
}

/// Sends back what it gets until it is told to end. How many that were.
fn answer(listener: &UdpSocket, ended: &AtomicBool) -> Result<usize> {
    let mut answered = 0;
    while !ended.load(Ordering::Relaxed) {
        let mut buffer = [0; 16];
        match listener.recv_from(&mut buffer) {
            Ok((bytes, from)) => {
                listener.send_to(&buffer[..bytes], from)?;
                answered += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("the listener"),
        }
    }
    Ok(answered)
}

/// init/abi
const LEVEL: i32 = 0x4844;
const CLAIM: i32 = 1;
/// Longest wait for an answer from within the pod.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

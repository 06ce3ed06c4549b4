//! Whose address a server sees: its client's, never the proxy's, whatever the server is written in and however it listens.

use crate::sockets;
use anyhow::{Context, Result, ensure};
use heddle_e2e::{App, Pod, TestMesh, wait};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

scenarios! {
    every_server_sees_the_clients_address,
}

/// A listener of a test's own: its name, the port, and how it is made.
type Kind = (&'static str, u16, fn(&Pod, u16) -> io::Result<Socket>);

const KINDS: [Kind; 3] = [
    ("a TCP listener", 9000, |pod, port| {
        let at = sockets::any(pod.at(0), port);
        sockets::listen(sockets::stream(at, Protocol::TCP)?, at)
    }),
    ("an IPv6 listener that takes IPv4 too", 9001, |_, port| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_only_v6(false)?;
        sockets::listen(socket, SocketAddr::new([0; 16].into(), port))
    }),
    ("an MPTCP listener", 9002, |pod, port| {
        let at = sockets::any(pod.at(0), port);
        sockets::listen(sockets::stream(at, sockets::mptcp())?, at)
    }),
];

fn every_server_sees_the_clients_address(mesh: &TestMesh) -> Result<()> {
    let ports: Vec<u16> = KINDS.iter().map(|(_, port, _)| *port).collect();
    let web = mesh.pod("web").ports(&ports).ports(App::Go.ports()).serve(App::Nginx)?;
    web.run_app(App::Go)?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let bare = mesh.pod("bare").unmeshed().serve(App::Nginx)?;
    bare.run_app(App::Go)?;
    // So that plaintext of the stranger is served too, and its address is seen as well.
    mesh.apply("mtls-permissive.yaml")?;
    let listeners = web.exec(&["ss", "-M", "-l", "-n"])?.success()?;
    ensure!(listeners.contains(":8080"), "Go does not listen with MPTCP, so nothing is shown: {listeners}");

    // The control is the last: nobody stands between those two.
    for (from, server) in [(&client, &web), (&stranger, &web), (&stranger, &bare)] {
        let path = format!("{} of {}", from.name(), server.name());
        let nginx = from.curl(&format!("http://{}.pod/peer", server.name()))?;
        ensure!(nginx.is_ok(), "{path}: {nginx:?}");
        check(&path, "nginx", from, nginx.body.trim().parse()?)?;
        let go = from.curl(&format!("http://{}.pod:8080/", server.name()))?;
        ensure!(go.is_ok(), "{path}: {go:?}");
        let seen: SocketAddr = go.body.trim().parse().with_context(|| format!("Go saw {:?}", go.body))?;
        check(&path, "Go", from, seen.ip())?;
        for (name, port, listen) in KINDS {
            let (accepted, named) =
                accept_one(from, server, port, listen).with_context(|| format!("{path}: {name}"))?;
            check(&path, &format!("{name}, accept(2)"), from, accepted.ip())?;
            check(&path, &format!("{name}, getpeername(2)"), from, named.ip())?;
            ensure!(accepted == named, "{path}: {name}: accept(2) says {accepted}, getpeername(2) {named}");
        }
    }
    Ok(())
}

fn check(path: &str, server: &str, from: &Pod, seen: IpAddr) -> Result<()> {
    println!("{path}: {server} sees {seen}");
    ensure!(seen.to_canonical() == from.address(), "{path}: {server} sees {seen} and not {}", from.address());
    Ok(())
}

/// Listens in `server`, dials from `from`, and returns the client's address as accept(2) and getpeername(2) tell it.
fn accept_one(
    from: &Pod,
    server: &Pod,
    port: u16,
    listen: fn(&Pod, u16) -> io::Result<Socket>,
) -> Result<(SocketAddr, SocketAddr)> {
    let listener = server.run(|| listen(server, port))?.context("listening")?;
    // For accept(2) too (socket(7)).
    listener.set_read_timeout(Some(wait::PATIENCE))?;
    let mut stream = from.connect(server.at(port))?;
    stream.write_all(b"?")?;
    let (accepted, peer) = listener.accept().context("nobody came")?;
    let named = accepted.peer_addr()?;
    let address = |address: socket2::SockAddr| address.as_socket().context("not an IP address");
    Ok((address(peer)?, address(named)?))
}

//! The proxy's own ports, dialled or taken by applications of its pod.

use super::{NOBODY, Who, application, ensure_nothing_readable, guarded, proxy_uid, word};
use crate::{
    sockets,
    support::{Echo, echo, prompt},
};
use anyhow::{Context, Result, bail, ensure};
use heddle_e2e::{Pod, TestMesh, wait};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
};

pub(super) fn the_proxys_ports_lead_nowhere(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let _servers = (Echo::start(&web, 9000)?, Echo::start(&client, 9000)?, Echo::start(&stranger, 15001)?);
    // The control: without a proxy that number is nothing special, and beside the proxy other ports are the application's.
    for (pod, port) in [(&stranger, 15001), (&client, 9000)] {
        for ip in own_addresses(pod) {
            echo(pod, (ip, port).into())?;
        }
    }
    echo(&client, mesh.service("web", 9000))?;

    let before = opened(&client)?;
    let (wire, app, mut words) = (client.capture()?, application(&client), Vec::new());
    for uid in [NOBODY, proxy_uid(mesh)] {
        for ip in own_addresses(&client) {
            for port in PORTS_OF_CAPTURE {
                let (to, word) = (SocketAddr::new(ip, port), word(words.len()));
                let who = Who { pod: &client, container: &app, uid };
                let end = prompt(&format!("the end of a connection to {to}"), || who.run(|| dial(to, &word)))?;
                println!("{to} as uid {uid}: {}", end.with_context(|| format!("{to} as uid {uid}"))?);
                words.push(word);
            }
        }
    }
    ensure_nothing_readable(&wire.finish()?, &words)?;
    // A loop would show here: each connection of the proxy to itself is one more.
    let (grown, dials) = (opened(&client)? - before, words.len());
    println!("{dials} dials, {grown} connections that the proxy took; got round: 0 of {dials}");
    ensure!(grown <= f64::from(u32::try_from(dials)?), "{dials} dials became {grown} connections");
    echo(&client, mesh.service("web", 9000)).context("the proxy serves as before")?;
    Ok(())
}

/// Dials and says a word; how that ended, which is never an answer to it.
fn dial(to: SocketAddr, word: &str) -> Result<String> {
    let mut stream = match TcpStream::connect(to) {
        Ok(stream) => stream,
        Err(error) => return Ok(format!("refused ({error})")),
    };
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    let mut answer = Vec::new();
    match stream.write_all(word.as_bytes()).and_then(|()| stream.read_to_end(&mut answer)) {
        Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => bail!("it hangs"),
        Err(error) => return Ok(format!("ended ({error})")),
        Ok(_) => {}
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    ensure!(!text.contains(word) && !text.contains(':'), "somebody answered: {text:?}");
    Ok(format!("ended after {} bytes", answer.len()))
}

/// Those by which an application may mean its own pod; the unspecified one is loopback to connect(2).
fn own_addresses(pod: &Pod) -> [IpAddr; 3] {
    match pod.address() {
        own @ IpAddr::V4(_) => [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into(), own],
        own @ IpAddr::V6(_) => [Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into(), own],
    }
}

/// Connections that the proxy of `pod` has accepted, in both directions.
fn opened(pod: &Pod) -> Result<f64> {
    Ok(pod.proxy().metrics()?.sum("heddle_connections_opened_total", &[]))
}

pub(super) fn nobody_shares_the_proxys_ports(mesh: &TestMesh) -> Result<()> {
    let client = guarded(mesh, "client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let (app, controls, uid) = (application(&client), application(&stranger), proxy_uid(mesh));
    let client = Who { pod: &client, container: &app, uid };
    let control = Who { pod: &stranger, container: &controls, uid };
    let mut tried = 0;
    for port in ALL_PORTS {
        for (name, kind) in [("TCP", Type::STREAM), ("UDP", Type::DGRAM)] {
            // The control: the kernel itself lets sockets of one user share a port.
            let _both = control
                .run(|| Ok::<_, io::Error>((share(&stranger, kind, port)?, share(&stranger, kind, port)?)))??;
            let result = client.run(|| share(client.pod, kind, port))?;
            let error = result.err().with_context(|| format!("{name} port {port} of the proxy was shared"))?;
            ensure!(error.kind() == io::ErrorKind::PermissionDenied, "{name} port {port}: {error}");
            tried += 1;
        }
    }
    println!("{tried} binds of the proxy's ports with SO_REUSEPORT as uid {uid}: all refused; got round: 0");
    Ok(())
}

/// Binds with SO_REUSEPORT (socket(7)): sockets of one user may then share a port.
fn share(pod: &Pod, kind: Type, port: u16) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let at = sockets::any(pod.at(0), port);
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    socket.set_reuse_port(true)?;
    socket.bind(&at.into())?;
    if kind == Type::STREAM {
        socket.listen(1)?;
    }
    Ok(socket)
}

/// Those that take captured connections, and tunnels.
const PORTS_OF_CAPTURE: [u16; 4] = [15001, 15006, 15053, 15008];
/// All that the proxy listens on.
const ALL_PORTS: [u16; 7] = [15000, 15001, 15006, 15008, 15020, 15021, 15053];

//! What no proxy can take: it is refused by the guard, before a packet leaves.

use super::{NOBODY, Who, application, ensure_nothing_readable, guarded, word};
use crate::{
    sockets,
    support::{Echo, prompt},
};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{TestMesh, wait};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

/// One way of sending a datagram.
type Send = fn(SocketAddr, &[u8]) -> io::Result<usize>;

const SENDS: [(&str, Send); 5] = [
    ("sendto(2)", |to, word| UdpSocket::bind(sockets::any(to, 0))?.send_to(word, to)),
    ("connect(2) and send(2)", |to, word| {
        let socket = UdpSocket::bind(sockets::any(to, 0))?;
        socket.connect(to)?;
        socket.send(word)
    }),
    ("sendto(2) on a socket that is connected elsewhere", |to, word| {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        socket.connect(&SocketAddr::new(to.ip(), 53).into())?;
        socket.send_to(word, &to.into())
    }),
    ("sendto(2) on an IPv6 socket", |to, word| {
        let to = sockets::mapped(to);
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.send_to(word, &to.into())
    }),
    ("sendto(2) with an address of IPv4 on an IPv6 socket", |to, word| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.send_to(word, &to.into())
    }),
];

/// Protocols beside TCP and UDP that carry an application's data.
const PROTOCOLS: [(&str, i32, i32); 4] = [
    ("SCTP", libc::SOCK_STREAM, libc::IPPROTO_SCTP),
    ("DCCP", libc::SOCK_DCCP, libc::IPPROTO_DCCP),
    ("UDP-Lite", libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
    ("L2TP", libc::SOCK_DGRAM, 115),
];

pub(super) fn what_cannot_be_captured_is_refused(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = guarded(mesh, "client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    mesh.apply("mtls-permissive.yaml")?;
    let _server = Echo::start(&web, 9000)?;
    let quic = Receiver::start(mesh, 443)?;

    let (wires, mut words) = ((stranger.capture()?, client.capture()?), Vec::new());
    let (app, controls) = (application(&client), application(&stranger));
    let client = Who { pod: &client, container: &app, uid: NOBODY };
    let control = Who { pod: &stranger, container: &controls, uid: NOBODY };
    for (name, send) in SENDS {
        let (refused, passes) = (word(words.len()), word(words.len() + 1));
        let error = prompt(name, || client.run(|| send(quic.at, refused.as_bytes())))?.err();
        let error = error.with_context(|| format!("UDP to port 443 by {name} was not refused"))?;
        control.run(|| send(quic.at, passes.as_bytes()))?.with_context(|| format!("the control of {name}"))?;
        ensure!(quic.next()? == passes, "a datagram by {name} got round");
        println!("UDP to port 443 by {name}: refused ({error})");
        words.extend([refused, passes]);
    }

    let (refused, passes) = (word(words.len()), word(words.len() + 1));
    control.run(|| on_device(web.at(9000), &passes))?.context("the control of a socket bound to a device")?;
    let error = prompt("a refusal", || client.run(|| on_device(web.at(9000), &refused)))?.err();
    let error = error.context("a socket bound to a device was not refused")?;
    println!("a TCP socket bound to a device: refused ({error})");
    words.extend([refused, passes]);

    for (name, kind, protocol) in PROTOCOLS {
        let open =
            || Socket::new(Domain::for_address(web.at(0)), Type::from(kind), Some(Protocol::from(protocol))).map(drop);
        let here = match control.run(open)? {
            Ok(()) => "present here",
            Err(error) if is_absent(&error) => "absent here",
            Err(error) => return Err(error).with_context(|| format!("the control of a socket of {name}")),
        };
        let error = client.run(open)?.err().with_context(|| format!("a socket of {name} was not refused"))?;
        println!("a socket of {name} ({here}): refused ({error})");
    }

    let (seen, hidden) = (wires.0.finish()?, wires.1.finish()?);
    for pair in words.chunks(2) {
        ensure!(seen.occurrences(&pair[1]) > 0, "the control {} is not seen on the wire", pair[1]);
    }
    ensure_nothing_readable(&hidden, &words)?;
    println!("got round: 0 of {}", words.len() / 2 + PROTOCOLS.len());
    Ok(())
}

pub(super) fn a_strict_guard_refuses_other_udp(mesh: &TestMesh) -> Result<()> {
    let client = guarded(mesh, "client").start()?;
    let strict = mesh.pod("strict").init_args(&["--guard", "strict"]).start()?;
    let (other, dns) = (Receiver::start(mesh, 9999)?, Receiver::start(mesh, 53)?);
    let wire = strict.capture()?;
    let (apps, mut words) = ((application(&client), application(&strict)), Vec::new());
    let client = Who { pod: &client, container: &apps.0, uid: NOBODY };
    let strict = Who { pod: &strict, container: &apps.1, uid: NOBODY };
    for (name, send) in SENDS {
        let (refused, passes) = (word(words.len()), word(words.len() + 1));
        let error = strict.run(|| send(other.at, refused.as_bytes()))?.err();
        let error = error.with_context(|| format!("UDP by {name} was not refused"))?;
        client.run(|| send(other.at, passes.as_bytes()))?.with_context(|| format!("{name} with `--guard on`"))?;
        ensure!(other.next()? == passes, "a datagram by {name} got round");
        println!("other UDP by {name}: refused ({error})");
        words.extend([refused, passes]);
    }
    let traffic = wire.finish()?;
    ensure!(traffic.datagrams.is_empty(), "{:?}", traffic.datagrams);
    // DNS is let through, or names would not resolve.
    let question = word(words.len());
    strict.run(|| SENDS[0].1(dns.at, question.as_bytes()))?.context("DNS")?;
    ensure!(dns.next()? == question);
    Ok(())
}

/// Sends a word from a TCP socket that is bound to the pod's interface (socket(7), SO_BINDTODEVICE).
fn on_device(to: SocketAddr, word: &str) -> io::Result<()> {
    let socket = sockets::stream(to, Protocol::TCP)?;
    socket.bind_device(Some(b"eth0"))?;
    socket.connect_timeout(&to.into(), wait::PATIENCE)?;
    socket.send(word.as_bytes()).map(drop)
}

/// Whether the kernel has no such protocol (socket(2)).
fn is_absent(error: &io::Error) -> bool {
    let codes = [libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT, libc::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Who gets datagrams, outside of the mesh.
struct Receiver {
    socket: UdpSocket,
    at: SocketAddr,
}

impl Receiver {
    fn start(mesh: &TestMesh, port: u16) -> Result<Self> {
        let at = SocketAddr::new(mesh.outside(), port);
        let socket = mesh.node().run(|| UdpSocket::bind(at))?.with_context(|| format!("binding {at}"))?;
        socket.set_read_timeout(Some(wait::PATIENCE))?;
        Ok(Self { socket, at })
    }

    /// The next one.
    fn next(&self) -> Result<String> {
        let mut buffer = [0; 64];
        let (length, _) = self.socket.recv_from(&mut buffer).context("no datagram came")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

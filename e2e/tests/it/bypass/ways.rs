//! The ways of opening a TCP connection that an application has, and what became of one.

use crate::sockets;
use anyhow::{Context, Result, ensure};
use heddle_e2e::{Pod, cgroup::Container};
use socket2::{Protocol, SockAddr};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

/// One way of opening a connection and sending a first word.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// As a report names it.
    pub(super) name: &'static str,
    open: fn(SocketAddr, &[u8]) -> io::Result<TcpStream>,
}

/// All of them.
pub(super) const WAYS: [Way; 8] = [
    Way { name: "connect(2)", open: |to, word| send(TcpStream::connect(to)?, word) },
    Way { name: "connect(2), non-blocking", open: non_blocking },
    Way { name: "connect(2) on an IPv6 socket", open: |to, word| send(TcpStream::connect(sockets::mapped(to))?, word) },
    Way { name: "connect(2) from the pod's address", open: bound },
    Way { name: "MPTCP", open: mptcp },
    Way { name: "sendto(2) with MSG_FASTOPEN", open: fast_open_send },
    Way { name: "TCP_FASTOPEN_CONNECT", open: fast_open_connect },
    Way { name: "connect by io_uring", open: io_uring },
];

fn send(mut stream: TcpStream, word: &[u8]) -> io::Result<TcpStream> {
    stream.write_all(word)?;
    Ok(stream)
}

fn non_blocking(to: SocketAddr, word: &[u8]) -> io::Result<TcpStream> {
    let socket = sockets::stream(to, Protocol::TCP)?;
    // It is non-blocking for the call, and then polls.
    socket.connect_timeout(&to.into(), DEADLINE)?;
    send(sockets::into_stream(socket), word)
}

fn bound(to: SocketAddr, word: &[u8]) -> io::Result<TcpStream> {
    // The address that this pod has on the way there.
    let probe = UdpSocket::bind(sockets::any(to, 0))?;
    probe.connect(to)?;
    let socket = sockets::stream(to, Protocol::TCP)?;
    socket.bind(&SocketAddr::new(probe.local_addr()?.ip(), 0).into())?;
    socket.connect(&to.into())?;
    send(sockets::into_stream(socket), word)
}

fn mptcp(to: SocketAddr, word: &[u8]) -> io::Result<TcpStream> {
    let socket = sockets::stream(to, sockets::mptcp())?;
    socket.connect(&to.into())?;
    send(sockets::into_stream(socket), word)
}

fn fast_open_send(to: SocketAddr, word: &[u8]) -> io::Result<TcpStream> {
    let socket = sockets::stream(to, Protocol::TCP)?;
    let sent = socket.send_to_with_flags(word, &SockAddr::from(to), libc::MSG_FASTOPEN)?;
    send(sockets::into_stream(socket), &word[sent..])
}

fn fast_open_connect(to: SocketAddr, word: &[u8]) -> io::Result<TcpStream> {
    let socket = sockets::stream(to, Protocol::TCP)?;
    sockets::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    socket.connect(&to.into())?;
    send(sockets::into_stream(socket), word)
}

fn io_uring(to: SocketAddr, word: &[u8]) -> io::Result<TcpStream> {
    let socket = sockets::stream(to, Protocol::TCP)?;
    sockets::connect_by_io_uring(&socket, to)?;
    send(sockets::into_stream(socket), word)
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum End {
    /// The server answered; the ends as the socket names them (getsockname(2), getpeername(2)).
    Delivered {
        /// Ours.
        local: SocketAddr,
        /// The server's.
        peer: SocketAddr,
    },
    /// Refused, or ended without an answer.
    Refused(io::Error),
}

/// Who tries: the container, and the user in it.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) uid: u32,
}

impl Who<'_> {
    /// Runs `work` as them.
    pub(super) fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.pod.run_as(self.container, self.uid, work)
    }

    /// Opens a connection to an [`crate::support::Echo`] and has it say the word back.
    pub(super) fn attempt(self, way: Way, to: SocketAddr, word: &str) -> Result<End> {
        match self.run(|| exchange(way, to, word))? {
            Ok((local, peer)) => Ok(End::Delivered { local, peer }),
            // What is neither delivered nor refused is no good end either.
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                Err(error).with_context(|| format!("{} from {} to {to} hangs", way.name, self.pod.name()))
            }
            Err(error) if [io::ErrorKind::Unsupported, io::ErrorKind::InvalidData].contains(&error.kind()) => {
                Err(error).with_context(|| format!("{} from {}", way.name, self.pod.name()))
            }
            Err(error) => Ok(End::Refused(error)),
        }
    }
}

fn exchange(way: Way, to: SocketAddr, word: &str) -> io::Result<(SocketAddr, SocketAddr)> {
    let stream = (way.open)(to, word.as_bytes())?;
    let ends = (stream.local_addr()?, stream.peer_addr()?);
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting)?;
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer)?;
    if answer != word.as_bytes() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "somebody else answered"));
    }
    Ok(ends)
}

/// Checks that the positive control got through.
pub(super) fn ensure_delivered(end: &End, what: &str) -> Result<()> {
    ensure!(matches!(end, End::Delivered { .. }), "the control of {what} does not get through: {end:?}");
    Ok(())
}

/// The kernel gives up a SYN much later; no refusal takes as long.
const DEADLINE: Duration = Duration::from_secs(10);

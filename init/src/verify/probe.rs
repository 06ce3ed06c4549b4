//! Opens a connection as an application would, to an address that nobody has, and proves that the proxy's port got it.

use super::sockets;
use heddle_init_abi::{OUTBOUND_PORT, OWN_MARK};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// What a probe showed.
#[derive(Debug)]
pub enum Outcome {
    /// The connection arrived at our own listener on the proxy's port, with its destination.
    CapturedByUs,
    /// The proxy listens already. The connection's other end is a socket of this pod with the probe's address.
    CapturedByProxy,
    /// The connection was handed to the proxy, which does not listen, and was refused.
    Refused,
    /// The pod has no route that would let a connection begin.
    NoRoute(io::Error),
}

/// Why a probe shows that capture does not work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The sockets of the pod cannot be listed.
    #[error("cannot read /proc/self/net/tcp")]
    Sockets(#[source] io::Error),
    /// We cannot listen as the proxy does.
    #[error("cannot listen on port {OUTBOUND_PORT} as the proxy would, to see the probe arrive")]
    Listen(#[source] io::Error),
    /// The client side of the probe cannot be made.
    #[error("cannot make a socket for the probe")]
    Client(#[source] io::Error),
    /// Nothing answered.
    #[error("a connection to {to} was not captured: nothing answered it within {} s", PROBE_TIMEOUT.as_secs())]
    Silence {
        /// The probe's address.
        to: SocketAddr,
    },
    /// The dial ended with an error.
    #[error("a connection to {to} did not get to the listener on port {OUTBOUND_PORT}, so it was not captured")]
    Failed {
        /// The probe's address.
        to: SocketAddr,
        /// How it ended.
        source: io::Error,
    },
    /// The application would be told another address than it dialled.
    #[error("a connection to {to} was captured, but the application would see {found} as the other end")]
    Peer {
        /// The probe's address.
        to: SocketAddr,
        /// What `getpeername()` said.
        found: SocketAddr,
    },
    /// Something answered, but not our listener.
    #[error("a connection to {to} was answered, but not by the listener on port {OUTBOUND_PORT}; it was not captured")]
    Elsewhere {
        /// The probe's address.
        to: SocketAddr,
    },
    /// Our listener got it with another destination.
    #[error("a connection to {to} was captured, but its destination arrived as {found}")]
    Destination {
        /// The probe's address.
        to: SocketAddr,
        /// What `getsockname()` said.
        found: SocketAddr,
    },
}

/// Connects to this address and proves where the connection went.
///
/// # Errors
/// When it was not captured, or when that could not be found out.
pub fn probe(to: SocketAddr) -> Result<Outcome, ProbeError> {
    // A UDP socket can be connected only where a route exists, and connecting it sends nothing.
    if let Err(error) = UdpSocket::bind((unspecified(to), 0)).and_then(|socket| socket.connect(to)) {
        return Ok(Outcome::NoRoute(error));
    }
    let sockets = sockets::tcp().map_err(ProbeError::Sockets)?;
    if sockets.iter().any(|socket| socket.listens && socket.local.port() == OUTBOUND_PORT) {
        // Joining the proxy's listeners would take connections away from it.
        (0..PROXY_TRIES_MAX).find_map(|_| through_proxy(to).transpose()).unwrap_or(Err(ProbeError::Elsewhere { to }))
    } else {
        to_ourselves(to)
    }
}

/// As [`probe`], where programs capture. The connection comes from loopback, so that it cannot leave the pod in any case: the
/// kernel refuses the combination (`EINVAL`) unless a program has sent it to loopback as well.
///
/// # Errors
/// As [`probe`].
pub fn probe_programs(to: SocketAddr) -> Result<Outcome, ProbeError> {
    let client = Socket::new(Domain::for_address(to), Type::STREAM, None).map_err(ProbeError::Client)?;
    if let Err(error) = client.bind(&SocketAddr::new(loopback(to), 0).into()) {
        return Ok(Outcome::NoRoute(error));
    }
    match client.connect_timeout(&to.into(), PROBE_TIMEOUT) {
        Ok(()) => match client.peer_addr().ok().as_ref().and_then(address) {
            Some(found) if found != to => Err(ProbeError::Peer { to, found }),
            _ => Ok(Outcome::CapturedByProxy),
        },
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Outcome::Refused),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(ProbeError::Silence { to }),
        Err(source) => Err(ProbeError::Failed { to, source }),
    }
}

fn to_ourselves(to: SocketAddr) -> Result<Outcome, ProbeError> {
    let listener = listen(to).map_err(ProbeError::Listen)?;
    let client = connect(to)?;
    let from = address(&client.local_addr().map_err(ProbeError::Client)?);
    let deadline = Instant::now() + PROBE_TIMEOUT;
    while Instant::now() < deadline {
        let Ok((accepted, peer)) = listener.accept() else { break };
        if address(&peer) != from {
            // An application's connection; the proxy does not run, so it is refused.
            continue;
        }
        let found = address(&accepted.local_addr().map_err(ProbeError::Listen)?);
        return match found {
            Some(found) if found == to => Ok(Outcome::CapturedByUs),
            Some(found) => Err(ProbeError::Destination { to, found }),
            None => break,
        };
    }
    Err(ProbeError::Elsewhere { to })
}

/// `None`: answered, but the other end was gone before it could be seen.
fn through_proxy(to: SocketAddr) -> Result<Option<Outcome>, ProbeError> {
    let client = connect(to)?;
    let from = address(&client.local_addr().map_err(ProbeError::Client)?);
    let sockets = sockets::tcp().map_err(ProbeError::Sockets)?;
    let is_here = sockets.iter().any(|socket| socket.local == to && Some(socket.remote) == from);
    Ok(is_here.then_some(Outcome::CapturedByProxy))
}

fn connect(to: SocketAddr) -> Result<Socket, ProbeError> {
    let client = Socket::new(Domain::for_address(to), Type::STREAM, None).map_err(ProbeError::Client)?;
    match client.connect_timeout(&to.into(), PROBE_TIMEOUT) {
        Ok(()) => Ok(client),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(ProbeError::Silence { to }),
        Err(source) => Err(ProbeError::Failed { to, source }),
    }
}

/// A listener with the proxy's options. It can be shared, so that a proxy that starts meanwhile is not kept from its port.
fn listen(like: SocketAddr) -> io::Result<Socket> {
    let listener = Socket::new(Domain::for_address(like), Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.set_reuse_port(true)?;
    listener.set_mark(OWN_MARK)?;
    match like {
        SocketAddr::V4(_) => listener.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => {
            listener.set_only_v6(true)?;
            listener.set_ip_transparent_v6(true)?;
        }
    }
    listener.bind(&SocketAddr::new(unspecified(like), OUTBOUND_PORT).into())?;
    listener.listen(LISTEN_BACKLOG)?;
    // Bounds accept(), too (socket(7), SO_RCVTIMEO).
    listener.set_read_timeout(Some(PROBE_TIMEOUT))?;
    Ok(listener)
}

fn unspecified(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn loopback(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

fn address(found: &SockAddr) -> Option<SocketAddr> {
    found.as_socket().map(|found| SocketAddr::new(found.ip().to_canonical(), found.port()))
}

/// Longest wait for one probe: captured, it never leaves the pod.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Tries to see the other end before the proxy has closed it.
const PROXY_TRIES_MAX: usize = 5;
/// Only the probe and stray connections of applications come to our listener.
const LISTEN_BACKLOG: i32 = 16;

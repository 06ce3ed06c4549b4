//! Capture as the proxy sees it: where the client meant to go, and whose address the next hop sees.

pub mod probe;

use crate::{
    listener::Accepted,
    socket::{self, SocketOptions},
};
use heddle_init_abi::PROXY_PORTS;
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};
use tokio::net::TcpSocket;

/// The capture mode in force. TPROXY: the kernel hands over the connection with its addresses as they are.
#[derive(Debug, Clone)]
pub struct Capture {
    options: SocketOptions,
}

/// Why a captured connection could not be understood, or a socket not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The connection was made to the proxy's own port, not captured on its way to somewhere.
    #[error("{0} is the proxy's own port; dial the destination itself, capture brings the connection here")]
    OwnPort(SocketAddr),
    /// A listener could not be opened.
    #[error("cannot listen on {at}: {source}; the proxy needs CAP_NET_RAW, and the port to itself")]
    Listen {
        /// The address.
        at: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket with the client's address could not be made.
    #[error("cannot make a socket that comes from {client}: {source}")]
    Impersonate {
        /// The client's address.
        client: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket of the proxy's own could not be made.
    #[error("cannot make a socket: {0}")]
    Socket(#[source] io::Error),
}

impl CaptureError {
    /// Whether the kernel has no IPv6, or has it switched off here.
    pub fn no_ipv6(&self) -> bool {
        let codes = [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL];
        matches!(self, Self::Listen { source, .. } if source.raw_os_error().is_some_and(|code| codes.contains(&code)))
    }
}

impl Capture {
    /// TPROXY, with these options on every socket.
    pub fn tproxy(options: SocketOptions) -> Self {
        Self { options }
    }

    /// A listener for captured connections.
    ///
    /// # Errors
    /// [`CaptureError::Listen`] with the address.
    pub fn listen(&self, at: SocketAddr) -> Result<TcpListener, CaptureError> {
        socket::listen(at, &self.options).map_err(|source| CaptureError::Listen { at, source })
    }

    /// Where the client of a captured connection meant to go.
    ///
    /// # Errors
    /// [`CaptureError::OwnPort`] when it dialled the proxy itself: that is never captured, so it would loop.
    pub fn original_destination(&self, accepted: &Accepted, listening: u16) -> Result<SocketAddr, CaptureError> {
        let destination = SocketAddr::new(accepted.local.ip().to_canonical(), accepted.local.port());
        // A captured connection keeps its destination; only a direct one shows a port of ours on an address of ours.
        let direct = destination.port() == listening && (destination.ip().is_loopback() || self.is_own(destination));
        if direct { Err(CaptureError::OwnPort(destination)) } else { Ok(destination) }
    }

    /// A socket for the last hop to the application, which then sees the client's own address.
    ///
    /// # Errors
    /// [`CaptureError::Impersonate`].
    pub fn socket_as(&self, client: SocketAddr) -> Result<TcpSocket, CaptureError> {
        socket::marked_as(client, &self.options)
            .map_err(|source| CaptureError::Impersonate { client: client.ip(), source })
    }

    /// A socket of the proxy's own, towards an address of this family.
    ///
    /// # Errors
    /// [`CaptureError::Socket`].
    pub fn socket(&self, towards: IpAddr) -> Result<TcpSocket, CaptureError> {
        socket::marked(towards, &self.options).map_err(CaptureError::Socket)
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        // An address of this host can be bound without IP_TRANSPARENT; any other is refused.
        PROXY_PORTS.contains(&address.port()) && std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
    }
}

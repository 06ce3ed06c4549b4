//! Capture as the proxy sees it, in both modes: where the client meant to go, and whose address the next hop sees.

pub mod ebpf;
pub mod key;
pub mod probe;
mod tproxy;

use crate::{
    listener::Accepted,
    socket::{self, SocketOptions},
};
use heddle_init_abi::{HBONE_PORT, INBOUND_PORT, OUTBOUND_PORT, PROXY_PORTS};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};
use tokio::{net::TcpSocket, sync::watch};

/// The capture mode in force.
#[derive(Debug, Clone)]
pub struct Capture {
    engine: Engine,
    options: SocketOptions,
}

/// How the kernel hands connections over.
#[derive(Debug, Clone)]
enum Engine {
    /// With their addresses as they are, to transparent sockets.
    Tproxy,
    /// By loopback and by look-up of sockets; what the addresses were is asked for.
    Ebpf(Arc<ebpf::Pod>),
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Captured connections that applications open.
    Outbound,
    /// Captured plaintext connections to applications.
    Inbound,
    /// Peers' tunnels, which are not captured.
    Hbone,
}

/// Why a captured connection could not be understood, or a socket not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The connection was made to the proxy's own port, not captured on its way to somewhere.
    #[error("{0} is the proxy's own port; dial the destination itself, capture brings the connection here")]
    OwnPort(SocketAddr),
    /// A listener could not be opened.
    #[error("cannot listen on {at}: {source}; the proxy needs {needs}, and the port to itself")]
    Listen {
        /// The address.
        at: SocketAddr,
        /// What this mode needs.
        needs: &'static str,
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
    /// There are no programs to speak with.
    #[error(
        "no eBPF programs of heddle-init are on this pod's cgroup; run `heddle-init apply --mode ebpf` in the pod before the \
         proxy starts, or start the proxy with --mode tproxy"
    )]
    NoPrograms,
    /// Another process is the proxy.
    #[error(
        "another process of this pod has claimed to be its proxy. A restarted container needs the key of the one before: give both \
         the same file by --capture-key, in a volume that only the proxy mounts. `heddle-init undo` and `apply` forget the claim"
    )]
    Claimed,
    /// The key cannot be used.
    #[error("--capture-key {}: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the way out.
        problem: String,
    },
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
        Self { engine: Engine::Tproxy, options }
    }

    /// eBPF, after a claim, in a pod with these addresses.
    pub fn ebpf(options: SocketOptions, pod: ebpf::Pod) -> Self {
        Self { engine: Engine::Ebpf(Arc::new(pod)), options }
    }

    /// A listener for connections of this family and kind. Every worker has one of its own for each: `SO_REUSEPORT`.
    ///
    /// # Errors
    /// [`CaptureError::Listen`] with the address.
    pub fn listen(&self, role: Role, ipv6: bool) -> Result<TcpListener, CaptureError> {
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        match &self.engine {
            Engine::Tproxy => tproxy::listen(SocketAddr::new(any, role.port()), &self.options),
            Engine::Ebpf(pod) => pod.listen(role, any, &self.options),
        }
    }

    /// Puts the addresses of a captured outbound connection in their places, where the kernel shows others.
    pub fn restore_outbound(&self, accepted: &mut Accepted) {
        if let Engine::Ebpf(pod) = &self.engine {
            pod.restore(accepted);
        }
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

    /// A socket for the last hop to the application, which then sees the client's own address. Where that address is the socket's
    /// own in truth, its port is `port`, or any when that is 0; else the application sees the client's port, too.
    ///
    /// # Errors
    /// [`CaptureError::Impersonate`].
    pub fn socket_as(&self, client: SocketAddr, port: u16) -> Result<TcpSocket, CaptureError> {
        let made = match &self.engine {
            Engine::Tproxy => socket::marked_as(SocketAddr::new(client.ip(), port), &self.options),
            Engine::Ebpf(_) => ebpf::socket_as(client, &self.options),
        };
        made.map_err(|source| CaptureError::Impersonate { client: client.ip(), source })
    }

    /// A socket of the proxy's own, towards an address of this family.
    ///
    /// # Errors
    /// [`CaptureError::Socket`].
    pub fn socket(&self, towards: IpAddr) -> Result<TcpSocket, CaptureError> {
        let made = match &self.engine {
            Engine::Tproxy => socket::marked(towards, &self.options),
            Engine::Ebpf(_) => socket::plain(towards, &self.options),
        };
        made.map_err(CaptureError::Socket)
    }

    /// Sees to it that the programs on the pod's cgroup know this proxy, and that it hears of it when they do not know its listeners
    /// ([`Capture::forgotten`]). Nothing to ask with TPROXY.
    ///
    /// # Errors
    /// [`CaptureError::NoPrograms`] or [`CaptureError::Claimed`].
    pub fn reclaim(&self) -> Result<(), CaptureError> {
        match &self.engine {
            Engine::Tproxy => Ok(()),
            Engine::Ebpf(pod) => pod.reclaim(),
        }
    }

    /// Changes when inbound listeners must be opened beside those that are there; none with TPROXY.
    pub fn forgotten(&self) -> Option<watch::Receiver<u64>> {
        match &self.engine {
            Engine::Tproxy => None,
            Engine::Ebpf(pod) => Some(pod.forgotten()),
        }
    }

    /// Lets go of the listeners, so that they close with their workers.
    pub fn release(&self) {
        if let Engine::Ebpf(pod) = &self.engine {
            pod.release();
        }
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        // An address of this host can be bound without IP_TRANSPARENT; any other is refused.
        PROXY_PORTS.contains(&address.port()) && std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
    }
}

impl Role {
    fn port(self) -> u16 {
        match self {
            Self::Outbound => OUTBOUND_PORT,
            Self::Inbound => INBOUND_PORT,
            Self::Hbone => HBONE_PORT,
        }
    }
}

//! Speaks with the eBPF programs on the pod's cgroup, by private socket options (`heddle_init_abi::ebpf`). Needs no capability: the
//! programs know the proxy by its cgroup, once it has claimed.

use super::{CaptureError, Role};
use crate::{
    listener::Accepted,
    socket::{self, SocketOptions},
};
use heddle_init_abi::{
    PROBE_ADDRESSES,
    ebpf::{self, Counters, Endpoint, FLOWS_MAX, Flow, Key},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::{net::TcpSocket, sync::watch};

/// The pod that this proxy has claimed.
#[derive(Debug)]
pub struct Pod {
    key: Key,
    addresses: Vec<IpAddr>,
    // Touched when a worker starts or stops and by the probe: never on the way of a connection.
    inbound: Mutex<Vec<TcpListener>>,
    // How often the programs have forgotten the listeners.
    forgotten: watch::Sender<u64>,
}

impl Pod {
    /// Claims to be the proxy of this pod, which has these addresses.
    ///
    /// # Errors
    /// [`CaptureError::NoPrograms`] or [`CaptureError::Claimed`].
    pub fn claim(key: Key, addresses: Vec<IpAddr>) -> Result<Self, CaptureError> {
        claim(&key)?;
        Ok(Self { key, addresses, inbound: Mutex::default(), forgotten: watch::Sender::default() })
    }

    /// Outbound connections come by loopback; inbound ones come to the listener wherever it is bound.
    pub(super) fn listen(&self, role: Role, any: IpAddr, options: &SocketOptions) -> Result<TcpListener, CaptureError> {
        let address = match (role, any) {
            (Role::Outbound, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
            (Role::Outbound, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
            (Role::Inbound | Role::Hbone, any) => any,
        };
        let at = SocketAddr::new(address, role.port());
        let failed = |source| CaptureError::Listen { at, needs: "heddle-init's programs", source };
        let socket = socket::bind(at, options).map_err(failed)?;
        if role == Role::Inbound {
            socket::set_private(&socket, ebpf::LISTENER, &ON).map_err(failed)?;
        }
        let listener: TcpListener = socket::listen(socket).map_err(failed)?;
        if role == Role::Inbound {
            self.inbound().push(listener.try_clone().map_err(failed)?);
        }
        Ok(listener)
    }

    /// The kernel shows the connection's way by loopback: the addresses are those of before. Without an answer they stay, and the
    /// connection is found to be one to the proxy itself.
    pub(super) fn restore(&self, accepted: &mut Accepted) {
        let Some(Ok(bytes)) = accepted.stream.as_ref().map(|stream| socket::private(stream, ebpf::DESTINATION)) else {
            return;
        };
        accepted.local = Endpoint::from_bytes(bytes).into();
        // The probe is known by the address that it really has.
        if accepted.peer.ip().is_loopback() && !PROBE_ADDRESSES.contains(&accepted.local) {
            let own = self.addresses.iter().find(|own| own.is_ipv4() == accepted.local.is_ipv4());
            accepted.peer.set_ip(own.copied().unwrap_or_else(|| accepted.peer.ip()));
        }
    }

    /// Claims again, and has listeners opened beside those that the programs do not know: programs that were put in place anew know
    /// nothing, and take note of a listener only when it begins to listen.
    pub(super) fn reclaim(&self) -> Result<(), CaptureError> {
        claim(&self.key)?;
        let mut inbound = self.inbound();
        let unknown = |listener: &TcpListener| {
            socket::private(listener, ebpf::REGISTERED).map(u32::from_ne_bytes).is_ok_and(|registered| registered == 0)
        };
        if inbound.iter().any(unknown) {
            tracing::warn!(
                "eBPF programs were loaded anew; inbound listeners are opened beside those that they do not know"
            );
            inbound.clear();
            self.forgotten.send_modify(|times| *times += 1);
        }
        Ok(())
    }

    /// Tells when the programs have forgotten the listeners.
    pub(super) fn forgotten(&self) -> watch::Receiver<u64> {
        self.forgotten.subscribe()
    }

    /// Lets go of the listeners.
    pub(super) fn release(&self) {
        self.inbound().clear();
    }

    fn inbound(&self) -> MutexGuard<'_, Vec<TcpListener>> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the programs have refused; none where there are no programs that know this process.
pub fn counters() -> Option<Counters> {
    let socket = socket::unmarked(Ipv4Addr::UNSPECIFIED.into()).ok()?;
    socket::private(&socket, ebpf::COUNTERS).ok().map(Counters::from_bytes)
}

/// What went past the proxy, or tried to; empty where there are no programs that know this process.
pub fn flows() -> Vec<Flow> {
    let Ok(socket) = socket::unmarked(Ipv4Addr::UNSPECIFIED.into()) else { return Vec::new() };
    (ebpf::FLOW..)
        .take(FLOWS_MAX)
        .map_while(|name| socket::private(&socket, name).ok().map(Flow::from_bytes))
        .take_while(|flow| flow.count > 0)
        .collect()
}

/// Makes this process's cgroup the proxy's. Beside TPROXY this is how the guard lets the proxy read what it counted.
///
/// # Errors
/// [`CaptureError::NoPrograms`] or [`CaptureError::Claimed`].
pub fn claim(key: &Key) -> Result<(), CaptureError> {
    let socket = socket::unmarked(Ipv4Addr::UNSPECIFIED.into()).map_err(CaptureError::Socket)?;
    match socket::set_private(&socket, ebpf::CLAIM, key) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Err(CaptureError::NoPrograms),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(CaptureError::Claimed),
        result => result.map_err(CaptureError::Socket),
    }
}

/// A socket whose other end is told that `client` connects.
pub(super) fn socket_as(client: SocketAddr, options: &SocketOptions) -> io::Result<TcpSocket> {
    let socket = socket::plain(client.ip(), options)?;
    socket::set_private(&socket, ebpf::CLIENT, &Endpoint::from(client).to_bytes())?;
    Ok(socket)
}

/// A socket that the programs treat as an application's. It comes from loopback, so that it can not leave the pod.
pub(super) fn probe_socket(family: IpAddr) -> io::Result<TcpSocket> {
    let socket = socket::unmarked(family)?;
    socket::set_private(&socket.as_fd(), ebpf::PROBE, &ON)?;
    let loopback: IpAddr = if family.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    socket.bind(SocketAddr::new(loopback, 0))?;
    Ok(socket)
}

/// The value of an option that is only switched on.
const ON: [u8; 4] = 1_u32.to_ne_bytes();

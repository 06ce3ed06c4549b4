//! Proves every few seconds that outbound capture works: connects like an application would, and waits for the
//! connection to arrive at the proxy's own listener.

use super::{Capture, CaptureError, Engine, ebpf};
use crate::socket;
use heddle_init_abi::PROBE_ADDRESSES;
use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpSocket, sync::Notify, time::timeout};

/// The probes that arrived at the outbound listeners, of all workers.
#[derive(Debug, Clone, Default)]
pub struct Probes(Arc<Arrivals>);

#[derive(Debug, Default)]
struct Arrivals {
    // Only probes come here, a few a minute: the lock is never waited for.
    sources: Mutex<VecDeque<SocketAddr>>,
    news: Notify,
}

/// Why capture does not work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The connection went past the proxy or nowhere.
    #[error(
        "a connection to {0} did not arrive at port 15001: outbound traffic is not captured. Run `heddle-init verify` in \
         the pod to see what is missing, and `heddle-init apply` to put it back"
    )]
    NotCaptured(SocketAddr),
    /// The application would be told another address than it dialled.
    #[error(
        "a connection to {to} was captured, but the application would see {found} as the other end. Run `heddle-init verify` in \
         the pod to see what is missing, and `heddle-init apply` to put it back"
    )]
    Peer {
        /// The probe's address.
        to: SocketAddr,
        /// What `getpeername()` said.
        found: SocketAddr,
    },
    /// The programs of the pod do not know this proxy, or are gone.
    #[error(transparent)]
    Programs(#[from] CaptureError),
    /// No socket could be made.
    #[error("the capture probe cannot make a socket: {0}")]
    Socket(#[source] io::Error),
    /// The pod has no route in either family.
    #[error("the pod has no route to {0} nor to {1}, so that capture cannot be verified; a pod needs a default route")]
    NoRoute(SocketAddr, SocketAddr),
}

impl Probes {
    /// Whether a captured connection is a probe; then it is noted, and the caller closes it.
    pub fn arrived(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        if !PROBE_ADDRESSES.contains(&destination) {
            return false;
        }
        let mut sources = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= ARRIVALS_MAX {
            sources.pop_front();
        }
        sources.push_back(source);
        drop(sources);
        self.0.news.notify_waiters();
        true
    }

    /// Connects to the probe address of each family that the pod has a route for, as its applications would.
    ///
    /// # Errors
    /// The first family that is not captured, or that there is no family at all.
    pub async fn verify(&self, capture: &Capture) -> Result<(), ProbeError> {
        capture.reclaim()?;
        let mut proved = 0;
        for target in PROBE_ADDRESSES {
            let socket = match capture.engine {
                Engine::Tproxy if has_route(target) => socket::unmarked(target.ip()),
                Engine::Tproxy => continue,
                Engine::Ebpf(_) => match ebpf::probe_socket(target.ip()) {
                    // The pod has not this family.
                    Err(error) if NO_FAMILY.contains(&error.raw_os_error().unwrap_or_default()) => continue,
                    result => result,
                },
            };
            self.verify_one(socket.map_err(ProbeError::Socket)?, target).await?;
            proved += 1;
        }
        if proved == 0 { Err(ProbeError::NoRoute(PROBE_ADDRESSES[0], PROBE_ADDRESSES[1])) } else { Ok(()) }
    }

    async fn verify_one(&self, socket: TcpSocket, target: SocketAddr) -> Result<(), ProbeError> {
        let probe = async {
            let stream = socket.connect(target).await.ok()?;
            let (source, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
            loop {
                let news = self.0.news.notified();
                if self.take(source) {
                    return Some(peer);
                }
                news.await;
            }
        };
        match timeout(PROBE_TIMEOUT, probe).await {
            Ok(Some(peer)) if peer == target => Ok(()),
            Ok(Some(found)) => Err(ProbeError::Peer { to: target, found }),
            Ok(None) | Err(_) => Err(ProbeError::NotCaptured(target)),
        }
    }

    fn take(&self, source: SocketAddr) -> bool {
        let mut sources = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let at = sources.iter().position(|one| *one == source);
        at.is_some_and(|at| sources.remove(at).is_some())
    }
}

/// A UDP socket can be connected only where a route exists, and connecting it sends nothing.
fn has_route(target: SocketAddr) -> bool {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    std::net::UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(target)).is_ok()
}

/// What the kernel says of a family that it has not, or not here.
const NO_FAMILY: [i32; 2] = [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL];
/// Longest wait for one probe: it never leaves the pod.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Arrivals that are remembered; somebody else may dial the probe address, too.
const ARRIVALS_MAX: usize = 64;

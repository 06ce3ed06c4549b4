//! The way of a connection from the mesh to the application.
//!
//! Invariant: a connection is admitted before any byte reaches the application, and before the application is dialled.

pub mod tunnel;

use crate::{
    authorize::{Admissions, Admitted},
    capture::{Capture, CaptureError},
    error::ConnectionError,
    listener::Accepted,
    relay::RelayLimits,
    stream::Transport,
    tcp::{self, Dialled},
    telemetry::access_log::Entry,
    view::View,
};
use heddle_init_abi::INBOUND_PORT;
use heddle_mesh::{identity::SpiffeId, policy::Connection};
use std::{cell::Cell, io, net::SocketAddr, rc::Rc, time::Duration};
use tokio::net::TcpStream;

/// What an inbound connection works with; one a worker.
#[derive(Debug)]
pub struct Inbound {
    /// How connections were captured.
    pub capture: Capture,
    /// The worker's newest mesh.
    pub view: Rc<View>,
    /// Connections that may have to end.
    pub admissions: Rc<Admissions>,
    /// Longest time to reach the application.
    pub connect_timeout: Duration,
    /// Bounds of the relay.
    pub relay: RelayLimits,
    /// Where the next source port for a plaintext client is tried.
    pub next_port: Cell<u16>,
}

/// Serves one captured plaintext connection to its end. What is left in `accepted` after an error is reset by the caller.
///
/// # Errors
/// Why it was refused, or what ended it.
pub async fn serve(cx: &Inbound, accepted: &mut Accepted, log: &mut Entry) -> Result<(), ConnectionError> {
    let destination = cx.capture.original_destination(accepted, INBOUND_PORT)?;
    log.destination = destination;

    let source = SocketAddr::new(accepted.peer.ip().to_canonical(), accepted.peer.port());
    let permit = admit(cx, source, None, destination, log)?;

    let application = dial_application(cx, Client::Plaintext(source), destination, log).await?;
    let dialled = Dialled { transport: Transport::Plain(application), permit, lease: None };
    tcp::carry(accepted, dialled, &cx.relay, log).await
}

/// Asks policy, and notes in the log who decided.
fn admit(
    cx: &Inbound,
    source: SocketAddr,
    identity: Option<SpiffeId>,
    destination: SocketAddr,
    log: &mut Entry,
) -> Result<crate::authorize::Permit, ConnectionError> {
    let workload = cx.view.workload()?;
    log.workload = Some(workload.uid.clone());
    let Admitted { permit, by, dry_run } = cx
        .admissions
        .admit(&cx.view.mesh(), &workload, Connection { source, identity, destination })
        .inspect_err(|denial| log.policy = Some(denial.policy().clone()))?;
    log.policy = by;
    log.dry_run = dry_run;
    Ok(permit)
}

/// Whose address the application is to see, and what else of that client may be open here.
#[derive(Debug, Clone, Copy)]
enum Client {
    /// Came through a tunnel: its own socket ends at port 15008.
    Tunnelled(SocketAddr),
    /// Came as it is: its own socket, seen from here, has the very addresses of the new one turned round.
    Plaintext(SocketAddr),
}

/// Connects to the application from the client's own address.
async fn dial_application(
    cx: &Inbound,
    client: Client,
    destination: SocketAddr,
    log: &mut Entry,
) -> Result<TcpStream, ConnectionError> {
    log.endpoint = Some(destination);
    let deadline = tokio::time::Instant::now() + cx.connect_timeout;
    for _ in 0..PORT_ATTEMPTS_MAX {
        let socket = match client {
            // A pod that dials itself: the address is its own already.
            Client::Tunnelled(source) | Client::Plaintext(source) if source.ip() == destination.ip() => {
                cx.capture.socket(destination.ip())
            }
            Client::Tunnelled(source) => cx.capture.socket_as(source, 0),
            Client::Plaintext(source) => cx.capture.socket_as(source, next_port(cx)),
        };
        let connected = match socket {
            Ok(socket) => tokio::time::timeout_at(deadline, socket.connect(destination)).await,
            Err(CaptureError::Impersonate { source, .. }) if port_taken(&source) => continue,
            Err(error) => return Err(error.into()),
        };
        match connected {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if port_taken(&error) => {}
            Ok(Err(source)) => return Err(ConnectionError::Application { destination, source }),
            Err(_) => return Err(ConnectionError::ApplicationTimeout { destination, after: cx.connect_timeout }),
        }
    }
    Err(ConnectionError::Application { destination, source: io::ErrorKind::AddrInUse.into() })
}

/// The next source port for the hop to the application in a plaintext client's name. If the kernel chose, it could choose
/// the port that the client itself uses: then both of the proxy's sockets would be ends of one and the same 4-tuple, and
/// the connection would hang. Ports below the ephemeral range are never a client's.
fn next_port(cx: &Inbound) -> u16 {
    let port = cx.next_port.get();
    cx.next_port.set(if port >= PORTS_LAST { PORTS_FIRST } else { port + 1 });
    port
}

fn port_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// First source port in a plaintext client's name; above those of the usual services and of the proxy.
pub const PORTS_FIRST: u16 = 16_384;
/// Last one; the default of `ip_local_port_range` begins at 32768.
const PORTS_LAST: u16 = 32_767;
/// Source ports that are tried for one connection.
const PORT_ATTEMPTS_MAX: usize = 16;

//! A peer's tunnel: one mutual-TLS connection on port 15008, each CONNECT stream of it an inbound connection of its own.

use super::{Client, Inbound, admit, dial_application};
use crate::{
    authorize::Permit,
    drain::Drain,
    error::{ConnectionError, Flag},
    hbone::{
        authority::Authority,
        server::{self, Incoming, ServerLimits},
    },
    identity::Svid,
    listener::Accepted,
    relay::Side,
    socket,
    stream::Transport,
    tcp,
    telemetry::{
        Direction, Security,
        access_log::{Entry, Sink, chain},
    },
    tls::{self, TlsError},
};
use heddle_init_abi::PROXY_PORTS;
use heddle_mesh::identity::TrustDomain;
use rustls::ServerConfig;
use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};

/// What serving tunnels takes; one a worker.
#[derive(Debug)]
pub struct Server {
    /// What every inbound connection works with.
    pub inbound: Rc<Inbound>,
    /// The certificate in force.
    pub svids: watch::Receiver<Option<Arc<Svid>>>,
    /// Peers must belong to it.
    pub trust_domain: TrustDomain,
    /// Bounds of each peer's connection.
    pub limits: ServerLimits,
    /// Where reports go.
    pub sink: Sink,
    /// Its first stage tells peers to go elsewhere.
    pub drain: Drain,
    /// The TLS configuration of the newest certificate, made once for each.
    pub tls: RefCell<Option<(Arc<Svid>, Arc<ServerConfig>)>>,
}

impl Server {
    fn tls_config(&self) -> Result<Arc<ServerConfig>, TunnelFailure> {
        let svid = self.svids.borrow().clone().ok_or(TunnelFailure::NoIdentity)?;
        let mut cached = self.tls.borrow_mut();
        match &*cached {
            Some((of, config)) if Arc::ptr_eq(of, &svid) => Ok(config.clone()),
            _ => {
                let config = tls::server_config(&svid, &self.trust_domain);
                *cached = Some((svid, config.clone()));
                Ok(config)
            }
        }
    }
}

/// Serves one connection of a peer: handshake, then every stream until the connection ends.
pub async fn serve(cx: Rc<Server>, mut accepted: Accepted) {
    let Some(stream) = accepted.stream.take() else { return };
    let handshake = async {
        let config = cx.tls_config()?;
        let (stream, peer) = tls::accept(stream, config).await.map_err(TunnelFailure::Handshake)?;
        Ok((stream, peer))
    };
    let established = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(established) => established,
        Err(_) => Err(TunnelFailure::HandshakeTimeout),
    };
    cx.sink.metrics.handshake(Direction::Inbound, established.is_ok());
    let (stream, peer) = match established {
        Ok(established) => established,
        Err(failure) => {
            let mut log = Entry::new(&cx.sink, Direction::Inbound, accepted.peer, accepted.local, accepted.at);
            log.end(failure.flag(), &failure);
            return;
        }
    };

    let _open = cx.sink.metrics.carrier(Direction::Inbound);
    let (source, local) = (canonical(accepted.peer), canonical(accepted.local));
    let serving = server::serve(stream, peer.clone(), &cx.limits, cx.drain.soon_token(), |incoming| {
        let (cx, peer) = (cx.clone(), peer.clone());
        async move {
            let mut log = Entry::new(&cx.sink, Direction::Inbound, source, local, Instant::now());
            log.peer = Some(peer);
            log.security = Security::Mtls;
            if let Err(error) = serve_stream(&cx.inbound, incoming, source, local, &mut log).await {
                log.end(error.flag(), &error);
            }
        }
    });
    // The drain's second stage ends every stream through its permit, and with the last one this returns.
    if let Err(error) = serving.await {
        tracing::debug!(%source, %peer, error = chain(&error), "a tunnel connection failed");
    }
}

/// One CONNECT stream, to its end. A refusal is answered with its status and reason code.
async fn serve_stream(
    cx: &Inbound,
    mut incoming: Incoming,
    source: SocketAddr,
    local: SocketAddr,
    log: &mut Entry,
) -> Result<(), ConnectionError> {
    let reached = match destination(incoming.authority(), local) {
        Ok(destination) => {
            log.destination = destination;
            tokio::select! {
                biased;
                reached = reach(cx, source, destination, log) => reached,
                () = incoming.abandoned() => return Err(ConnectionError::TunnelGone),
            }
        }
        Err(refused) => Err(refused),
    };
    let (application, permit) = match reached {
        Ok(reached) => reached,
        Err(error) => {
            incoming.refuse(error.status(), error.flag().code());
            return Err(error);
        }
    };
    let Ok(tunnel) = incoming.accept() else {
        socket::reset(application);
        return Err(ConnectionError::TunnelGone);
    };
    let tunnel = Transport::Tunnel(tunnel);
    tcp::relay_while_permitted(application, tunnel, Side::Far, permit, &cx.relay, log).await
}

/// Admits the connection, then reaches the application.
async fn reach(
    cx: &Inbound,
    source: SocketAddr,
    destination: SocketAddr,
    log: &mut Entry,
) -> Result<(TcpStream, Permit), ConnectionError> {
    let permit = admit(cx, source, log.peer.clone(), destination, log)?;
    let application = dial_application(cx, Client::Tunnelled(source), destination, log).await?;
    Ok((application, permit))
}

/// The address of this workload that a tunnel leads to. Anything else is refused, or a peer could reach what only the pod
/// itself may: other hosts, loopback, the proxy's own ports.
fn destination(authority: &Authority, local: SocketAddr) -> Result<SocketAddr, ConnectionError> {
    let refuse = |reason| Err(ConnectionError::Authority { authority: authority.to_string(), reason });
    match authority {
        Authority::Name { .. } => refuse("only addresses are served here"),
        Authority::Address(address) if address.ip() != local.ip() => refuse("it is not the address that was dialled"),
        Authority::Address(address) if PROXY_PORTS.contains(&address.port()) => refuse("the port is the proxy's own"),
        Authority::Address(address) => Ok(*address),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Why a peer's connection never became a tunnel.
#[derive(Debug, thiserror::Error)]
enum TunnelFailure {
    /// There is nothing to show the peer.
    #[error("this proxy has no valid certificate; look at its readiness")]
    NoIdentity,
    /// The handshake failed.
    #[error(transparent)]
    Handshake(TlsError),
    /// The peer was too slow.
    #[error("the TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}")]
    HandshakeTimeout,
}

impl TunnelFailure {
    fn flag(&self) -> Flag {
        match self {
            Self::NoIdentity => Flag::NoIdentity,
            Self::Handshake(_) | Self::HandshakeTimeout => Flag::TlsFailed,
        }
    }
}

/// Longest time for a peer's handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_leads_to_the_dialled_address_only() {
        let local: SocketAddr = "10.0.0.2:15008".parse().expect("an address");
        let check = |text: &str| destination(&text.parse().expect("an authority"), local);
        assert_eq!(check("10.0.0.2:80").expect("its own"), "10.0.0.2:80".parse().expect("an address"));
        assert!(check("[::ffff:10.0.0.2]:80").is_ok());
        for refused in [
            "10.0.0.3:80",
            "127.0.0.1:80",
            "[::1]:80",
            "169.254.169.254:80",
            "web.shop:80",
            "10.0.0.2:15000",
            "10.0.0.2:15008",
        ] {
            assert!(matches!(check(refused), Err(ConnectionError::Authority { .. })), "{refused}");
        }
    }
}

//! Reaches an endpoint: plain TCP, or a tunnel through the endpoint's proxy, within one deadline.

use crate::{
    capture::{Capture, CaptureError},
    error::Flag,
    hbone::client::{DialError, Key, OpenError, Pool},
    stream::Transport,
    telemetry::{Security, access_log::Entry},
};
use heddle_init_abi::HBONE_PORT;
use heddle_mesh::{identity::SpiffeId, target::Endpoint, workload::Tunnel};
use http::{HeaderMap, HeaderValue, StatusCode, header::FORWARDED};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::timeout;

/// What reaching endpoints takes; one a worker.
#[derive(Debug)]
pub struct Connector {
    capture: Capture,
    pool: Pool,
    timeout: Duration,
}

/// Which way leads to an endpoint.
#[derive(Debug)]
pub enum Route {
    /// The address itself, as it is.
    Plain(SocketAddr),
    /// Through the proxy at the same address.
    Hbone {
        /// The proxy, and who it may be.
        key: Key,
        /// What it is asked for.
        authority: SocketAddr,
    },
}

impl Route {
    /// The way to a workload. `service_identities` are what its service may prove to be beside the workload itself.
    pub fn to(endpoint: &Endpoint, service_identities: &[SpiffeId]) -> Self {
        let address = endpoint.address;
        match endpoint.workload.tunnel {
            Tunnel::None => Self::Plain(address),
            Tunnel::Hbone => {
                let identities = std::iter::once(&endpoint.workload.identity).chain(service_identities).cloned();
                let key = Key { address: SocketAddr::new(address.ip(), HBONE_PORT), identities: identities.collect() };
                Self::Hbone { key, authority: address }
            }
        }
    }
}

/// Why an endpoint was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It refused, or there is no way to it.
    #[error("cannot connect to {address}: {source}")]
    Tcp {
        /// The endpoint.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// It was not reached in time.
    #[error("{address} was not reached within {after:?} (--connect-timeout)")]
    Timeout {
        /// The endpoint.
        address: SocketAddr,
        /// The deadline.
        after: Duration,
    },
    /// Its proxy was not reached, is somebody else, or refused.
    #[error("no tunnel to {address}: {source}")]
    Tunnel {
        /// The endpoint.
        address: SocketAddr,
        /// Why not.
        source: OpenError,
    },
    /// No socket could be made.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// What the address means is not known.
    #[error("nobody has asked the controller what {0} is")]
    Unresolved(IpAddr),
}

impl ConnectError {
    /// The reason code.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Tcp { .. } => Flag::ConnectFailed,
            Self::Timeout { .. } => Flag::ConnectTimeout,
            Self::Tunnel { source, .. } => tunnel_flag(source),
            Self::Capture(_) => Flag::Internal,
            Self::Unresolved(_) => Flag::NotDiscovered,
        }
    }

    /// Whether another endpoint of the same service may do better: not where the answer was a decision.
    pub fn another_endpoint_may_do(&self) -> bool {
        matches!(self.flag(), Flag::ConnectFailed | Flag::ConnectTimeout | Flag::TlsFailed | Flag::PeerRefused)
    }
}

impl Connector {
    /// Opens tunnels in `pool`; `timeout` bounds each endpoint.
    pub fn new(capture: Capture, pool: Pool, timeout: Duration) -> Self {
        Self { capture, pool, timeout }
    }

    /// Reaches an endpoint and notes in the log who it proved to be.
    ///
    /// # Errors
    /// Why it was not reached, within the deadline.
    pub async fn connect(&self, route: Route, log: &mut Entry) -> Result<Transport, ConnectError> {
        let (address, after) = (route.endpoint(), self.timeout);
        log.endpoint = Some(address);
        match timeout(after, self.connect_unbounded(route, log)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { address, after }),
        }
    }

    async fn connect_unbounded(&self, route: Route, log: &mut Entry) -> Result<Transport, ConnectError> {
        match route {
            Route::Plain(address) => {
                let socket = self.capture.socket(address.ip())?;
                let stream = socket.connect(address).await.map_err(|source| ConnectError::Tcp { address, source })?;
                log.security = Security::Plaintext;
                Ok(Transport::Plain(stream))
            }
            Route::Hbone { key, authority } => {
                let opened = self.pool.open(&key, authority, &forwarded(log)).await;
                let tunnel = opened.map_err(|source| ConnectError::Tunnel { address: authority, source })?;
                log.security = Security::Mtls;
                log.peer = Some(tunnel.carrier().peer().clone());
                Ok(Transport::Tunnel(tunnel))
            }
        }
    }
}

impl Route {
    fn endpoint(&self) -> SocketAddr {
        match self {
            Self::Plain(address) | Self::Hbone { authority: address, .. } => *address,
        }
    }
}

fn tunnel_flag(error: &OpenError) -> Flag {
    match error {
        OpenError::NoIdentity => Flag::NoIdentity,
        OpenError::Dial(DialError::Connect { .. }) => Flag::ConnectFailed,
        OpenError::Dial(DialError::Timeout { .. }) => Flag::ConnectTimeout,
        OpenError::Dial(DialError::Tls { .. } | DialError::Http2 { .. }) => Flag::TlsFailed,
        OpenError::Refused { status, .. } if *status == StatusCode::UNAUTHORIZED => Flag::PeerDenied,
        OpenError::Refused { .. } | OpenError::NotSent(_) | OpenError::NoAnswer(_) => Flag::PeerRefused,
        OpenError::PoolClosed => Flag::Drained,
    }
}

/// RFC 7239: whom the tunnel is for, and by which name the client went. Peers use it for telemetry only.
fn forwarded(log: &Entry) -> HeaderMap {
    let mut value = format!("for=\"{}\"", log.source);
    if let Some(service) = &log.service {
        value.push_str(";host=");
        value.push_str(&service.hostname);
    }
    let mut headers = HeaderMap::with_capacity(1);
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(FORWARDED, value);
    }
    headers
}

//! Why a connection ended: the one table from errors to reason code, whose fault it was, and what the peer is told.
//!
//! Invariant: every refusal has one reason code, the same in the log, in the metric and in the tunnel's response header.

use crate::{
    capture::CaptureError,
    connect::ConnectError,
    relay::{RelayError, Side},
    view::NoWorkload,
};
use heddle_controller_client::DiscoverError;
use heddle_mesh::{policy::Denial, service::ServiceName, target::Refusal};
use http::StatusCode;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Why a connection was refused, or what ended it before both sides were done.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Its destination is not to be had, or a socket could not be made.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The proxy does not know its own workload yet.
    #[error(transparent)]
    NoWorkload(#[from] NoWorkload),
    /// The controller did not answer what an address is.
    #[error(
        "the controller did not say within {1:?} what {0} is; look at its readiness and at heddle_controller_connected"
    )]
    DiscoveryTimeout(IpAddr, Duration),
    /// The controller could not be asked what an address is.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// The mesh says that the address must not be dialled.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Every endpoint of the service was tried.
    #[error("no endpoint of service {0} is left to try")]
    NoneLeft(ServiceName),
    /// Policy denies it.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// It was allowed, and a later policy denies it.
    #[error("the policies changed: {0}")]
    Revoked(Denial),
    /// A tunnel asks for something that this proxy does not serve.
    #[error("a tunnel to {authority} is refused: {reason}")]
    Authority {
        /// What was asked for.
        authority: String,
        /// Why not.
        reason: &'static str,
    },
    /// The endpoint was not reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The application was not reached.
    #[error("the application at {destination} cannot be reached: {source}; does it listen on the pod's address?")]
    Application {
        /// Where it should listen.
        destination: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The application did not answer in time.
    #[error("the application at {destination} did not answer within {after:?}")]
    ApplicationTimeout {
        /// Where it should listen.
        destination: SocketAddr,
        /// The connect timeout.
        after: Duration,
    },
    /// It broke while bytes were carried.
    #[error("{source}")]
    Relay {
        /// What happened, told by the relay's own sides.
        source: RelayError,
        /// Which of them is downstream.
        downstream: Side,
    },
    /// It was still open at the end of the drain.
    #[error("the proxy ended while the connection was open")]
    Drained,
    /// The peer's connection broke before the tunnel was answered.
    #[error("the tunnel ended before it was answered")]
    TunnelGone,
}

impl ConnectionError {
    /// The reason code.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Capture(CaptureError::OwnPort(_)) => Flag::OwnPort,
            Self::Capture(_) => Flag::Internal,
            Self::NoWorkload(_) => Flag::NoConfig,
            Self::DiscoveryTimeout(..) | Self::Discover(_) => Flag::NotDiscovered,
            Self::Refused(Refusal::NoSuchPort { .. }) => Flag::NoSuchPort,
            Self::Refused(Refusal::NoEndpoint { .. }) | Self::NoneLeft(_) => Flag::NoEndpoint,
            Self::Refused(Refusal::EgressDenied(_)) => Flag::EgressDenied,
            Self::Denied(Denial::PlaintextRefused(_)) => Flag::MtlsRequired,
            Self::Denied(Denial::Missing(_)) => Flag::PolicyMissing,
            Self::Denied(Denial::ByPolicy(_) | Denial::NoneAllows { .. }) => Flag::PolicyDenied,
            Self::Revoked(_) => Flag::PolicyRevoked,
            Self::Authority { .. } => Flag::AuthorityRefused,
            Self::Connect(error) => error.flag(),
            Self::Application { .. } => Flag::ConnectFailed,
            Self::ApplicationTimeout { .. } => Flag::ConnectTimeout,
            Self::Relay { source, downstream } => relay_flag(source, *downstream),
            Self::Drained => Flag::Drained,
            Self::TunnelGone => Flag::DownstreamReset,
        }
    }

    /// What a peer's tunnel is answered: 400 for what it must not ask, 401 for what policy denies, else 503.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Authority { .. } => StatusCode::BAD_REQUEST,
            Self::Denied(_) => StatusCode::UNAUTHORIZED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

fn relay_flag(error: &RelayError, downstream: Side) -> Flag {
    match error.side() {
        None => Flag::IdleTimeout,
        Some(side) if side == downstream => Flag::DownstreamReset,
        Some(_) => Flag::UpstreamReset,
    }
}

/// The reason code of a finished connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flag {
    /// Both sides ended it in order.
    Ok,
    /// The downstream side reset it.
    DownstreamReset,
    /// The upstream side reset it.
    UpstreamReset,
    /// No byte moved for the idle timeout.
    IdleTimeout,
    /// It was still open at the end of the drain.
    Drained,
    /// Policy denies it.
    PolicyDenied,
    /// The workload takes only mutual TLS, and it was plaintext.
    MtlsRequired,
    /// A policy that the workload lists has not arrived.
    PolicyMissing,
    /// It was allowed, and a later policy denies it.
    PolicyRevoked,
    /// The address is outside the mesh, and the egress policy is Deny.
    EgressDenied,
    /// The service has no ready endpoint.
    NoEndpoint,
    /// The service has no such port.
    NoSuchPort,
    /// The controller could not be asked what the address is.
    NotDiscovered,
    /// The endpoint refused or could not be reached.
    ConnectFailed,
    /// The endpoint was not reached in time.
    ConnectTimeout,
    /// The TLS handshake failed, or the peer is not who it must be.
    TlsFailed,
    /// The endpoint's proxy refused the tunnel by policy.
    PeerDenied,
    /// The endpoint's proxy refused the tunnel for another reason.
    PeerRefused,
    /// A tunnel asked for something other than an address of this workload.
    AuthorityRefused,
    /// This proxy holds no valid certificate.
    NoIdentity,
    /// This proxy does not know its own workload yet.
    NoConfig,
    /// The proxy serves as many connections as it may.
    Overloaded,
    /// The connection went to the proxy itself, or its destination is unknown.
    OwnPort,
    /// An error of the proxy or of its kernel.
    Internal,
}

impl Flag {
    /// Every flag, in the order of declaration.
    pub const ALL: [Self; 24] = [
        Self::Ok,
        Self::DownstreamReset,
        Self::UpstreamReset,
        Self::IdleTimeout,
        Self::Drained,
        Self::PolicyDenied,
        Self::MtlsRequired,
        Self::PolicyMissing,
        Self::PolicyRevoked,
        Self::EgressDenied,
        Self::NoEndpoint,
        Self::NoSuchPort,
        Self::NotDiscovered,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::TlsFailed,
        Self::PeerDenied,
        Self::PeerRefused,
        Self::AuthorityRefused,
        Self::NoIdentity,
        Self::NoConfig,
        Self::Overloaded,
        Self::OwnPort,
        Self::Internal,
    ];

    /// The code as logs, metrics and response headers show it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::DownstreamReset => "downstream_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::Drained => "drained",
            Self::PolicyDenied => "policy_denied",
            Self::MtlsRequired => "mtls_required",
            Self::PolicyMissing => "policy_missing",
            Self::PolicyRevoked => "policy_revoked",
            Self::EgressDenied => "egress_denied",
            Self::NoEndpoint => "no_endpoint",
            Self::NoSuchPort => "no_such_port",
            Self::NotDiscovered => "not_discovered",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::TlsFailed => "tls_failed",
            Self::PeerDenied => "peer_denied",
            Self::PeerRefused => "peer_refused",
            Self::AuthorityRefused => "authority_refused",
            Self::NoIdentity => "no_identity",
            Self::NoConfig => "no_config",
            Self::Overloaded => "overloaded",
            Self::OwnPort => "own_port",
            Self::Internal => "internal",
        }
    }
}

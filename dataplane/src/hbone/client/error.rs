//! Why a tunnel could not be opened.

use crate::tls::TlsError;
use h2::Reason;
use http::StatusCode;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

/// Why a tunnel could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The proxy has no certificate.
    #[error("this proxy has no certificate yet, and without one no peer lets it in")]
    NoIdentity,
    /// There is no connection to the peer.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The peer answered with something else than 200.
    #[error("the peer refused the tunnel with status {status} ({})", reason.as_deref().unwrap_or("it gave no reason"))]
    Refused {
        /// 401: its policy says no. 503: its application cannot be reached. 400: it is not the target.
        status: StatusCode,
        /// Its reason in one word, if it is of our kind ([`REASON_HEADER`](crate::hbone::REASON_HEADER)).
        reason: Option<String>,
    },
    /// The connection took the request no more: it was never sent.
    #[error("the tunnel connection takes no more streams: {0}")]
    NotSent(Arc<h2::Error>),
    /// The stream or its connection ended before the peer's answer.
    #[error("the tunnel ended before the peer answered: {0}")]
    NoAnswer(Arc<h2::Error>),
    /// The worker shuts down.
    #[error("the proxy is shutting down")]
    PoolClosed,
}

impl OpenError {
    /// Whether the connection is of no use for further streams.
    pub(super) fn ends_connection(&self) -> bool {
        match self {
            Self::NotSent(_) => true,
            Self::NoAnswer(error) => !error.is_reset(),
            Self::NoIdentity | Self::Dial(_) | Self::Refused { .. } | Self::PoolClosed => false,
        }
    }

    /// Whether the peer did nothing for this request, as far as can be known: RFC 9113, sections 6.8 and 8.7. A pooled
    /// connection that broke may have been dead for long; what it cost the peer, at most, is a connection to its application
    /// that got no byte.
    pub(super) fn unprocessed(&self, pooled: bool) -> bool {
        match self {
            Self::NotSent(_) => true,
            Self::NoAnswer(error) => {
                error.reason() == Some(Reason::REFUSED_STREAM)
                    || (error.is_go_away() && error.is_remote())
                    || (pooled && error.is_io())
            }
            Self::NoIdentity | Self::Dial(_) | Self::Refused { .. } | Self::PoolClosed => false,
        }
    }
}

/// Why there is no connection to a peer. Everybody who waited for it gets the same.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// TCP.
    #[error("cannot connect to the proxy at {address}: {source}")]
    Connect {
        /// The peer's address.
        address: SocketAddr,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// TLS.
    #[error("cannot make a secure connection to the proxy at {address}: {source}")]
    Tls {
        /// The peer's address.
        address: SocketAddr,
        /// What went wrong.
        source: Arc<TlsError>,
    },
    /// The peer speaks TLS and breaks HTTP/2's rules.
    #[error("cannot speak HTTP/2 with the proxy at {address}: {source}")]
    Http2 {
        /// The peer's address.
        address: SocketAddr,
        /// What went wrong.
        source: Arc<h2::Error>,
    },
    /// It took too long.
    #[error("no connection to the proxy at {address} within {after:?}")]
    Timeout {
        /// The peer's address.
        address: SocketAddr,
        /// [`PoolLimits::dial_timeout`](super::PoolLimits::dial_timeout).
        after: Duration,
    },
}

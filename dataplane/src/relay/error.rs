//! How a relay ended too early, and on whose account.

use crate::stream::TunnelError;
use std::{fmt, io, time::Duration};

/// An end of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The socket that the relay was given.
    Near,
    /// The transport that it was given.
    Far,
}

/// How a relay ended too early.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A side reset its connection or stream.
    #[error("the {0} side reset the connection")]
    Reset(Side),
    /// A side closed although bytes for it were under way.
    #[error("the {0} side closed before it had taken everything")]
    ClosedEarly(Side),
    /// A side's socket failed otherwise: no answer to probes, no route.
    #[error("the {side} side's socket failed")]
    Socket {
        /// Which side.
        side: Side,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection between the proxies was lost.
    #[error(transparent)]
    Carrier(TunnelError),
    /// No byte came from either side for this long.
    #[error("no byte from either side for {0:?}")]
    IdleTimeout(Duration),
}

impl RelayError {
    /// The side that is to blame, if one is.
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::Reset(side) | Self::ClosedEarly(side) | Self::Socket { side, .. } => Some(*side),
            Self::Carrier(_) => Some(Side::Far),
            Self::IdleTimeout(_) => None,
        }
    }

    pub(super) fn socket(side: Side, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset(side),
            io::ErrorKind::BrokenPipe => Self::ClosedEarly(side),
            _ => Self::Socket { side, source },
        }
    }
}

impl From<TunnelError> for RelayError {
    fn from(error: TunnelError) -> Self {
        match error {
            TunnelError::Reset(_) => Self::Reset(Side::Far),
            TunnelError::Lost(_) => Self::Carrier(error),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "near",
            Self::Far => "far",
        })
    }
}

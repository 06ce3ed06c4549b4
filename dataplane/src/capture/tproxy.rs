//! Listeners to which nftables hands connections with their addresses as they are.

use super::CaptureError;
use crate::socket::{self, SocketOptions};
use std::net::{SocketAddr, TcpListener};

/// A transparent listener with the proxy's mark.
pub(super) fn listen(at: SocketAddr, options: &SocketOptions) -> Result<TcpListener, CaptureError> {
    socket::listen_transparent(at, options).map_err(|source| CaptureError::Listen { at, needs: "CAP_NET_RAW", source })
}

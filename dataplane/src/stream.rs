//! Where bytes go to and come from, besides the application's own socket.

mod carrier;
mod tunnel;

pub use carrier::Carrier;
pub(crate) use carrier::Lease;
pub use tunnel::{Tunnel, TunnelError};

use tokio::net::TcpStream;

/// The other end of a relay.
#[derive(Debug)]
pub enum Transport {
    /// A TCP connection, as it is.
    Plain(TcpStream),
    /// One stream of a tunnel connection between two proxies.
    Tunnel(Tunnel),
}

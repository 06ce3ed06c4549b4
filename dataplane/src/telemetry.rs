//! What the proxy tells about itself: metrics, logs, readiness. Every module may call it; it calls none.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod readiness;
pub mod tcp;

/// Which way a connection goes, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the application into the mesh.
    Outbound,
    /// From the mesh to the application.
    Inbound,
}

impl Direction {
    /// Both, in the order of declaration.
    pub const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];

    /// As logs and metrics show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What protected the bytes between the two proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Mutual TLS.
    Mtls,
    /// Nothing.
    Plaintext,
}

impl Security {
    /// As logs show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Plaintext => "plaintext",
        }
    }
}

//! Asks for the one right that is needed before anything is tried, so that its lack is told in one clear sentence.

use std::{fs, io};

/// Why nothing was tried.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The right is missing.
    #[error(
        "CAP_NET_ADMIN is missing (effective capabilities are {0:#x}); run as uid 0 with exactly that capability (in a pod: \
         runAsUser: 0, capabilities: {{drop: [ALL], add: [NET_ADMIN]}}), or give it as an ambient capability"
    )]
    Missing(u64),
    /// It cannot be told.
    #[error("cannot read the capabilities of this process from /proc/self/status")]
    Unknown(#[source] io::Error),
}

/// Whether this process has `CAP_NET_ADMIN` in effect (capabilities(7)).
///
/// # Errors
/// When it has not.
pub fn require_net_admin() -> Result<(), RightsError> {
    let status = fs::read_to_string("/proc/self/status").map_err(RightsError::Unknown)?;
    let effective = effective(&status).ok_or_else(|| {
        RightsError::Unknown(io::Error::new(io::ErrorKind::InvalidData, "there is no line `CapEff:` in it"))
    })?;
    if effective & (1 << CAP_NET_ADMIN) == 0 { Err(RightsError::Missing(effective)) } else { Ok(()) }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Number of the capability (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

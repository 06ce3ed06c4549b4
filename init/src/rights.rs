//! Asks for the rights that are needed before anything is tried, so that a lack is told in one clear sentence.

use std::{fs, io};

/// Why nothing was tried.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The right is missing.
    #[error(
        "{missing} is missing (effective capabilities are {effective:#x}); run as uid 0 with exactly {needed} (in a pod: \
         runAsUser: 0, capabilities: {{drop: [ALL], add: [{}]}}), or give it as an ambient capability", needed.replace("CAP_", "")
    )]
    Missing {
        /// The capability.
        missing: &'static str,
        /// Those that are there.
        effective: u64,
        /// All that are needed.
        needed: &'static str,
    },
    /// It cannot be told.
    #[error("cannot read the capabilities of this process from /proc/thread-self/status")]
    Unknown(#[source] io::Error),
}

/// Whether this thread has `CAP_NET_ADMIN` in effect (capabilities(7)), and with eBPF programs `CAP_BPF` or, as before Linux 5.8,
/// `CAP_SYS_ADMIN`.
///
/// # Errors
/// When it has not.
pub fn require(programs: bool) -> Result<(), RightsError> {
    let status = fs::read_to_string("/proc/thread-self/status").map_err(RightsError::Unknown)?;
    let effective = effective(&status).ok_or_else(|| {
        RightsError::Unknown(io::Error::new(io::ErrorKind::InvalidData, "there is no line `CapEff:` in it"))
    })?;
    let needed = if programs { "CAP_NET_ADMIN, CAP_BPF" } else { "CAP_NET_ADMIN" };
    let has = |capability: u32| effective & (1 << capability) != 0;
    let missing = match programs {
        _ if !has(CAP_NET_ADMIN) => "CAP_NET_ADMIN",
        true if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) => "CAP_BPF",
        _ => return Ok(()),
    };
    Err(RightsError::Missing { missing, effective, needed })
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

// Numbers of the capabilities (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

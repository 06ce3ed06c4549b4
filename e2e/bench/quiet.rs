//! Keeps other work of the machine out of the measurement, as far as a scheduler does.

use anyhow::{Context, Result};
use std::fs;

/// This session's scheduling group runs before others' (sched(7), autogroups); as before when dropped.
///
/// `nice` alone does nothing between two sessions where autogroups are on.
#[derive(Debug)]
pub(crate) struct Priority {
    before: String,
}

impl Priority {
    /// Raises the group.
    ///
    /// # Errors
    /// Where the kernel has no autogroups or refuses.
    pub(crate) fn raise() -> Result<Self> {
        // "/autogroup-42 nice 0"
        let text = fs::read_to_string(AUTOGROUP).context(AUTOGROUP)?;
        let before = text.split_ascii_whitespace().last().unwrap_or("0").to_owned();
        fs::write(AUTOGROUP, NICE).context(AUTOGROUP)?;
        Ok(Self { before })
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        if let Err(error) = fs::write(AUTOGROUP, &self.before) {
            eprintln!("cannot set this session's priority back to {}: {error}", self.before);
        }
    }
}

const AUTOGROUP: &str = "/proc/self/autogroup";
const NICE: &str = "-15";

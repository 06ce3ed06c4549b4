//! How much a relay has carried, readable while it runs.

use std::cell::Cell;

/// Bytes carried by one relay, in both directions.
#[derive(Debug, Default)]
pub struct ByteCounts {
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl ByteCounts {
    /// Bytes from the near side that were handed to the far side.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Bytes from the far side that were handed to the near side.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    pub(super) fn add_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }
}

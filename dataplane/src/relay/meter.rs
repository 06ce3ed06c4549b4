//! What a relay measures: the bytes that it has carried, readable while it runs, and at its end what the kernel says.

use super::Side;
use crate::telemetry::tcp::TcpReport;
use std::cell::{Cell, RefCell};

/// The measures of one relay.
#[derive(Debug, Default)]
pub struct Meter {
    sent: Cell<u64>,
    received: Cell<u64>,
    // Boxed: there is nothing to hold while the relay runs.
    near: RefCell<Option<Box<TcpReport>>>,
    far: RefCell<Option<Box<TcpReport>>>,
}

impl Meter {
    /// Bytes from the near side that were handed to the far side.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Bytes from the far side that were handed to the near side.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Takes what the kernel said of one side when the relay was over, or dropped; `None` before.
    pub fn take_report(&self, side: Side) -> Option<Box<TcpReport>> {
        self.report_of(side).take()
    }

    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    pub(super) fn add_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    pub(super) fn report(&self, side: Side, report: Option<TcpReport>) {
        self.report_of(side).replace(report.map(Box::new));
    }

    fn report_of(&self, side: Side) -> &RefCell<Option<Box<TcpReport>>> {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }
}

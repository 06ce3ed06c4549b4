//! What is known of one tunnel connection, shared by its streams.

use crate::{
    socket::tcp_info::Watch,
    telemetry::tcp::{TcpReport, TcpSample},
};
use heddle_mesh::identity::SpiffeId;
use std::{cell::Cell, rc::Rc, time::Duration};
use tokio::time::Instant;

/// One connection between two proxies: who is at the other end, and how busy it is.
#[derive(Debug)]
pub struct Carrier {
    peer: SpiffeId,
    socket: Watch,
    /// What the metrics have of the socket's counters.
    counted: Cell<TcpSample>,
    streams: Cell<u32>,
    /// When the last stream ended, or the connection was made.
    idle_since: Cell<Instant>,
    /// Streams that have data and no credit.
    waiting: Cell<u32>,
    /// When one of them last got some, or the first began to wait.
    waiting_since: Cell<Instant>,
}

impl Carrier {
    pub(crate) fn new(peer: SpiffeId, socket: Watch) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            peer,
            socket,
            counted: Cell::default(),
            streams: Cell::new(0),
            idle_since: Cell::new(now),
            waiting: Cell::new(0),
            waiting_since: Cell::new(now),
        })
    }

    /// The verified identity of the other end.
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// How many streams are open or about to be.
    pub fn streams(&self) -> u32 {
        self.streams.get()
    }

    /// How long it has had no stream.
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.streams.get() == 0).then(|| self.idle_since.get().elapsed())
    }

    /// Whether streams have waited for credit at least this long, and none of them got any.
    pub(crate) fn stalled(&self, at_least: Duration) -> bool {
        self.waiting.get() > 0 && self.waiting_since.get().elapsed() >= at_least
    }

    pub(crate) fn lease(self: &Rc<Self>) -> Lease {
        self.streams.set(self.streams.get() + 1);
        let begun = self.socket.sample().unwrap_or_default();
        Lease { carrier: self.clone(), waiting: false, begun }
    }
}

/// Counts as one stream of its carrier while it lives.
#[derive(Debug)]
pub(crate) struct Lease {
    carrier: Rc<Carrier>,
    waiting: bool,
    /// The socket's counters when the stream began.
    begun: TcpSample,
}

impl Lease {
    pub(crate) fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// What the socket's counters say since the stream began, and what of that no stream has reported yet.
    pub(crate) fn report(&self) -> Option<TcpReport> {
        let now = self.carrier.socket.sample()?;
        let uncounted = now.since(&self.carrier.counted.replace(now));
        Some(TcpReport { sample: now.since(&self.begun), uncounted })
    }

    /// Says whether the stream waits for credit.
    pub(crate) fn set_waiting(&mut self, waiting: bool) {
        if std::mem::replace(&mut self.waiting, waiting) == waiting {
            return;
        }
        let before = self.carrier.waiting.get();
        self.carrier.waiting.set(if waiting { before + 1 } else { before - 1 });
        if before == 0 || !waiting {
            self.carrier.waiting_since.set(Instant::now());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set_waiting(false);
        let streams = self.carrier.streams.get() - 1;
        self.carrier.streams.set(streams);
        if streams == 0 {
            self.carrier.idle_since.set(Instant::now());
        }
    }
}

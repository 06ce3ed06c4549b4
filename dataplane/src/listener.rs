//! The accept loop: every captured socket, or the reason it was not taken.

use crate::socket;
use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// An accepted socket with both of its addresses.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, until somebody takes it. What is left in here when serving failed is reset.
    pub stream: Option<TcpStream>,
    /// Who connected.
    pub peer: SocketAddr,
    /// The address that was dialled: with TPROXY the original destination.
    pub local: SocketAddr,
    /// When it was accepted.
    pub at: Instant,
    _slot: Slot,
}

/// How many connections the process may serve at once, shared by its workers.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    open: Arc<AtomicUsize>,
    max: usize,
}

#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionLimit {
    /// At most `max` at once.
    pub fn new(max: usize) -> Self {
        Self { open: Arc::default(), max }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<Slot> {
        let slot = Slot(self.open.clone());
        // A refused one gives its place back by the slot's drop.
        (self.open.fetch_add(1, Ordering::Relaxed) < self.max).then_some(slot)
    }
}

/// Something that accept could not do.
#[derive(Debug)]
pub enum Trouble {
    /// The process serves as many connections as it may; this one was reset.
    Overloaded(SocketAddr),
    /// accept(2) failed; it is tried again, after a pause when descriptors or memory are short.
    Accept(io::Error),
}

/// Accepts until `stop`, and calls `serve` for each socket; `serve` spawns. `trouble` hears of everything that was not
/// served.
pub async fn run(
    listener: TcpListener,
    limit: ConnectionLimit,
    stop: CancellationToken,
    serve: impl Fn(Accepted),
    trouble: impl Fn(Trouble),
) {
    let pause = Rc::new(Cell::new(ACCEPT_PAUSE_MIN));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, peer)| take(stream, peer, &limit)) {
            Ok(Ok(accepted)) => {
                pause.set(ACCEPT_PAUSE_MIN);
                serve(accepted);
            }
            Ok(Err(peer)) => trouble(Trouble::Overloaded(peer)),
            Err(error) => {
                let short =
                    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM));
                trouble(Trouble::Accept(error));
                if short {
                    // Without a pause the loop would spin: the connection stays in the queue and accept fails at once.
                    tokio::time::sleep(pause.get()).await;
                    pause.set((pause.get() * 2).min(ACCEPT_PAUSE_MAX));
                }
            }
        }
    }
}

fn take(stream: TcpStream, peer: SocketAddr, limit: &ConnectionLimit) -> io::Result<Result<Accepted, SocketAddr>> {
    let Some(slot) = limit.take() else {
        socket::reset(stream);
        return Ok(Err(peer));
    };
    let local = stream.local_addr()?;
    Ok(Ok(Accepted { stream: Some(stream), peer, local, at: Instant::now(), _slot: slot }))
}

/// First pause after accept ran out of descriptors or memory; it doubles with each failure in a row.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest such pause.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

//! What keeps a tunnel connection going, whichever side it is: PING, and one send for everything that was ready.

use super::Keepalive;
use crate::tls::transport::Sender;
use h2::{Ping, PingPong};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::time::{Instant, Sleep, sleep_until};

/// Sends PINGs, and notices when no answer comes.
#[derive(Debug)]
pub(super) struct Heartbeat {
    ping_pong: PingPong,
    keepalive: Keepalive,
    waiting: bool,
    timer: Pin<Box<Sleep>>,
}

impl Heartbeat {
    pub(super) fn new(ping_pong: PingPong, keepalive: Keepalive) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + keepalive.interval));
        Self { ping_pong, keepalive, waiting: false, timer }
    }

    /// Resolves when the peer is taken for dead, or at each beat with the peer alive.
    pub(super) fn poll_beat(&mut self, cx: &mut Context<'_>) -> Poll<Beat> {
        if self.waiting {
            match self.ping_pong.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.waiting = false;
                    self.timer.as_mut().reset(Instant::now() + self.keepalive.interval);
                }
                // The connection itself reports why.
                Poll::Ready(Err(_)) => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        ready!(self.timer.as_mut().poll(cx));
        if self.waiting {
            return Poll::Ready(Beat::PeerDead);
        }
        self.waiting = self.ping_pong.send_ping(Ping::opaque()).is_ok();
        self.timer.as_mut().reset(Instant::now() + self.keepalive.timeout);
        Poll::Ready(Beat::Alive)
    }
}

/// What a heartbeat says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// The last PING was answered, and the next one is on its way.
    Alive,
    /// No answer in time.
    PeerDead,
}

/// Polls a connection until it waits for the peer or for its streams, then sends what came of it in one go.
///
/// Everything that was ready before this task has written its part by now: the thread's queue is first in, first out.
pub(super) fn poll_and_send<T>(
    cx: &mut Context<'_>,
    sender: &Sender,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<Result<T, io::Error>> {
    if let Poll::Ready(done) = poll(cx) {
        return Poll::Ready(Ok(done));
    }
    match sender.poll_send(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Pending,
    }
}

//! One stream of a tunnel connection, after its 200: bytes both ways, each half with an end of its own.

use super::carrier::{Carrier, Lease};
use crate::telemetry::tcp::TcpReport;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use std::task::{Context, Poll};

/// One stream of a tunnel connection.
///
/// Dropped before both halves have ended, it is reset (RST_STREAM, CANCEL), so that the other side learns that it was cut.
#[derive(Debug)]
pub struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    lease: Lease,
}

impl Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream, lease: Lease) -> Self {
        Self { send, receive, lease }
    }

    /// The connection that it is a stream of.
    pub fn carrier(&self) -> &Carrier {
        self.lease.carrier()
    }

    /// What the kernel says of that connection: the counters since this stream began, for all its streams together. `None`
    /// when it cannot be asked. What it says is counted by this call: no later one of any stream tells it as uncounted.
    pub fn report(&self) -> Option<TcpReport> {
        self.lease.report()
    }

    /// The next bytes from the other side; `None` at the end of its half. What was taken must be given back with
    /// [`Self::release`] when it has gone on, or the sender runs out of credit.
    ///
    /// # Errors
    /// The stream was reset, or the connection is lost.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, TunnelError>>> {
        self.receive.poll_data(cx).map_err(TunnelError::from)
    }

    /// Lets the other side send this many bytes more.
    pub fn release(&mut self, bytes: usize) {
        // Fails only for more bytes than were received, which no caller gives back.
        let _ = self.receive.flow_control().release_capacity(bytes);
    }

    /// Sends as much of the front of `bytes` as there is credit for, and says how much that was: not zero. No more than the
    /// stream's credit is ever queued.
    ///
    /// # Errors
    /// The stream was reset, or the connection is lost.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<Result<usize, TunnelError>> {
        self.send.reserve_capacity(bytes.len());
        let mut credit = self.send.capacity();
        if credit == 0 {
            match self.send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(more))) => credit = more,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(None) => return Poll::Ready(Err(self.ended())),
                Poll::Pending => {
                    self.lease.set_waiting(true);
                    return Poll::Pending;
                }
            }
        }
        self.lease.set_waiting(false);
        let sent = credit.min(bytes.len());
        match self.send.send_data(bytes.split_to(sent), false) {
            Ok(()) => Poll::Ready(Ok(sent)),
            Err(_) => Poll::Ready(Err(self.ended())),
        }
    }

    /// Ends our half, behind everything that was sent (END_STREAM).
    ///
    /// # Errors
    /// The stream was reset, or the connection is lost.
    pub fn finish(&mut self) -> Result<(), TunnelError> {
        self.send.send_data(Bytes::new(), true).map_err(|_| self.ended())
    }

    /// Tells the other side that what it received is cut (RST_STREAM).
    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Resolves when the other side resets the stream, or the connection is lost. For when nothing is received.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<TunnelError> {
        self.send.poll_reset(cx).map(|result| match result {
            Ok(reason) => TunnelError::Reset(reason),
            Err(error) => error.into(),
        })
    }

    /// Why the stream takes no more.
    fn ended(&mut self) -> TunnelError {
        match self.poll_reset(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(error) => error,
            Poll::Pending => TunnelError::Reset(Reason::STREAM_CLOSED),
        }
    }
}

/// How a tunnel's stream ended too early.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The other side reset the stream: its application did, or its proxy ended the connection.
    #[error("the other side reset the stream ({0})")]
    Reset(Reason),
    /// The connection between the proxies is gone, and all its streams with it.
    #[error("the connection between the proxies was lost")]
    Lost(#[source] h2::Error),
}

impl From<h2::Error> for TunnelError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ => Self::Lost(error),
        }
    }
}

//! The TLS transport of the carrier: one owner for the socket, the records and both buffers.
//!
//! Many small messages share one connection here, so what counts is how often it is read and written. Writers only append
//! plaintext; a flush in [deferred](TlsStream::defer) mode does nothing, and whoever drives the connection calls
//! [`Sender::poll_send`] once, after everything that was ready has had its turn: all of it leaves in one run of records and
//! one send. A read takes up to 256 KiB at once, into memory that the whole thread shares; a connection keeps only the
//! beginning of a record, and what its reader has not taken yet.

mod core;
mod handshake;
mod session;

pub use handshake::{TlsError, accept, connect};

use self::core::Core;
use crate::socket::tcp_info::Watch;
use std::{
    cell::RefCell,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes inside an established TLS connection. It belongs to the thread that made it.
///
/// A TCP connection that ends without close_notify gives `UnexpectedEof`: somebody may have cut it (RFC 8446, section 6.1).
/// After any error all further calls fail.
pub struct TlsStream {
    core: Rc<RefCell<Core>>,
    deferred: bool,
}

impl TlsStream {
    fn new(core: Core) -> Self {
        Self { core: Rc::new(RefCell::new(core)), deferred: false }
    }

    /// A way to ask the kernel about the connection, now and after its end.
    pub fn watch(&self) -> Watch {
        self.core.borrow().watch()
    }

    /// From now on a flush sends nothing: the task that drives this stream must call [`Sender::poll_send`] before it waits.
    pub fn defer(mut self) -> (Self, Sender) {
        self.deferred = true;
        let sender = Sender(self.core.clone());
        (self, sender)
    }
}

/// Sends what was written to a [deferred](TlsStream::defer) stream.
pub struct Sender(Rc<RefCell<Core>>);

impl Sender {
    /// Encrypts and sends everything that was written. Pending when the socket takes no more: the task is woken when it does.
    ///
    /// # Errors
    /// Those of the socket or of TLS.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }

    /// Reads to the peer's end and throws away what comes, so that closing does not reset what the peer has yet to read.
    pub async fn drain(&self) {
        std::future::poll_fn(|cx| self.0.borrow_mut().poll_drain(cx)).await;
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.core.borrow_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.core.borrow_mut().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.core.borrow_mut().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deferred { Poll::Ready(Ok(())) } else { self.core.borrow_mut().poll_send(cx) }
    }

    /// Sends what is left and close_notify, then ends the sending half of the TCP connection.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.core.borrow_mut();
        core.close();
        ready!(core.poll_send(cx))?;
        Poll::Ready(core.shut())
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("core", &self.core).field("deferred", &self.deferred).finish()
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.0).finish()
    }
}

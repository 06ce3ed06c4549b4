//! A TCP socket at one end of a relay.

use super::{Meter, RelayError, Side};
use crate::{socket::tcp_info, telemetry::tcp::TcpReport};
use bytes::BufMut;
use socket2::SockRef;
use std::{
    cell::Cell,
    io::{self, IoSlice},
    net::Shutdown,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{io::Interest, net::TcpStream};

/// A socket that is reset when it is dropped, unless both directions have ended: whoever reads from it must not take a cut for
/// an end. Before it is closed the kernel is asked about it.
#[derive(Debug)]
pub(super) struct Socket<'a> {
    tcp: TcpStream,
    side: Side,
    meter: &'a Meter,
    finished: Cell<bool>,
}

impl<'a> Socket<'a> {
    pub(super) fn new(tcp: TcpStream, side: Side, meter: &'a Meter) -> Self {
        Self { tcp, side, meter, finished: Cell::new(false) }
    }

    /// Both directions have ended in order.
    pub(super) fn finished(&self) {
        self.finished.set(true);
    }

    /// Reads once, at most what `buffer` has room for; zero is the end.
    ///
    /// A read that leaves room has emptied the socket: the next one waits for the kernel's word instead of asking for EAGAIN
    /// (epoll(7), "Do I need to continuously read/write").
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut impl BufMut) -> Poll<Result<usize, RelayError>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx)).map_err(|error| self.error(error))?;
            let room = buffer.chunk_mut().len();
            match self.tcp.try_read_buf(buffer) {
                Ok(read) => {
                    if 0 < read && read < room {
                        let _: io::Result<()> =
                            self.tcp.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(self.error(error))),
            }
        }
    }

    /// Writes once, from as many pieces as the kernel takes.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<Result<usize, RelayError>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx)).map_err(|error| self.error(error))?;
            let result = match pieces {
                // Cheaper than a vector of one.
                [piece] => self.tcp.try_write(piece),
                pieces => self.tcp.try_write_vectored(pieces),
            };
            match result {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(self.error(error))),
            }
        }
    }

    /// Sends FIN behind everything that was written.
    pub(super) fn shutdown(&self) -> Result<(), RelayError> {
        match SockRef::from(&self.tcp).shutdown(Shutdown::Write) {
            Ok(()) => Ok(()),
            // A reset came in the same moment.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(RelayError::Reset(self.side)),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Resolves when the connection fails. For a time when nothing is read or written that would tell.
    pub(super) async fn failed(&self) -> RelayError {
        let error = match self.tcp.ready(Interest::ERROR).await {
            Ok(_) => self.tcp.take_error(),
            Err(error) => Err(error),
        };
        match error {
            Ok(Some(error)) | Err(error) => self.error(error),
            // Somebody else was told.
            Ok(None) => RelayError::Reset(self.side),
        }
    }

    fn error(&self, error: io::Error) -> RelayError {
        RelayError::socket(self.side, error)
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        self.meter.report(self.side, tcp_info::sample(&self.tcp).ok().map(TcpReport::whole));
        if !self.finished.get() {
            // Fails only on a socket that is no longer connected, where there is nothing to reset.
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

//! The state behind a TLS stream: socket, session and buffers.

use super::session::{Session, Stage};
use crate::scratch::{self, Queue};
use socket2::SockRef;
use std::{
    io::{self, IoSlice},
    net::Shutdown,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{Interest, ReadBuf},
    net::TcpStream,
};

/// Socket, session and buffers of one connection.
#[derive(Debug)]
pub(super) struct Core {
    tcp: TcpStream,
    session: Session,
    /// The beginning of a record whose end has not arrived: less than 17 KiB.
    partial: Vec<u8>,
    /// Decrypted and not yet read: at most what one read of the socket gave.
    plain_in: Queue,
    /// Written and not yet encrypted: at most [`WRITE_BYTES_MAX`].
    plain_out: Queue,
    /// Encrypted and not yet sent.
    records_out: Queue,
    receiving: Receiving,
    closing: bool,
    reads_left: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Open,
    /// The peer sent close_notify.
    Closed,
    /// An error was reported.
    Failed,
}

impl Core {
    /// Takes over after the handshake, with the first bytes of what came behind it.
    pub(super) fn new(tcp: TcpStream, session: Session, partial: Vec<u8>, plain_in: Queue, records_out: Queue) -> Self {
        Self {
            tcp,
            session,
            partial,
            plain_in,
            plain_out: Queue::default(),
            records_out,
            receiving: Receiving::Open,
            closing: false,
            reads_left: READS_PER_TURN,
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.plain_in.is_empty() {
            match self.receiving {
                Receiving::Open => ready!(self.poll_receive(cx))?,
                Receiving::Closed => return Poll::Ready(Ok(())),
                Receiving::Failed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let taken = self.plain_in.len().min(buf.remaining());
        buf.put_slice(&self.plain_in.filled()[..taken]);
        self.plain_in.consume(taken);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.plain_out.len() >= WRITE_BYTES_MAX {
            ready!(self.poll_send(cx))?;
        }
        let mut written = 0;
        for buf in bufs {
            let room = WRITE_BYTES_MAX - self.plain_out.len();
            let taken = buf.len().min(room);
            self.plain_out.extend(&buf[..taken]);
            written += taken;
            if taken < buf.len() {
                break;
            }
        }
        Poll::Ready(Ok(written))
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.records_out.is_empty() {
                ready!(self.tcp.poll_write_ready(cx))?;
                match self.tcp.try_write(self.records_out.filled()) {
                    Ok(sent) => self.records_out.consume(sent),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if self.plain_out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let encrypted = self.session.encrypt(self.plain_out.filled(), &mut self.records_out);
            self.plain_out.clear();
            encrypted.map_err(io::Error::other)?;
        }
    }

    /// Appends close_notify behind everything that was written.
    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        let mut result = Ok(());
        if !self.plain_out.is_empty() {
            result = self.session.encrypt(self.plain_out.filled(), &mut self.records_out);
            self.plain_out.clear();
        }
        // A connection that can send no more cannot say so either; the peer then sees a cut, which it is.
        let _ = result.and_then(|()| self.session.close(&mut self.records_out));
    }

    /// Ends the sending half of the TCP connection.
    pub(super) fn shut(&self) -> io::Result<()> {
        match SockRef::from(&self.tcp).shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.plain_in.clear();
        loop {
            let read = scratch::with(|buffer| poll_recv(&self.tcp, cx, buffer));
            match ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Reads the socket once and decrypts what came.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reads_left == 0 {
            // Others have a turn, even when this peer sends faster than we read.
            self.reads_left = READS_PER_TURN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let result = scratch::with(|buffer| {
            let kept = self.partial.len();
            if kept > PARTIAL_BYTES_MAX {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message has no end")));
            }
            let read = match poll_recv(&self.tcp, cx, &mut buffer[kept..]) {
                Poll::Ready(read) => read?,
                Poll::Pending => return Poll::Pending,
            };
            if read == 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer closed without close_notify",
                )));
            }
            buffer[..kept].copy_from_slice(&self.partial);
            self.partial.clear();
            let records = &mut buffer[..kept + read];
            let received = self
                .session
                .receive(records, &mut self.plain_in, &mut self.records_out)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let rest = &records[received.used..];
            if rest.is_empty() {
                self.partial = Vec::new();
            } else {
                self.partial.extend_from_slice(rest);
            }
            Poll::Ready(Ok(received.stage))
        });
        match result {
            Poll::Pending => {
                self.reads_left = READS_PER_TURN;
                Poll::Pending
            }
            Poll::Ready(Ok(stage)) => {
                self.reads_left -= 1;
                if stage == Stage::PeerClosed {
                    self.receiving = Receiving::Closed;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.receiving = Receiving::Failed;
                self.partial = Vec::new();
                // What the alert says is for the peer; whether it arrives changes nothing here.
                let _ = self.poll_send(cx);
                Poll::Ready(Err(error))
            }
        }
    }
}

/// recv(2) once, when the socket is readable. A read that leaves room in `buffer` has emptied the socket: the next one waits
/// for the kernel's word instead of asking for EAGAIN (epoll(7), "Do I need to continuously read/write").
pub(super) fn poll_recv(tcp: &TcpStream, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        match tcp.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(read) if 0 < read && read < buffer.len() => {
                let _: io::Result<()> = tcp.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
                return Poll::Ready(Ok(read));
            }
            result => return Poll::Ready(result),
        }
    }
}

/// Plaintext that writers may leave before they have to wait for the socket; the same again may be encrypted and unsent.
const WRITE_BYTES_MAX: usize = 256 * 1024;
/// More than the longest handshake message (64 KiB) and a record, which is all that can be incomplete.
const PARTIAL_BYTES_MAX: usize = 96 * 1024;
/// Reads of the socket, 256 KiB each at most, before other connections of the thread get a turn.
const READS_PER_TURN: u32 = 4;

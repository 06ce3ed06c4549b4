//! The state behind a TLS stream: socket, session and buffers.

use super::session::{RECORD_PLAIN_BYTES, Session, Stage};
use crate::{
    scratch::{self, Queue},
    socket::tcp_info::{Watch, Watched},
};
use socket2::SockRef;
use std::{
    io::{self, IoSlice},
    net::Shutdown,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{Interest, ReadBuf},
    net::TcpStream,
};

/// Socket, session and buffers of one connection.
#[derive(Debug)]
pub(super) struct Core {
    tcp: Rc<Watched>,
    session: Session,
    /// Received and not yet decrypted; holds memory only while somebody reads.
    input: Queue,
    /// The beginning of a record whose end has not arrived: mostly less than 17 KiB.
    partial: Box<[u8]>,
    /// Decrypted and not yet read: at most one record.
    plain_in: Queue,
    /// Written and not yet encrypted; with what is encrypted at most [`WRITE_BYTES_MAX`], and the records' overhead.
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
            tcp: Watched::new(tcp),
            session,
            input: Queue::default(),
            partial: partial.into(),
            plain_in,
            plain_out: Queue::default(),
            records_out,
            receiving: Receiving::Open,
            closing: false,
            reads_left: READS_PER_TURN,
        }
    }

    pub(super) fn watch(&self) -> Watch {
        self.tcp.watch()
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        loop {
            let taken = self.plain_in.len().min(buf.remaining());
            buf.put_slice(&self.plain_in.filled()[..taken]);
            self.plain_in.consume(taken);
            if buf.remaining() == 0 || self.receiving == Receiving::Closed {
                return Poll::Ready(Ok(()));
            }
            if self.receiving == Receiving::Failed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !self.input.is_empty() && self.decrypt(cx, buf)? {
                continue;
            }
            if buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = ready!(self.poll_receive(cx)) {
                return Poll::Ready(Err(self.fail(error)));
            }
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.unsent_bytes() >= WRITE_BYTES_MAX {
            ready!(self.poll_send(cx))?;
        }
        let mut written = 0;
        for buf in bufs {
            let taken = buf.len().min(WRITE_BYTES_MAX.saturating_sub(self.unsent_bytes()));
            self.append(&buf[..taken])?;
            written += taken;
            if taken < buf.len() {
                break;
            }
        }
        Poll::Ready(Ok(written))
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.plain_out.is_empty() && self.records_out.len() < WRITE_BYTES_MAX {
                self.encrypt()?;
            }
            if self.records_out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_write(self.records_out.filled()) {
                Ok(sent) => self.records_out.consume(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn unsent_bytes(&self) -> usize {
        self.plain_out.len() + self.records_out.len()
    }

    /// Takes plaintext. Small pieces are gathered into full records; of large ones only what fills up a record is copied.
    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= 2 * RECORD_PLAIN_BYTES {
            let filling = self.plain_out.len().next_multiple_of(RECORD_PLAIN_BYTES) - self.plain_out.len();
            let (filling, rest) = bytes.split_at(filling);
            self.plain_out.extend(filling);
            self.encrypt()?;
            let (whole, rest) = rest.split_at(rest.len() / RECORD_PLAIN_BYTES * RECORD_PLAIN_BYTES);
            self.session.encrypt(whole, &mut self.records_out).map_err(io::Error::other)?;
            bytes = rest;
        }
        self.plain_out.extend(bytes);
        Ok(())
    }

    fn encrypt(&mut self) -> io::Result<()> {
        if self.plain_out.is_empty() {
            return Ok(());
        }
        let result = self.session.encrypt(self.plain_out.filled(), &mut self.records_out);
        self.plain_out.clear();
        result.map_err(io::Error::other)
    }

    /// Appends close_notify behind everything that was written.
    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        // A connection that can send no more cannot say so either; the peer then sees a cut, which it is.
        if self.encrypt().is_ok() {
            let _ = self.session.close(&mut self.records_out);
        }
    }

    /// Ends the sending half of the TCP connection.
    pub(super) fn shut(&self) -> io::Result<()> {
        match SockRef::from(&**self.tcp).shutdown(Shutdown::Write) {
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

    /// Decrypts the next record of the input, into `buf` as far as it fits. False when there is no whole record left.
    fn decrypt(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        let plain_in = &mut self.plain_in;
        let plain = |bytes: &[u8]| {
            let (now, later) = bytes.split_at(bytes.len().min(buf.remaining()));
            buf.put_slice(now);
            if !later.is_empty() {
                plain_in.extend(later);
            }
        };
        let received = match self.session.receive(self.input.filled_mut(), plain, &mut self.records_out) {
            Ok(received) => received,
            Err(error) => {
                // What the alert says is for the peer; whether it arrives changes nothing here.
                let _ = self.poll_send(cx);
                return Err(self.fail(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        };
        self.input.consume(received.used);
        match received.stage {
            Stage::Data => return Ok(true),
            Stage::Handshake | Stage::Traffic => {}
            Stage::PeerClosed => {
                self.receiving = Receiving::Closed;
                self.input.clear();
                return Ok(true);
            }
        }
        // Only the beginning of a record is left: it must not hold memory for a whole read.
        if !self.input.is_empty() {
            self.partial = self.input.filled().into();
            self.input.clear();
        }
        Ok(false)
    }

    /// Reads the socket once.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reads_left == 0 {
            // Others have a turn, even when this peer sends faster than we read.
            self.reads_left = READS_PER_TURN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.partial.len() > PARTIAL_BYTES_MAX {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message has no end")));
        }
        let kept = self.partial.len();
        let room = &mut self.input.room(scratch::READ_BYTES)[..scratch::READ_BYTES];
        let read = match poll_recv(&self.tcp, cx, &mut room[kept..]) {
            Poll::Ready(Ok(0)) => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed without close_notify"))
            }
            Poll::Ready(result) => result,
            Poll::Pending => {
                self.input.clear();
                self.reads_left = READS_PER_TURN;
                return Poll::Pending;
            }
        };
        let read = read?;
        room[..kept].copy_from_slice(&self.partial);
        self.partial = Box::default();
        self.input.commit(kept + read);
        self.reads_left -= 1;
        Poll::Ready(Ok(()))
    }

    /// Gives up the receiving side.
    fn fail(&mut self, error: io::Error) -> io::Error {
        self.receiving = Receiving::Failed;
        self.partial = Box::default();
        self.input.clear();
        error
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

/// What writers may leave before they have to wait for the socket.
const WRITE_BYTES_MAX: usize = 256 * 1024;
/// More than the longest handshake message (64 KiB) and a record, which is all that can be incomplete.
const PARTIAL_BYTES_MAX: usize = 96 * 1024;
/// Reads of the socket, 256 KiB each at most, before other connections of the thread get a turn.
const READS_PER_TURN: u32 = 4;

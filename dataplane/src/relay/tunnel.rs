//! Between a TCP socket and a tunnel's stream.

use super::{Meter, RelayError, socket::Socket};
use crate::{scratch, stream::Tunnel};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    collections::VecDeque,
    io::IoSlice,
    task::{Context, Poll},
};

/// Both directions. Each of them has an end of its own.
pub(super) struct Relay<'a> {
    near: &'a Socket<'a>,
    far: &'a mut Tunnel,
    meter: &'a Meter,
    read_bytes_max: usize,
    sending: Half,
    receiving: Half,
    /// Read from the socket, and the stream has no credit for it.
    unsent: Bytes,
    /// Memory for large reads; none while the messages are small or nothing comes.
    buffer: BytesMut,
    /// The last read was so large that the next one goes straight into `buffer`.
    bulk: bool,
    /// Received from the stream, and the socket takes no more.
    unwritten: VecDeque<Bytes>,
    active: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    Ended,
}

impl<'a> Relay<'a> {
    pub(super) fn new(near: &'a Socket<'a>, far: &'a mut Tunnel, read_bytes_max: usize, meter: &'a Meter) -> Self {
        Self {
            near,
            far,
            meter,
            read_bytes_max,
            sending: Half::Open,
            receiving: Half::Open,
            unsent: Bytes::new(),
            buffer: BytesMut::new(),
            bulk: false,
            unwritten: VecDeque::new(),
            active: false,
        }
    }

    /// Carries what there is. Says whether that was anything, and when both directions have ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> (bool, Poll<Result<(), RelayError>>) {
        self.active = false;
        let result = self.poll_both(cx);
        (self.active, result)
    }

    /// Whether a reset of the socket would go unnoticed: it is neither read nor written.
    pub(super) fn blind(&self) -> bool {
        self.sending == Half::Ended || !self.unsent.is_empty()
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        if self.sending == Half::Open && self.poll_sending(cx)?.is_ready() {
            self.sending = Half::Ended;
        }
        if self.receiving == Half::Open && self.poll_receiving(cx)?.is_ready() {
            self.receiving = Half::Ended;
        }
        match (self.sending, self.receiving) {
            (Half::Ended, Half::Ended) => Poll::Ready(Ok(())),
            // Nobody else would see a reset now: nothing is being received.
            (Half::Open, _) if self.receiving == Half::Ended || !self.unwritten.is_empty() => {
                self.far.poll_reset(cx).map(|error| Err(error.into()))
            }
            _ => Poll::Pending,
        }
    }

    /// From the socket to the stream.
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        for _ in 0..TURNS {
            while !self.unsent.is_empty() {
                match self.far.poll_send(cx, &mut self.unsent)? {
                    Poll::Ready(sent) => self.meter.add_sent(sent),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.poll_read(cx)? {
                Poll::Ready(0) => {
                    self.buffer = BytesMut::new();
                    self.far.finish()?;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(_) => self.active = true,
                Poll::Pending => {
                    self.buffer = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads what is to be sent next. Small messages take just the memory they need, copied out of a buffer that the thread
    /// shares; large ones are read in place.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, RelayError>> {
        if self.bulk {
            if self.buffer.capacity() < BULK_BYTES_MIN {
                self.buffer.reserve(self.read_bytes_max);
            }
            let Poll::Ready(read) = self.near.poll_read(cx, &mut self.buffer)? else { return Poll::Pending };
            self.bulk = read >= BULK_BYTES_MIN;
            self.unsent = self.buffer.split().freeze();
            return Poll::Ready(Ok(read));
        }
        let read_bytes_max = self.read_bytes_max.min(scratch::READ_BYTES);
        scratch::with(|shared| {
            let mut room = &mut shared[..read_bytes_max];
            let Poll::Ready(read) = self.near.poll_read(cx, &mut room)? else { return Poll::Pending };
            self.bulk = read >= BULK_BYTES_MIN;
            self.unsent = Bytes::copy_from_slice(&shared[..read]);
            Poll::Ready(Ok(read))
        })
    }

    /// From the stream to the socket.
    fn poll_receiving(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        for _ in 0..TURNS {
            let mut ended = false;
            let mut waiting = false;
            while self.unwritten.len() < PIECES_MAX {
                match self.far.poll_receive(cx)? {
                    Poll::Ready(Some(bytes)) if bytes.is_empty() => {}
                    Poll::Ready(Some(bytes)) => {
                        self.active = true;
                        self.unwritten.push_back(bytes);
                    }
                    Poll::Ready(None) => {
                        ended = true;
                        break;
                    }
                    Poll::Pending => {
                        waiting = true;
                        break;
                    }
                }
            }
            while !self.unwritten.is_empty() {
                match self.poll_write(cx)? {
                    Poll::Ready(()) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            if ended {
                self.unwritten = VecDeque::new();
                self.near.shutdown()?;
                return Poll::Ready(Ok(()));
            }
            if waiting {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes once, and gives the stream back the credit for what went out.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        for (piece, bytes) in pieces.iter_mut().zip(&self.unwritten) {
            *piece = IoSlice::new(bytes);
        }
        let pieces = &pieces[..self.unwritten.len().min(PIECES_MAX)];
        let Poll::Ready(written) = self.near.poll_write(cx, pieces)? else { return Poll::Pending };
        self.active = true;
        self.meter.add_received(written);
        self.far.release(written);
        let mut left = written;
        while left > 0 {
            let Some(front) = self.unwritten.front_mut() else { break };
            let taken = left.min(front.len());
            front.advance(taken);
            left -= taken;
            if front.is_empty() {
                self.unwritten.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Turns of one direction before the other and other connections have theirs.
const TURNS: u32 = 16;
/// From this size on a read goes straight to where it is sent from.
const BULK_BYTES_MIN: usize = 16 * 1024;
/// Received pieces that one write takes together.
const PIECES_MAX: usize = 8;

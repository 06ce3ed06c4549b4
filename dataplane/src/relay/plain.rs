//! Between two TCP sockets.

use super::{Meter, RelayError, Side, socket::Socket};
use crate::scratch::{self, Queue};
use std::{
    io::IoSlice,
    task::{Context, Poll},
};

/// Both directions. Each of them has an end of its own.
pub(super) struct Relay<'a> {
    sending: Direction<'a>,
    receiving: Direction<'a>,
}

impl<'a> Relay<'a> {
    pub(super) fn new(near: &'a Socket<'a>, far: &'a Socket<'a>, read_bytes_max: usize, meter: &'a Meter) -> Self {
        let direction = |from, to, count| Direction {
            from,
            to,
            read_bytes_max: read_bytes_max.min(scratch::READ_BYTES),
            unwritten: Queue::default(),
            stage: Stage::Open,
            meter,
            count,
        };
        Self { sending: direction(near, far, Meter::add_sent), receiving: direction(far, near, Meter::add_received) }
    }

    /// Carries what there is. Says whether that was anything, and when both directions have ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> (bool, Poll<Result<(), RelayError>>) {
        let mut active = false;
        let result = self.poll_both(cx, &mut active);
        (active, result)
    }

    /// Whether a reset of this side's socket would go unnoticed: it is neither read nor written.
    pub(super) fn blind(&self, side: Side) -> bool {
        let read = match side {
            Side::Near => &self.sending,
            Side::Far => &self.receiving,
        };
        read.stage == Stage::Ended || !read.unwritten.is_empty()
    }

    fn poll_both(&mut self, cx: &mut Context<'_>, active: &mut bool) -> Poll<Result<(), RelayError>> {
        let sent = self.sending.poll(cx, active)?;
        let received = self.receiving.poll(cx, active)?;
        if sent.is_ready() && received.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

struct Direction<'a> {
    from: &'a Socket<'a>,
    to: &'a Socket<'a>,
    read_bytes_max: usize,
    /// Read, and `to` takes no more: at most one read's worth.
    unwritten: Queue,
    stage: Stage,
    meter: &'a Meter,
    count: fn(&Meter, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Ended,
}

impl Direction<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, active: &mut bool) -> Poll<Result<(), RelayError>> {
        if self.stage == Stage::Ended {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS {
            while !self.unwritten.is_empty() {
                let Poll::Ready(written) = self.to.poll_write(cx, &[IoSlice::new(self.unwritten.filled())])? else {
                    return Poll::Pending;
                };
                self.unwritten.consume(written);
                (self.count)(self.meter, written);
                *active = true;
            }
            match self.poll_once(cx, active)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => {
                    self.stage = Stage::Ended;
                    self.to.shutdown()?;
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes it on from the shared buffer; what does not fit is kept. False at the end.
    fn poll_once(&mut self, cx: &mut Context<'_>, active: &mut bool) -> Poll<Result<bool, RelayError>> {
        scratch::with(|shared| {
            let mut room = &mut shared[..self.read_bytes_max];
            let Poll::Ready(read) = self.from.poll_read(cx, &mut room)? else { return Poll::Pending };
            if read == 0 {
                return Poll::Ready(Ok(false));
            }
            *active = true;
            let mut written = 0;
            if let Poll::Ready(at_once) = self.to.poll_write(cx, &[IoSlice::new(&shared[..read])])? {
                written = at_once;
            }
            (self.count)(self.meter, written);
            self.unwritten.extend(&shared[written..read]);
            Poll::Ready(Ok(true))
        })
    }
}

/// Turns of one direction before the other and other connections have theirs.
const TURNS: u32 = 16;

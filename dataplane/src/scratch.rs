//! Memory that all connections of a thread take turns with, so that none of them holds what it does not need now.
//!
//! A read lands in one big buffer that everybody shares; what must survive the turn goes into a [`Queue`], whose memory is
//! lent and goes back when the queue is empty. An idle connection has none.

use std::cell::RefCell;

/// Calls `read` with this thread's read buffer, [`READ_BYTES`] long. What is in it is left over from others.
///
/// # Panics
/// When `read` itself calls this.
pub fn with<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    READ.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            buffer.resize(READ_BYTES, 0);
        }
        read(buffer)
    })
}

/// Bytes in and out in order, in memory that the thread lends.
#[derive(Debug, Default)]
pub struct Queue {
    // All of it is initialised; what counts lies between `start` and `end`.
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Queue {
    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes in it, oldest first.
    pub fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Appends.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// At least `bytes` of room behind the last byte, with anything in it. What is written there counts once committed.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        if self.memory.len() - self.end < bytes && self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.memory.len() - self.end < bytes {
            let needed = self.end + bytes;
            self.memory.resize(needed.max(2 * self.memory.len()).max(LENT_BYTES_MIN), 0);
        }
        &mut self.memory[self.end..]
    }

    /// Makes the first `bytes` of the room count.
    pub fn commit(&mut self, bytes: usize) {
        self.end += bytes;
        debug_assert!(self.end <= self.memory.len());
    }

    /// Takes the oldest `bytes` away. The memory of an empty queue goes back to the thread.
    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.end);
        if self.is_empty() {
            self.give_back();
        }
    }

    /// Takes everything away.
    pub fn clear(&mut self) {
        self.consume(self.len());
    }

    fn give_back(&mut self) {
        (self.start, self.end) = (0, 0);
        let memory = std::mem::take(&mut self.memory);
        if memory.is_empty() || memory.len() > LENT_BYTES_MAX {
            return;
        }
        // A thread that ends takes its memory along.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(memory);
            }
        });
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.give_back();
    }
}

thread_local! {
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Length of the shared read buffer: beyond it bulk got no faster.
pub const READ_BYTES: usize = 256 * 1024;
/// A queue starts with this much memory when the thread has none to lend.
const LENT_BYTES_MIN: usize = 4 * 1024;
/// Memory that grew beyond this is freed, not lent again.
const LENT_BYTES_MAX: usize = 1024 * 1024;
/// Pieces of memory that a thread keeps for the next queue.
const SPARE_MAX: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_the_pieces() {
        let mut queue = Queue::default();
        let mut out = Vec::new();
        for step in 0..1000_usize {
            let piece: Vec<u8> = (0..step % 97).map(|i| u8::try_from((step + i) % 251).expect("below 251")).collect();
            queue.extend(&piece);
            let taken = queue.len().min(step % 89);
            out.extend_from_slice(&queue.filled()[..taken]);
            queue.consume(taken);
        }
        out.extend_from_slice(queue.filled());
        queue.clear();
        let expected: Vec<u8> = (0..1000_usize)
            .flat_map(|step| (0..step % 97).map(move |i| u8::try_from((step + i) % 251).expect("below 251")))
            .collect();
        assert_eq!(out, expected);
        assert!(queue.memory.is_empty(), "an empty queue holds no memory");
    }
}

//! Memory that the connections of a thread take turns with, so that none of them holds what it does not need now.
//!
//! Memory is lent for as long as there is something in it, and goes back to the thread then. An idle connection has none.

use std::cell::RefCell;

/// Calls `read` with memory for one read, [`READ_BYTES`] long. What is in it is left over from others.
pub fn with<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut memory = lend(READ_BYTES);
    let result = read(&mut memory[..READ_BYTES]);
    give_back(memory);
    result
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

    /// The bytes in it, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.end]
    }

    /// Appends.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// At least `bytes` of room behind the last byte, with anything in it. What is written there counts once committed.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = lend(bytes);
        }
        if self.memory.len() - self.end < bytes && self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.memory.len() - self.end < bytes {
            let needed = self.end + bytes;
            self.memory.resize(needed.max(2 * self.memory.len()), 0);
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
        give_back(std::mem::take(&mut self.memory));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Initialised memory of at least this length.
fn lend(bytes: usize) -> Vec<u8> {
    let large = bytes >= READ_BYTES;
    let mut memory = SPARE.with_borrow_mut(|spare| spare.shelf(large).pop()).unwrap_or_default();
    let bytes = if large { bytes } else { bytes.max(SMALL_BYTES) };
    if memory.len() < bytes {
        memory.resize(bytes, 0);
    }
    memory
}

fn give_back(memory: Vec<u8>) {
    if memory.is_empty() || memory.len() > LENT_BYTES_MAX {
        return;
    }
    // A thread that ends takes its memory along.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        let shelf = spare.shelf(memory.len() >= READ_BYTES);
        if shelf.len() < SPARE_MAX {
            shelf.push(memory);
        }
    });
}

/// Memory that waits to be lent.
#[derive(Default)]
struct Spare {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl Spare {
    fn shelf(&mut self, large: bool) -> &mut Vec<Vec<u8>> {
        if large { &mut self.large } else { &mut self.small }
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// Memory for one read of a socket: beyond it bulk got no faster.
pub const READ_BYTES: usize = 256 * 1024;
/// What is lent when less would do.
const SMALL_BYTES: usize = 16 * 1024;
/// Memory that grew beyond this is freed, not lent again.
const LENT_BYTES_MAX: usize = 1024 * 1024;
/// Pieces of memory of either kind that a thread keeps for the next one who asks.
const SPARE_MAX: usize = 4;

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

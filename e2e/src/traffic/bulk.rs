//! Bulk: a stream of known bytes, and the hash of what arrived.

use std::io::{self, Read, Write};

/// Length and hash of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Its length, bytes.
    pub bytes: u64,
    /// FNV-1a over 64-bit words, and over the last bytes as they are.
    pub hash: u64,
}

/// Writes `bytes` pseudo-random bytes that follow from `seed`, and says what they hash to.
///
/// # Errors
/// What the writer says.
pub fn send(to: impl Write, seed: u64, bytes: u64) -> io::Result<Digest> {
    let mut sender = Sender::new(seed);
    sender.send(to, bytes)?;
    Ok(sender.digest())
}

/// A stream of pseudo-random bytes that is sent part by part.
#[derive(Debug)]
pub struct Sender {
    state: u64,
    hasher: Hasher,
    block: Vec<u8>,
}

impl Sender {
    /// The stream that follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed | 1, hasher: Hasher::default(), block: vec![0; BLOCK_BYTES] }
    }

    /// Writes the next `bytes` of it.
    ///
    /// # Errors
    /// What the writer says.
    pub fn send(&mut self, mut to: impl Write, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            for word in self.block.chunks_exact_mut(8) {
                // xorshift64 (Marsaglia): cheap, and no block repeats.
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                word.copy_from_slice(&self.state.to_le_bytes());
            }
            let part = usize::try_from(left).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
            to.write_all(&self.block[..part])?;
            self.hasher.add(&self.block[..part]);
            left -= part as u64;
        }
        Ok(())
    }

    /// What it hashes to so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

/// Reads to the end, and says what arrived.
///
/// # Errors
/// What the reader says.
pub fn receive(mut from: impl Read) -> io::Result<Digest> {
    let mut digest = Hasher::default();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match from.read(&mut block)? {
            0 => return Ok(digest.finish()),
            count => digest.add(&block[..count]),
        }
    }
}

#[derive(Debug, Clone)]
struct Hasher {
    hash: u64,
    bytes: u64,
    rest: Vec<u8>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { hash: OFFSET, bytes: 0, rest: Vec::new() }
    }
}

impl Hasher {
    fn add(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if !self.rest.is_empty() {
            let missing = (8 - self.rest.len()).min(bytes.len());
            self.rest.extend(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.rest.len() < 8 {
                return;
            }
            let rest = std::mem::take(&mut self.rest);
            self.words(&rest);
        }
        let whole = bytes.len() / 8 * 8;
        self.words(&bytes[..whole]);
        self.rest.extend(&bytes[whole..]);
    }

    fn words(&mut self, bytes: &[u8]) {
        for word in bytes.chunks_exact(8) {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            self.hash = (self.hash ^ word).wrapping_mul(PRIME);
        }
    }

    fn finish(mut self) -> Digest {
        for byte in std::mem::take(&mut self.rest) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        Digest { bytes: self.bytes, hash: self.hash }
    }
}

/// FNV-1a's offset basis and prime for 64 bits.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;
const BLOCK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_in_any_pieces_hashes_to_what_was_sent() {
        let mut bytes = Vec::new();
        let sent = send(&mut bytes, 7, 100_003).expect("a vector takes everything");
        for piece in [1, 3, 8, 1000] {
            let mut hasher = Hasher::default();
            bytes.chunks(piece).for_each(|chunk| hasher.add(chunk));
            assert_eq!(hasher.finish(), sent, "in pieces of {piece}");
        }
        bytes[50_000] ^= 1;
        assert_ne!(receive(bytes.as_slice()).expect("a slice can be read"), sent);
    }
}

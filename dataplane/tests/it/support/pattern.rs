//! Bytes in which nothing can be lost, doubled or swapped unnoticed.

/// An endless sequence of bytes, told by its seed (xorshift64*).
pub(crate) struct Pattern {
    state: u64,
    block: Vec<u8>,
    at: usize,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, block: Vec::new(), at: 0 }
    }

    /// The next bytes: some, at most `bytes_max`.
    pub(crate) fn next(&mut self, bytes_max: u64) -> Vec<u8> {
        if self.at == self.block.len() {
            self.refill();
        }
        let end = self.block.len().min(self.at + usize::try_from(bytes_max).unwrap_or(usize::MAX));
        let bytes = self.block[self.at..end].to_vec();
        self.at = end;
        bytes
    }

    /// Panics unless these are the next bytes.
    pub(crate) fn check(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.next(bytes.len() as u64);
            let (now, rest) = bytes.split_at(expected.len());
            assert!(now == expected, "the bytes are not those that were sent");
            bytes = rest;
        }
    }

    fn refill(&mut self) {
        self.block.clear();
        for _ in 0..8192 {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            self.block.extend_from_slice(&self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        self.at = 0;
    }
}

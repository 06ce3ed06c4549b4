//! One direction of a TCP connection, put together from its segments, and what of it is inside TLS records.

use super::pcap::Segment;

/// The bytes that one end sent, in order.
#[derive(Debug)]
pub struct Stream {
    /// All of them that were captured.
    pub bytes: Vec<u8>,
    /// How they divide into TLS records.
    pub tls: Tls,
}

/// How a stream divides into TLS records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tls {
    /// Records of application data.
    pub application_records: usize,
    /// Bytes that belong to no record.
    pub outside_bytes: usize,
}

impl Stream {
    /// Puts segments together. Retransmissions count once. When the capture began in the middle of the connection, the
    /// first record boundary is looked for, and the bytes before it are left out.
    pub fn of(segments: &[Segment<'_>]) -> Self {
        let start = segments.iter().find(|segment| segment.is_start());
        let base = start.map(|start| start.sequence.wrapping_add(1));
        let first = base.or_else(|| segments.iter().map(|segment| segment.sequence).next()).unwrap_or_default();
        let mut bytes = Vec::new();
        for segment in segments {
            let from = segment.sequence.wrapping_add(u32::from(segment.is_start())).wrapping_sub(first) as usize;
            if segment.payload.is_empty() || from > MAX_BYTES {
                // Nothing, or a keepalive probe of the byte before the first.
                continue;
            }
            let end = from + segment.payload.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[from..end].copy_from_slice(segment.payload);
        }
        let skipped = if base.is_some() { 0 } else { first_record(&bytes) };
        let tls = Tls::of(&bytes[skipped..]);
        Self { bytes, tls }
    }

    /// How often `marker` occurs.
    pub fn occurrences(&self, marker: &[u8]) -> usize {
        self.bytes.windows(marker.len()).filter(|window| *window == marker).count()
    }

    /// The first bytes, as text, for a message.
    pub fn excerpt(&self) -> String {
        self.bytes[..self.bytes.len().min(80)].escape_ascii().to_string()
    }
}

impl Tls {
    /// Follows the chain of records from the first byte. What comes after the first thing that is none is outside. The last
    /// record may be cut by the end of the capture.
    pub fn of(mut bytes: &[u8]) -> Self {
        let mut tls = Self::default();
        while !bytes.is_empty() {
            let Some((kind, length)) = record(bytes) else {
                tls.outside_bytes += bytes.len();
                return tls;
            };
            tls.application_records += usize::from(kind == APPLICATION_DATA);
            bytes = &bytes[length.min(bytes.len())..];
        }
        tls
    }
}

/// The type and whole length of the record that `bytes` start with (RFC 8446, section 5.1).
fn record(bytes: &[u8]) -> Option<(u8, usize)> {
    let [kind, 3, 1..=3, high, low, ..] = *bytes else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    ((20..=APPLICATION_DATA).contains(&kind) && (1..=RECORD_BYTES_MAX).contains(&length)).then_some((kind, length + 5))
}

/// Where a chain of records starts that leads to the end, in a stream whose beginning was not captured; else 0.
fn first_record(bytes: &[u8]) -> usize {
    let chains = |at: &usize| record(&bytes[*at..]).is_some() && Tls::of(&bytes[*at..]).outside_bytes == 0;
    (0..bytes.len().min(RECORD_BYTES_MAX + 5)).find(chains).unwrap_or(0)
}

const APPLICATION_DATA: u8 = 23;
/// RFC 8446, section 5.2: 2^14 bytes and 256 of expansion.
const RECORD_BYTES_MAX: usize = (1 << 14) + 256;
/// A stream of a test is smaller; a greater distance is a number from before its start.
const MAX_BYTES: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: [u8; 7] = [23, 3, 3, 0, 2, b'h', b'i'];

    fn segment(sequence: u32, flags: u8, payload: &[u8]) -> Segment<'_> {
        let end = ([10, 77, 0, 1], 80).into();
        Segment { source: end, destination: end, sequence, flags, payload }
    }

    #[test]
    fn segments_out_of_order_and_twice_make_one_stream() {
        let parts =
            [segment(99, 2, b""), segment(104, 16, b"marker"), segment(100, 16, b"the "), segment(100, 16, b"the ")];
        let stream = Stream::of(&parts);
        assert_eq!((stream.bytes.as_slice(), stream.occurrences(b"e marker")), (b"the marker".as_slice(), 1));
        assert_eq!(stream.tls, Tls { application_records: 0, outside_bytes: 10 });
    }

    #[test]
    fn bytes_between_records_are_outside() {
        let clean = [RECORD, RECORD].concat();
        assert_eq!(Tls::of(&clean), Tls { application_records: 2, outside_bytes: 0 });
        let dirty = [&RECORD[..], b"GET / HTTP/1.1", &RECORD[..]].concat();
        assert_eq!(Tls::of(&dirty), Tls { application_records: 1, outside_bytes: 21 });
    }

    #[test]
    fn a_capture_that_begins_within_a_record_finds_the_next() {
        let parts = [segment(5, 16, &RECORD[3..]), segment(9, 16, &RECORD), segment(16, 16, &RECORD)];
        assert_eq!(Stream::of(&parts).tls, Tls { application_records: 2, outside_bytes: 0 });
        let plain = [segment(5, 16, b"plain text all along")];
        assert_eq!(Stream::of(&plain).tls.outside_bytes, 20);
    }
}

//! One side of a TLS connection without a socket: records in, plaintext and records out.

use crate::scratch::Queue;
use rustls::{
    ClientConfig, CommonState, Error, ServerConfig,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic},
};
use rustls_pki_types::ServerName;
use std::{fmt, net::Ipv4Addr, ops::Deref, sync::Arc};

/// A client's or a server's side.
pub(super) enum Session {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What a step over received records came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// Bytes of the input that are done with.
    pub used: usize,
    /// Where the connection stands now.
    pub stage: Stage,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// More of the peer's handshake is needed. What is left of the input is the beginning of a record.
    Handshake,
    /// Some plaintext came out, and there may be more in the rest of the input.
    Data,
    /// Data may be sent and received. What is left of the input is the beginning of a record.
    Traffic,
    /// The peer said that it sends no more (close_notify).
    PeerClosed,
}

impl Session {
    /// The side that speaks first.
    pub(super) fn client(config: Arc<ClientConfig>) -> Result<Self, Error> {
        // Not sent (no SNI) and not verified: the peer is its SPIFFE ID.
        let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        Ok(Self::Client(Box::new(UnbufferedClientConnection::new(config, name)?)))
    }

    /// The side that answers.
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::Server(Box::new(UnbufferedServerConnection::new(config)?)))
    }

    /// Goes over received records, up to the first one with data in it, which is handed to `plain`. What the protocol itself has
    /// to say is appended to `records`.
    ///
    /// # Errors
    /// Anything wrong with the records or the peer. The alert for it is in `records`, to be sent before closing.
    pub(super) fn receive(
        &mut self,
        input: &mut [u8],
        mut plain: impl FnMut(&[u8]),
        records: &mut Queue,
    ) -> Result<Received, Error> {
        let mut used = 0;
        loop {
            let rest = &mut input[used..];
            let (discard, step) = self.step(rest, &mut plain, records);
            match step {
                Ok(Step::Again) => used += discard,
                Ok(Step::Rest(stage)) => {
                    used += discard;
                    if !matches!(stage, Stage::Data | Stage::Handshake) && !is_beginning(&input[used..]) {
                        return Err(Error::General("a handshake message in pieces after the handshake".to_owned()));
                    }
                    return Ok(Received { used, stage });
                }
                Err(error) => {
                    // The alert, and not a step more: the session could not bear to see its input again, nor to miss it.
                    while self.wants_write() && self.step(&mut [], &mut |_| {}, records).1.is_ok() {}
                    return Err(error);
                }
            }
        }
    }

    fn step(
        &mut self,
        input: &mut [u8],
        plain: &mut impl FnMut(&[u8]),
        records: &mut Queue,
    ) -> (usize, Result<Step, Error>) {
        match self {
            Self::Client(session) => advance(session.process_tls_records(input), plain, records),
            Self::Server(session) => advance(session.process_tls_records(input), plain, records),
        }
    }

    /// Encrypts all of `plain` to the end of `records`.
    ///
    /// # Errors
    /// When the connection can send no more.
    pub(super) fn encrypt(&mut self, plain: &[u8], records: &mut Queue) -> Result<(), Error> {
        self.write(records, plain.len(), |traffic, room| traffic.encrypt(plain, room))
    }

    /// Says that no more will be sent.
    ///
    /// # Errors
    /// When the connection can send no more.
    pub(super) fn close(&mut self, records: &mut Queue) -> Result<(), Error> {
        self.write(records, 0, |traffic, room| traffic.queue_close_notify(room))
    }

    fn write(
        &mut self,
        records: &mut Queue,
        plain_bytes: usize,
        write: impl FnOnce(&mut dyn Encrypt, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        let mut write = Some(write);
        while write.is_some() {
            let step = match self {
                Self::Client(session) => send(session.process_tls_records(&mut []), records, plain_bytes, &mut write),
                Self::Server(session) => send(session.process_tls_records(&mut []), records, plain_bytes, &mut write),
            };
            step?;
        }
        Ok(())
    }
}

impl Deref for Session {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match self {
            Self::Client(session) => session,
            Self::Server(session) => session,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client",
            Self::Server(_) => "Server",
        })
    }
}

enum Step {
    /// Nothing that the caller waits for; there may be more.
    Again,
    Rest(Stage),
}

/// Whether this is less than one record (RFC 8446, section 5.1).
///
/// A whole record that was not done with holds a piece of a handshake message, to which the session would refer at its next
/// write, when that memory is gone. Honest messages after the handshake fit into one record.
fn is_beginning(rest: &[u8]) -> bool {
    match rest {
        [_, _, _, high, low, payload @ ..] => payload.len() < usize::from(u16::from_be_bytes([*high, *low])),
        _ => true,
    }
}

/// The part of [`WriteTraffic`] that is the same for both sides.
trait Encrypt {
    fn encrypt(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, EncryptError>;
    fn queue_close_notify(&mut self, room: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Side> Encrypt for WriteTraffic<'_, Side> {
    fn encrypt(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, plain, room)
    }

    fn queue_close_notify(&mut self, room: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::queue_close_notify(self, room)
    }
}

fn advance<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    plain: &mut impl FnMut(&[u8]),
    records: &mut Queue,
) -> (usize, Result<Step, Error>) {
    let mut discard = status.discard;
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error)),
    };
    let step = match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        plain(record.payload);
                    }
                    Err(error) => return (discard, Err(error)),
                }
            }
            Step::Rest(Stage::Data)
        }
        ConnectionState::EncodeTlsData(mut message) => {
            if let Err(error) = append(records, |room| message.encode(room)) {
                return (discard, Err(Error::General(error.to_string())));
            }
            Step::Again
        }
        ConnectionState::TransmitTlsData(message) => {
            // It is in `records` now, and leaves before anything that is encrypted later.
            message.done();
            Step::Again
        }
        ConnectionState::BlockedHandshake => Step::Rest(Stage::Handshake),
        ConnectionState::WriteTraffic(_) => Step::Rest(Stage::Traffic),
        ConnectionState::PeerClosed | ConnectionState::Closed => Step::Rest(Stage::PeerClosed),
        // Early data is neither offered nor accepted.
        _ => return (discard, Err(Error::General("an unexpected state of the TLS connection".to_owned()))),
    };
    (discard, Ok(step))
}

fn send<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    records: &mut Queue,
    plain_bytes: usize,
    write: &mut Option<impl FnOnce(&mut dyn Encrypt, &mut [u8]) -> Result<usize, EncryptError>>,
) -> Result<(), Error> {
    match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => {
            let Some(write) = write.take() else { return Ok(()) };
            let bytes_max = plain_bytes + (plain_bytes / RECORD_PLAIN_BYTES + 2) * RECORD_EXTRA_BYTES;
            let written = write(&mut traffic, records.room(bytes_max));
            records.commit(written.as_ref().copied().unwrap_or(0));
            written.map(drop).map_err(|error| Error::General(error.to_string()))
        }
        ConnectionState::EncodeTlsData(mut message) => {
            append(records, |room| message.encode(room)).map_err(|error| Error::General(error.to_string()))
        }
        ConnectionState::TransmitTlsData(message) => {
            message.done();
            Ok(())
        }
        // Said once; what we still send is not touched by it.
        ConnectionState::PeerClosed => Ok(()),
        _ => Err(Error::General("the TLS connection can send no more".to_owned())),
    }
}

fn append(
    records: &mut Queue,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), EncodeError> {
    let mut written = encode(records.room(MESSAGE_BYTES));
    if let Err(EncodeError::InsufficientSize(needed)) = &written {
        written = encode(records.room(needed.required_size));
    }
    records.commit(written.as_ref().copied().unwrap_or(0));
    written.map(drop)
}

/// Most plaintext in a record (RFC 8446, section 5.1).
pub(super) const RECORD_PLAIN_BYTES: usize = 16 * 1024;
/// Head, content type and authentication tag of a record; for the last of the plaintext and for a key update there are
/// two more of them.
const RECORD_EXTRA_BYTES: usize = 64;
/// First guess at the size of a handshake message.
const MESSAGE_BYTES: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_a_record_is_a_beginning() {
        let record = [0x17, 3, 3, 0, 4, 1, 2, 3, 4, 0x17];
        for length in 0..9 {
            assert!(is_beginning(&record[..length]), "{length} bytes");
        }
        assert!(!is_beginning(&record[..9]) && !is_beginning(&record));
        assert!(!is_beginning(&[0x17, 3, 3, 0, 0]));
    }
}

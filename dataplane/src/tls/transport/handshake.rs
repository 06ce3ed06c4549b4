//! The handshake of either side, to an established stream and the peer's identity.

use super::{
    TlsStream,
    core::Core,
    session::{Session, Stage},
};
use crate::{
    scratch::Queue,
    tls::{
        ALPN,
        verify::{PeerIdentityError, peer_identity},
    },
};
use heddle_mesh::identity::SpiffeId;
use rustls::{ClientConfig, ServerConfig};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Performs the client's side of a handshake. The deadline is the caller's; dropping this closes the socket.
///
/// # Errors
/// Why there is no connection to a peer that was verified.
pub async fn connect(tcp: TcpStream, config: Arc<ClientConfig>) -> Result<(TlsStream, SpiffeId), TlsError> {
    establish(tcp, Session::client(config)?).await
}

/// Performs the server's side of a handshake. The deadline is the caller's; dropping this closes the socket.
///
/// # Errors
/// Why there is no connection to a peer that was verified.
pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<(TlsStream, SpiffeId), TlsError> {
    establish(tcp, Session::server(config)?).await
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The socket failed.
    #[error("the TLS handshake broke off")]
    Socket(#[from] io::Error),
    /// The peer went away in mid-handshake, without a word.
    #[error("the peer closed the connection in the TLS handshake")]
    Closed,
    /// One side did not accept the other: certificate, version, suites, or bytes that are no TLS at all.
    #[error("the TLS handshake failed: {0}")]
    Protocol(#[from] rustls::Error),
    /// The peer speaks TLS, but does not agree to HTTP/2 inside.
    #[error("the peer did not agree to h2 (ALPN), so it is no HBONE endpoint")]
    NoHttp2,
    /// The certificate was accepted and yet names no workload.
    #[error(transparent)]
    Identity(#[from] PeerIdentityError),
    /// The peer's handshake is longer than any honest one.
    #[error("the peer's TLS handshake is longer than {HANDSHAKE_BYTES_MAX} bytes")]
    TooLong,
}

async fn establish(mut tcp: TcpStream, mut session: Session) -> Result<(TlsStream, SpiffeId), TlsError> {
    let mut input = Vec::new();
    let (mut plain, mut records) = (Queue::default(), Queue::default());
    loop {
        let result = session.receive(&mut input, |bytes| plain.extend(bytes), &mut records);
        // An alert goes out, too: it tells the peer what was wrong with it.
        let sent = send(&mut tcp, &mut records).await;
        let received = result?;
        sent?;
        input.drain(..received.used);
        match received.stage {
            Stage::Traffic | Stage::Data => break,
            Stage::PeerClosed => return Err(TlsError::Closed),
            Stage::Handshake if input.len() >= HANDSHAKE_BYTES_MAX => return Err(TlsError::TooLong),
            Stage::Handshake => {}
        }
        input.reserve(READ_BYTES);
        if tcp.read_buf(&mut input).await? == 0 {
            return Err(TlsError::Closed);
        }
    }
    if session.alpn_protocol() != Some(ALPN) {
        return Err(TlsError::NoHttp2);
    }
    let peer = peer_identity(session.peer_certificates().unwrap_or_default())?;
    input.shrink_to_fit();
    Ok((TlsStream::new(Core::new(tcp, session, input, plain, records)), peer))
}

async fn send(tcp: &mut TcpStream, records: &mut Queue) -> io::Result<()> {
    let result = tcp.write_all(records.filled()).await;
    records.clear();
    result
}

/// Longest run of handshake bytes that waits for its end: a certificate chain of the mesh has a few KiB.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// Read at once while the handshake lasts.
const READ_BYTES: usize = 8 * 1024;

//! The smallest HTTP/1.1 client that the bench needs: one GET on a connection that stays open.

use anyhow::{Context, Result, ensure};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Longest wait for any single answer; a stalled proxy is a failure, not a slow one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Largest head of an answer. nginx sends about 250 bytes.
const HEAD_BYTES_MAX: usize = 4096;

/// Opens a connection with deadlines on each read and write.
pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The start of an answer: how long its body is, and what of the body came with the head.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `Content-Length`.
    pub(crate) body_bytes: u64,
    /// First bytes of the body.
    pub(crate) begun: Vec<u8>,
}

/// Sends a GET and reads the head; an error unless it is a 200 with a length.
pub(crate) fn get(stream: &mut TcpStream, path: &str) -> Result<Answer> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n").as_bytes()).context("send a request")?;
    let mut received = Vec::with_capacity(HEAD_BYTES_MAX);
    let mut chunk = [0; HEAD_BYTES_MAX];
    let head_bytes = loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        ensure!(received.len() < HEAD_BYTES_MAX, "the answer's head is longer than {HEAD_BYTES_MAX} bytes");
        let count = stream.read(&mut chunk).context("read an answer")?;
        ensure!(count > 0, "the connection ended before an answer to GET {path}");
        received.extend_from_slice(&chunk[..count]);
    };
    let head = String::from_utf8_lossy(&received[..head_bytes]);
    ensure!(head.starts_with("HTTP/1.1 200 "), "GET {path}: {}", head.lines().next().unwrap_or_default());
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let body_bytes = length.with_context(|| format!("GET {path}: no content-length in {head}"))?;
    Ok(Answer { body_bytes, begun: received.split_off(head_bytes) })
}

/// A GET whose whole body is read.
pub(crate) fn get_all(stream: &mut TcpStream, path: &str) -> Result<Vec<u8>> {
    let answer = get(stream, path)?;
    let mut body = answer.begun;
    let missing = answer.body_bytes.saturating_sub(body.len() as u64);
    stream.take(missing).read_to_end(&mut body).context("read a body")?;
    ensure!(body.len() as u64 == answer.body_bytes, "GET {path}: {} of {} bytes", body.len(), answer.body_bytes);
    Ok(body)
}

/// A GET on a connection of its own.
///
/// # Errors
/// As [`connect`] and [`get_all`].
pub(crate) fn get_once(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    get_all(&mut connect(address)?, path)
}

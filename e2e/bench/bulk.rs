//! Bulk: a few streams fetch a big file over and over until the time is up.
//!
//! The reader discards the bytes in the kernel (tcp(7), MSG_TRUNC), so that two cores are left to what is measured.

use crate::{bed::Bed, http, web};
use anyhow::{Context, Result, ensure};
use std::{
    net::TcpStream,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

/// Streams at once.
pub(crate) const STREAMS: usize = 2;

/// Most bytes that one call discards.
const DISCARD_BYTES: usize = 1 << 20;

/// What arrived, and in which time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    /// Payload of all streams.
    pub(crate) bytes: u64,
    /// From the first connect to the end of the last stream.
    pub(crate) duration: Duration,
}

impl Report {
    /// 10⁹ bits a second.
    pub(crate) fn gbit_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.duration.as_secs_f64()
    }

    /// 10⁹ bytes.
    pub(crate) fn gigabytes(&self) -> f64 {
        self.bytes as f64 / 1e9
    }
}

/// Fetches for `seconds` in the client's pod.
pub(crate) fn run(bed: &Bed, seconds: u32) -> Result<Report> {
    let start = Instant::now();
    let end = start + Duration::from_secs(u64::from(seconds));
    let counts = bed.client.run(|| {
        let sockets = (0..STREAMS).map(|_| http::connect(bed.application())).collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let fetches: Vec<_> =
                sockets.into_iter().map(|socket| scope.spawn(move || fetch_until(socket, end))).collect();
            fetches.into_iter().map(|fetch| fetch.join().expect("a fetch does not panic")).collect::<Result<Vec<_>>>()
        })
    })?;
    let bytes = counts.with_context(|| format!("{}: bulk", bed.subject))?.iter().sum();
    Ok(Report { bytes, duration: start.elapsed() })
}

/// One stream: bytes received when `end` came.
fn fetch_until(mut stream: TcpStream, end: Instant) -> Result<u64> {
    let mut received = 0;
    loop {
        let answer = http::get(&mut stream, web::BIG)?;
        ensure!(answer.body_bytes == web::BIG_BYTES, "{} has {} bytes", web::BIG, answer.body_bytes);
        let mut missing = answer.body_bytes - answer.begun.len() as u64;
        received += answer.begun.len() as u64;
        while missing > 0 {
            if Instant::now() >= end {
                return Ok(received);
            }
            let count = discard(&stream, missing)?;
            missing -= count;
            received += count;
        }
    }
}

/// Takes up to `bytes_max` bytes out of the socket without copying them.
fn discard(stream: &TcpStream, bytes_max: u64) -> Result<u64> {
    let length = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(DISCARD_BYTES);
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer, which may then be null (tcp(7)).
    let count = unsafe { libc::recv(stream.as_raw_fd(), std::ptr::null_mut(), length, libc::MSG_TRUNC) };
    let count = u64::try_from(count).map_err(|_negative| std::io::Error::last_os_error()).context("read the file")?;
    ensure!(count > 0, "the connection ended in the middle of the file");
    Ok(count)
}

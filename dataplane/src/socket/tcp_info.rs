//! Asks the kernel about a TCP connection: TCP_INFO (tcp(7); `struct tcp_info` in linux/tcp.h).
//!
//! It costs a system call, so it is asked when a connection ends, and when a tunnel's stream begins: never for each piece of
//! data.

use crate::telemetry::tcp::TcpSample;
use std::{
    cell::Cell,
    io,
    ops::Deref,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    rc::{Rc, Weak},
};
use tokio::net::TcpStream;

/// What the kernel says of the connection now. A connection that was reset still has its numbers.
///
/// # Errors
/// Those of getsockopt(2): what is asked about is no TCP socket.
pub fn sample(socket: impl AsFd) -> io::Result<TcpSample> {
    let mut bytes = [0; TCP_INFO_BYTES];
    let said = tcp_info(socket.as_fd(), &mut bytes)?;
    Ok(parse(said))
}

/// A socket that others may ask about while its owner uses it, and after that.
#[derive(Debug)]
pub struct Watched {
    tcp: TcpStream,
    last: Rc<Cell<Option<TcpSample>>>,
}

impl Watched {
    /// Takes the socket.
    pub fn new(tcp: TcpStream) -> Rc<Self> {
        Rc::new(Self { tcp, last: Rc::default() })
    }

    /// A way to ask that does not keep the socket open.
    pub fn watch(self: &Rc<Self>) -> Watch {
        Watch { socket: Rc::downgrade(self), last: self.last.clone() }
    }
}

impl Deref for Watched {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.last.set(sample(&self.tcp).ok());
    }
}

/// Asks about a socket that somebody else owns.
#[derive(Debug)]
pub struct Watch {
    socket: Weak<Watched>,
    last: Rc<Cell<Option<TcpSample>>>,
}

impl Watch {
    /// What the kernel says now, or said when the socket was closed.
    pub fn sample(&self) -> Option<TcpSample> {
        match self.socket.upgrade() {
            Some(socket) => sample(&socket.tcp).ok(),
            None => self.last.get(),
        }
    }
}

/// As much of `struct tcp_info` as this kernel knows: an older one fills less.
fn tcp_info<'a>(socket: BorrowedFd<'_>, bytes: &'a mut [u8; TCP_INFO_BYTES]) -> io::Result<&'a [u8]> {
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the whole call because it is borrowed, and the kernel writes at most `length` bytes
    // to `bytes`, which are that long, and then the number of them to `length`.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_TCP, libc::TCP_INFO, bytes.as_mut_ptr().cast(), &raw mut length)
    };
    if result == 0 { Ok(&bytes[..(length as usize).min(TCP_INFO_BYTES)]) } else { Err(io::Error::last_os_error()) }
}

/// Reads the fields that are there. The kernel only ever appends to the structure, so offsets stay.
fn parse(said: &[u8]) -> TcpSample {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(*said.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(*said.get(at..)?.first_chunk()?));
    TcpSample {
        // Zero until the first round trip was measured.
        rtt_us: u32_at(RTT).filter(|rtt| *rtt > 0),
        // All ones until then.
        rtt_min_us: u32_at(MIN_RTT).filter(|rtt| *rtt < u32::MAX),
        retransmits: u32_at(TOTAL_RETRANS),
        bytes_retransmitted: u64_at(BYTES_RETRANS),
        bytes_acked: u64_at(BYTES_ACKED),
        bytes_received: u64_at(BYTES_RECEIVED),
    }
}

/// `tcpi_rtt`.
const RTT: usize = 68;
/// `tcpi_total_retrans`.
const TOTAL_RETRANS: usize = 100;
/// `tcpi_bytes_acked`, Linux 4.1.
const BYTES_ACKED: usize = 120;
/// `tcpi_bytes_received`, Linux 4.1.
const BYTES_RECEIVED: usize = 128;
/// `tcpi_min_rtt`, Linux 4.6.
const MIN_RTT: usize = 148;
/// `tcpi_bytes_retrans`, Linux 4.19.
const BYTES_RETRANS: usize = 208;
/// The structure as far as it is used.
const TCP_INFO_BYTES: usize = BYTES_RETRANS + size_of::<u64>();

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        mem::offset_of,
        net::{TcpListener, TcpStream as StdStream, UdpSocket},
    };

    #[test]
    fn the_offsets_are_those_of_the_headers() {
        assert_eq!(RTT, offset_of!(libc::tcp_info, tcpi_rtt));
        assert_eq!(TOTAL_RETRANS, offset_of!(libc::tcp_info, tcpi_total_retrans));
    }

    #[test]
    fn what_an_old_kernel_does_not_say_is_absent() {
        let whole: Vec<u8> = (0..TCP_INFO_BYTES).map(|at| u8::from(at % 4 == 0)).collect();
        let fields = |length: usize| {
            let sample = parse(&whole[..length]);
            [
                sample.rtt_us.is_some(),
                sample.retransmits.is_some(),
                sample.bytes_acked.is_some(),
                sample.bytes_received.is_some(),
                sample.rtt_min_us.is_some(),
                sample.bytes_retransmitted.is_some(),
            ]
        };
        assert_eq!(fields(TCP_INFO_BYTES), [true; 6]);
        // One byte short is not there.
        assert_eq!(fields(TCP_INFO_BYTES - 1), [true, true, true, true, true, false]);
        assert_eq!(fields(136), [true, true, true, true, false, false], "Linux 4.1");
        assert_eq!(fields(104), [true, true, false, false, false, false], "Linux 3");
        assert_eq!(fields(0), [false; 6]);
    }

    #[test]
    fn what_was_not_measured_yet_is_absent() {
        let mut nothing = [0; TCP_INFO_BYTES];
        nothing[MIN_RTT..MIN_RTT + 4].fill(0xff);
        let sample = parse(&nothing);
        assert_eq!((sample.rtt_us, sample.rtt_min_us, sample.retransmits), (None, None, Some(0)));
    }

    #[test]
    fn a_connection_on_loopback_has_its_numbers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let mut client = StdStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut server, _) = listener.accept().expect("accepts");
        client.write_all(&[7; 1000]).expect("sent");
        server.read_exact(&mut [0; 1000]).expect("received");
        server.write_all(&[7; 10]).expect("sent");
        client.read_exact(&mut [0; 10]).expect("received");
        let said = sample(&client).expect("a TCP socket");
        assert!(said.rtt_us.is_some_and(|rtt| rtt < 1_000_000), "{said:?}");
        assert!(said.rtt_min_us <= said.rtt_us, "{said:?}");
        assert_eq!((said.retransmits, said.bytes_retransmitted), (Some(0), Some(0)));
        // The SYN counts.
        assert!(matches!(said.bytes_acked, Some(1000 | 1001)), "{said:?}");
        assert_eq!(said.bytes_received, Some(10));
    }

    #[test]
    fn what_is_no_tcp_socket_is_an_error() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        assert!(sample(&socket).is_err());
    }
}

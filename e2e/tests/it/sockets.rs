//! Sockets as an application may make them that wants past capture: protocols, options and calls that few use.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::{AsRawFd, RawFd},
};

/// A TCP socket of this protocol, for a destination of `to`'s family.
pub(crate) fn stream(to: SocketAddr, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))
}

/// Multipath TCP (RFC 8684, socket(2) with `IPPROTO_MPTCP`).
pub(crate) fn mptcp() -> Protocol {
    Protocol::from(libc::IPPROTO_MPTCP)
}

/// Any address of the family of `like`, at this port.
pub(crate) fn any(like: SocketAddr, port: u16) -> SocketAddr {
    let any: IpAddr = if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, port)
}

/// An IPv4 address as an IPv6 socket writes it (RFC 4291, section 2.5.5.2); an IPv6 address is left as it is.
pub(crate) fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        IpAddr::V6(_) => to,
    }
}

/// Connects by io_uring(7), which makes the call on behalf of its submitter.
pub(crate) fn connect_by_io_uring(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let forbidden = |error: io::Error| {
        let text =
            format!("no io_uring here ({error}); /proc/sys/kernel/io_uring_disabled or a seccomp filter forbids it");
        io::Error::new(io::ErrorKind::Unsupported, text)
    };
    let mut ring = io_uring::IoUring::new(1).map_err(forbidden)?;
    let address = SockAddr::from(to);
    let fd = io_uring::types::Fd(socket.as_raw_fd());
    let entry = io_uring::opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
    // SAFETY: the socket and the address outlive the operation, whose completion is waited for below.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().ok_or_else(|| io::Error::other("io_uring completed nothing"))?;
    match done.result() {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Sets an option that is a number.
pub(crate) fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_bytes(socket.as_raw_fd(), level, name, &value.to_ne_bytes())
}

/// Sets an option.
pub(crate) fn set_bytes(socket: RawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is as long as is said, and lives through the call.
    match unsafe { libc::setsockopt(socket, level, name, value.as_ptr().cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A listener with the backlog and options of an ordinary server.
pub(crate) fn listen(socket: Socket, at: SocketAddr) -> io::Result<Socket> {
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(128)?;
    Ok(socket)
}

/// The standard library's stream of a connected socket.
pub(crate) fn into_stream(socket: Socket) -> TcpStream {
    socket.into()
}

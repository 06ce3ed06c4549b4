//! Socket options: marks, transparency, keepalive. With [`crate::allocator`] the only `unsafe` of this crate.

pub mod tcp_info;

use heddle_init_abi::{OWN_MARK, ebpf};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};
use tokio::net::{TcpSocket, TcpStream};

/// How long a silent or dead peer is put up with, on every socket of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// Silence after which keepalive probes start; they then go out at the same interval, three at most. tcp(7), TCP_KEEPIDLE.
    pub keepalive: Duration,
    /// Longest time that sent bytes stay unacknowledged before the connection is ended. tcp(7), TCP_USER_TIMEOUT.
    pub user_timeout: Duration,
}

/// A listener that takes connections to foreign addresses (TPROXY). Its accepted sockets inherit the proxy's mark and all of
/// `options` (socket(7) and tcp(7) options are copied from the listener), so that accepting costs no further call.
/// Every worker has one of its own for each address: SO_REUSEPORT.
///
/// # Errors
/// Those of socket(7) and bind(2); EPERM without CAP_NET_RAW.
pub fn listen_transparent(at: SocketAddr, options: &SocketOptions) -> io::Result<TcpListener> {
    let socket = shared(at)?;
    socket.set_mark(OWN_MARK)?;
    set_transparent(&socket, at.is_ipv6())?;
    tune(&socket, options)?;
    socket.bind(&at.into())?;
    listen(socket)
}

/// A socket that is about to listen, with `options` for those that it accepts.
///
/// # Errors
/// Those of socket(7) and bind(2).
pub fn bind(at: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = shared(at)?;
    tune(&socket, options)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// Starts to listen.
///
/// # Errors
/// Those of listen(2).
pub fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

fn shared(at: SocketAddr) -> io::Result<Socket> {
    let socket = new(at.ip())?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A socket of the proxy's own, where its cgroup and not a mark exempts it from capture.
///
/// # Errors
/// Those of socket(7).
pub fn plain(family: IpAddr, options: &SocketOptions) -> io::Result<TcpSocket> {
    let socket = new(family)?;
    tune(&socket, options)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Sets a private option of the eBPF programs (`heddle_init_abi::ebpf`).
///
/// # Errors
/// `ENOPROTOOPT` without programs, `EPERM` when they do not know this process.
pub fn set_private(socket: &impl AsFd, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let size = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the whole call because `socket` is borrowed, and `size` is the length of `value`.
    let result = unsafe { libc::setsockopt(fd, ebpf::LEVEL, name, value.as_ptr().cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads a private option of the eBPF programs.
///
/// # Errors
/// `ENOPROTOOPT` without programs, or when they do not know this process or have no answer.
pub fn private<const BYTES: usize>(socket: &impl AsFd, name: libc::c_int) -> io::Result<[u8; BYTES]> {
    let mut value = [0; BYTES];
    let mut size = libc::socklen_t::try_from(BYTES).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the whole call because `socket` is borrowed, and `size` is the length of `value`.
    let result = unsafe { libc::getsockopt(fd, ebpf::LEVEL, name, value.as_mut_ptr().cast(), &raw mut size) };
    match result {
        0 if usize::try_from(size) == Ok(BYTES) => Ok(value),
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket of the proxy's own: its mark exempts it from capture.
///
/// # Errors
/// Those of socket(7); EPERM without CAP_NET_RAW.
pub fn marked(family: IpAddr, options: &SocketOptions) -> io::Result<TcpSocket> {
    let socket = new(family)?;
    socket.set_mark(OWN_MARK)?;
    tune(&socket, options)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// A socket of the proxy's own whose connection comes from `client`, an address of another host.
/// Port 0 lets the kernel choose at connect time, per destination (ip(7), IP_BIND_ADDRESS_NO_PORT).
///
/// # Errors
/// Those of socket(7) and bind(2); EADDRINUSE when a given port is taken.
pub fn marked_as(client: SocketAddr, options: &SocketOptions) -> io::Result<TcpSocket> {
    let socket = new(client.ip())?;
    socket.set_mark(OWN_MARK)?;
    set_transparent(&socket, client.is_ipv6())?;
    if client.port() == 0 {
        set_int(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    } else {
        socket.set_reuse_address(true)?;
    }
    tune(&socket, options)?;
    socket.bind(&client.into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// A socket like an application's, which capture must catch: the probe uses it.
///
/// # Errors
/// Those of socket(7).
pub fn unmarked(family: IpAddr) -> io::Result<TcpSocket> {
    Ok(TcpSocket::from_std_stream(new(family)?.into()))
}

/// Sets what every connection has: no delay, keepalive, user timeout.
///
/// # Errors
/// Those of setsockopt(2).
fn tune(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(options.keepalive).with_interval(options.keepalive).with_retries(3);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))
}

/// Makes closing `stream` send RST instead of FIN: what was refused must not look like an orderly end.
pub fn reset(stream: TcpStream) {
    // It fails only on a socket that is already gone, and then there is nobody to tell.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

fn new(family: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(family, 0)), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn set_transparent(socket: &Socket, ipv6: bool) -> io::Result<()> {
    if ipv6 { set_int(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1) } else { socket.set_ip_transparent_v4(true) }
}

fn set_int(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the whole call because `socket` is borrowed, and `size` is the size of `value`.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Connections that wait for accept; more SYNs are dropped and sent again by their clients. listen(2).
const LISTEN_BACKLOG: libc::c_int = 4096;

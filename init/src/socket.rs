//! The edge to the kernel: netlink sockets, and what has no safe call. With [`crate::ebpf`]'s links the only `unsafe` of this crate.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    ffi::CString,
    io::{self, Read},
    mem::MaybeUninit,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
    time::Duration,
};

/// A netlink socket of one protocol, for requests that the kernel answers at once.
pub struct NetlinkSocket(Socket);

impl NetlinkSocket {
    /// Opens the socket. `protocol` is `NETLINK_ROUTE` or `NETLINK_NETFILTER` (netlink(7)).
    ///
    /// # Errors
    /// When the kernel has not that protocol, or has no descriptors left.
    pub fn open(protocol: u16) -> io::Result<Self> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
        socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
        let socket = Self(socket);
        // Errors then say at which attribute (extended acks), do not repeat the request, and dumps heed their filters.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            socket.set(libc::SOL_NETLINK, option, 1)?;
        }
        Ok(socket)
    }

    /// Sends one datagram to the kernel.
    ///
    /// # Errors
    /// What the kernel says, `EMSGSIZE` when the datagram is larger than it takes.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        // A batch must be one datagram, and a long list of exclusions makes it longer than the default allows. The kernel
        // doubles the value for its own bookkeeping (socket(7)), which the message's buffer needs as well.
        let bytes = i32::try_from(datagram.len()).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        if datagram.len() > SEND_BYTES_DEFAULT {
            self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)?;
        }
        self.0.send(datagram).map(|_| ())
    }

    /// Waits for one datagram from the kernel.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel does not answer within two seconds.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let bytes = (&self.0).read(buffer)?;
        Ok(&buffer[..bytes])
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of_val(&value)).expect("an integer has a few bytes");
        // SAFETY: the descriptor is open because `self` is borrowed, and `length` is the size of `value`.
        let result = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const value).cast::<libc::c_void>(), length)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The index of an interface of this thread's network namespace (if_nametoindex(3)), if there is one of this name.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the string is closed by a zero and lives until the call returns.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The kind of file system that holds `path` (statfs(2), f_type).
///
/// # Errors
/// When there is no such file.
pub fn file_system(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the string is closed by a zero, the buffer is one `statfs`, and both live until the call returns.
    if unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled it.
    let kind = unsafe { found.assume_init() }.f_type;
    u64::try_from(kind).map_err(io::Error::other)
}

/// Longest wait for the kernel's answer; it works while we wait, so this ends only a misunderstanding.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Datagrams up to here fit into every kernel's default send buffer (212,992 bytes, with its overhead).
const SEND_BYTES_DEFAULT: usize = 65_536;

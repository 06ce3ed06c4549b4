//! The TCP sockets of this network namespace, from /proc/net/tcp and /proc/net/tcp6 (proc(5)).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcpEntry {
    /// Its own address.
    pub(super) local: SocketAddr,
    /// The other end's.
    pub(super) remote: SocketAddr,
    /// Whether it listens.
    pub(super) listens: bool,
}

/// All sockets; IPv4 addresses are told as such, whatever the socket's family.
///
/// # Errors
/// When /proc is not mounted. A kernel without IPv6 has no second file.
pub(super) fn tcp() -> io::Result<Vec<TcpEntry>> {
    let mut text = fs::read_to_string("/proc/self/net/tcp")?;
    text.push_str(&fs::read_to_string("/proc/self/net/tcp6").unwrap_or_default());
    Ok(text.lines().filter_map(entry).collect())
}

fn entry(line: &str) -> Option<TcpEntry> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    Some(TcpEntry { local, remote, listens: words.next()? == LISTEN })
}

/// `0100007F:3A99`: the address as 32-bit words in host order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let address: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(),
        _ => Ipv6Addr::from(*bytes.first_chunk::<16>()?).into(),
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// `TCP_LISTEN` as /proc prints it.
const LISTEN: &str = "0A";

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn check(line: &str, local: &str, remote: &str, listens: bool) {
        let address = |text: &str| text.parse::<SocketAddr>().expect("a test's address");
        assert_eq!(entry(line), Some(TcpEntry { local: address(local), remote: address(remote), listens }));
    }

    #[test]
    fn both_files_are_read() {
        check("0: 0100007F:3A99 00000000:0000 0A 00000000:00000000", "127.0.0.1:15001", "0.0.0.0:0", true);
        check(
            "1: B80D0120000000000000000001000000:0009 00000000000000000000000001000000:C001 01 0:0",
            "[2001:db8::1]:9",
            "[::1]:49153",
            false,
        );
        check(
            "2: 0000000000000000FFFF0000010200C0:0009 0000000000000000FFFF00000100000A:C001 01 0:0",
            "192.0.2.1:9",
            "10.0.0.1:49153",
            false,
        );
    }

    #[test]
    fn the_heading_is_no_socket() {
        assert_eq!(entry("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when"), None);
    }
}

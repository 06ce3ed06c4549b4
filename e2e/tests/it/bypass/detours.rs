//! Options that send a socket's packets elsewhere than to where it is connected, set before or after connect(2).
//!
//! Where the kernel lets an application have them, they need no capability: loose source routing of IPv4 (RFC 791, section 3.1;
//! ip(7), IP_OPTIONS), the segment routing header of IPv6 (RFC 8754; IPV6_RTHDR of RFC 3542, section 7), and a device
//! (socket(7), SO_BINDTODEVICE).

use super::{NOBODY, Who, application, ensure_nothing_readable, guarded, word};
use crate::{sockets, support::Echo};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{Pod, TestMesh, wire::Traffic};
use socket2::{Protocol, Socket};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

/// When the option is set.
type Detour = fn(IpAddr, SocketAddr, &[u8]) -> io::Result<()>;

const DETOURS: [(&str, Detour); 3] = [
    ("a source route before connect(2)", dial_by),
    ("a source route after connect(2)", turn_off),
    ("a device after connect(2)", bind_late),
];

pub(super) fn no_option_leads_a_socket_out(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = guarded(mesh, "client").start()?;
    let bare = mesh.pod("bare").unmeshed().start()?;
    let hop = mesh.pod("hop").unmeshed().start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let _servers = (Echo::start(&web, 9000)?, Echo::start(&bare, 9000)?);
    let mut got_round = Vec::new();
    for (number, (name, detour)) in DETOURS.into_iter().enumerate() {
        let word = word(number);
        let wire = stranger.capture()?;
        let control = attempt(&stranger, detour, &hop, bare.at(9000), &word)?;
        let traffic = wire.finish()?;
        match control {
            Ok(()) => ensure!(led_out(&traffic, &hop, &word), "the control of {name} is not seen: {traffic:?}"),
            // Linux 6.18 does so for source routes of IPv4.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("{name}: the kernel itself refuses ({error})");
            }
            Err(error) => return Err(error).context("the control"),
        }

        let wire = client.capture()?;
        let end = attempt(&client, detour, &hop, web.at(9000), &word)?;
        let end = end.map_or_else(|error| format!("refused ({error})"), |()| "leads nowhere".to_owned());
        let traffic = wire.finish()?;
        if led_out(&traffic, &hop, &word) {
            println!("{name}: got round ({end})");
            got_round.push((name, traffic));
            continue;
        }
        println!("{name}: {end}");
        ensure_nothing_readable(&traffic, &[word])?;
    }
    println!("got round: {} of {}", got_round.len(), DETOURS.len());
    ensure!(got_round.is_empty(), "{got_round:?}");
    Ok(())
}

/// Whether packets went where an option led them, or the word past the proxy.
fn led_out(traffic: &Traffic, hop: &Pod, word: &str) -> bool {
    traffic.reaches(hop.address()) || traffic.occurrences(word) > 0
}

fn attempt(pod: &Pod, detour: Detour, hop: &Pod, to: SocketAddr, word: &str) -> Result<io::Result<()>> {
    let container = application(pod);
    Who { pod, container: &container, uid: NOBODY }.run(|| detour(hop.address(), to, word.as_bytes()))
}

/// Starts to connect by way of `hop`, for as long as a first packet needs to be sent.
fn dial_by(hop: IpAddr, to: SocketAddr, _: &[u8]) -> io::Result<()> {
    let socket = sockets::stream(to, Protocol::TCP)?;
    set_route(&socket, hop, to)?;
    match socket.connect_timeout(&to.into(), Duration::from_millis(200)) {
        // Nobody answers to such a packet, so the time is up, when it was sent at all.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
        result => result,
    }
}

/// Connects, and sends a word by way of `hop`.
fn turn_off(hop: IpAddr, to: SocketAddr, word: &[u8]) -> io::Result<()> {
    let socket = sockets::stream(to, Protocol::TCP)?;
    socket.connect(&to.into())?;
    set_route(&socket, hop, to)?;
    socket.send(word).map(drop)
}

/// Connects, and sends a word by the pod's interface.
fn bind_late(_: IpAddr, to: SocketAddr, word: &[u8]) -> io::Result<()> {
    let socket = sockets::stream(to, Protocol::TCP)?;
    socket.connect(&to.into())?;
    socket.bind_device(Some(b"eth0"))?;
    socket.send(word).map(drop)
}

fn set_route(socket: &Socket, hop: IpAddr, to: SocketAddr) -> io::Result<()> {
    let (level, name, value) = match hop {
        IpAddr::V4(hop) => (libc::IPPROTO_IP, libc::IP_OPTIONS, loose_route(hop, to)),
        IpAddr::V6(hop) => (libc::IPPROTO_IPV6, libc::IPV6_RTHDR, segments(hop)),
    };
    sockets::set_bytes(socket.as_raw_fd(), level, name, &value)
}

/// Type, length, pointer, and the way: the hop, then the destination; padded to a multiple of four.
fn loose_route(hop: Ipv4Addr, to: SocketAddr) -> Vec<u8> {
    let last = match to.ip() {
        IpAddr::V4(last) => last,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    [&[131, 11, 4][..], &hop.octets(), &last.octets(), &[0]].concat()
}

/// Next header, length in units of 8 bytes without the first, type 4, segments left, last entry, flags, tag, and the segments
/// from the last to the first; the kernel puts the destination into the first place of the list.
fn segments(hop: Ipv6Addr) -> Vec<u8> {
    [&[0, 4, 4, 1, 1, 0, 0, 0][..], &Ipv6Addr::UNSPECIFIED.octets(), &hop.octets()].concat()
}

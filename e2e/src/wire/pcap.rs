//! Reads a capture file: Ethernet, IPv4 and IPv6, TCP and UDP. Nothing else is looked at.

use anyhow::{Result, bail, ensure};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// The flags (RFC 9293, section 3.1), FIN in bit 0.
    pub flags: u8,
    /// What it carries.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Whether it opens a connection: SYN without ACK.
    pub fn is_dial(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// Whether a stream's numbering starts at it.
    pub fn is_start(&self) -> bool {
        self.flags & SYN != 0
    }
}

/// One UDP datagram.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// What it carries.
    pub payload: &'a [u8],
}

/// One packet.
#[derive(Debug, Clone, Copy)]
pub enum Packet<'a> {
    /// Of TCP.
    Tcp(Segment<'a>),
    /// Of UDP.
    Udp(Datagram<'a>),
}

/// The packets of a file in libpcap's format, in the order of capture. One that tcpdump had not finished writing is left out.
///
/// # Errors
/// When it is no such file, or packets were cut short when captured.
pub fn packets(file: &[u8]) -> Result<Vec<Packet<'_>>> {
    ensure!(file.len() >= FILE_HEADER_BYTES && u32_le(file, 0) == MAGIC, "this is no pcap file of this machine");
    ensure!(u32_le(file, 20) == LINKTYPE_ETHERNET, "the capture is not of Ethernet");
    let mut found = Vec::new();
    let mut at = FILE_HEADER_BYTES;
    while file.len() >= at + PACKET_HEADER_BYTES {
        let (kept, sent) = (u32_le(file, at + 8) as usize, u32_le(file, at + 12) as usize);
        at += PACKET_HEADER_BYTES;
        let Some(frame) = file.get(at..at + kept) else { break };
        if kept < sent {
            bail!("a packet of {sent} bytes was captured with {kept}");
        }
        found.extend(packet(frame));
        at += kept;
    }
    Ok(found)
}

fn packet(frame: &[u8]) -> Option<Packet<'_>> {
    let packet = frame.get(14..)?;
    match u16_be(frame, 12)? {
        0x0800 => ipv4(packet),
        0x86dd => ipv6(packet),
        _ => None,
    }
}

/// RFC 791, section 3.1. Pods send no fragments: path MTU discovery is on.
fn ipv4(packet: &[u8]) -> Option<Packet<'_>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    let total = usize::from(u16_be(packet, 2)?);
    transport(*packet.get(9)?, (address(12)?, address(16)?), packet.get(header..total)?)
}

/// RFC 8200, sections 3 and 4: hop-by-hop options, routing and destination options may stand before TCP or UDP.
fn ipv6(packet: &[u8]) -> Option<Packet<'_>> {
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    let length = usize::from(u16_be(packet, 4)?);
    let (mut next, mut bytes) = (*packet.get(6)?, packet.get(40..40 + length)?);
    while EXTENSIONS.contains(&next) {
        next = *bytes.first()?;
        bytes = bytes.get(usize::from(*bytes.get(1)?) * 8 + 8..)?;
    }
    transport(next, (address(8)?, address(24)?), bytes)
}

fn transport(protocol: u8, ends: (IpAddr, IpAddr), bytes: &[u8]) -> Option<Packet<'_>> {
    match protocol {
        TCP => tcp(ends, bytes).map(Packet::Tcp),
        UDP => udp(ends, bytes).map(Packet::Udp),
        _ => None,
    }
}

/// RFC 768.
fn udp((source, destination): (IpAddr, IpAddr), datagram: &[u8]) -> Option<Datagram<'_>> {
    Some(Datagram {
        source: SocketAddr::new(source, u16_be(datagram, 0)?),
        destination: SocketAddr::new(destination, u16_be(datagram, 2)?),
        payload: datagram.get(8..)?,
    })
}

fn tcp((source, destination): (IpAddr, IpAddr), segment: &[u8]) -> Option<Segment<'_>> {
    let header = usize::from(segment.get(12)? >> 4) * 4;
    Some(Segment {
        source: SocketAddr::new(source, u16_be(segment, 0)?),
        destination: SocketAddr::new(destination, u16_be(segment, 2)?),
        sequence: u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?),
        flags: *segment.get(13)?,
        payload: segment.get(header..)?,
    })
}

fn u16_be(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_le(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Microsecond time stamps, written by a little-endian machine.
const MAGIC: u32 = 0xa1b2_c3d4;
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER_BYTES: usize = 24;
const PACKET_HEADER_BYTES: usize = 16;
/// Extension headers of IPv6: hop-by-hop options, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

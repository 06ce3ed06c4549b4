//! What crossed a pod's wire: a packet capture on its veth, and what a listener could read in it.
//!
//! The capture sees the veth's end in the node's namespace: whatever leaves or enters the pod, after everything that the
//! pod's own rules and proxy did with it. Traffic with the node itself (the controller, scrapes) is left out.

pub mod pcap;
pub mod stream;

use crate::{
    mesh::{NODE_V4, NODE_V6},
    netns::Namespace,
    process::{Launch, Process, Rights},
    program, wait,
};
use anyhow::{Context, Result, ensure};
use pcap::{Packet, Segment};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};
use stream::Stream;

/// A running capture.
#[derive(Debug)]
pub struct Capture<'a> {
    node: &'a Namespace,
    pod: IpAddr,
    file: PathBuf,
    tcpdump: Process,
}

impl<'a> Capture<'a> {
    /// Starts a capture of `port`, the node's end of the veth of the pod with address `pod`, into `file`.
    ///
    /// # Errors
    /// When tcpdump does not listen within the usual patience.
    pub fn start(node: &'a Namespace, port: &str, pod: IpAddr, file: PathBuf) -> Result<Self> {
        // `tcp` does not look behind a routing header of IPv6 (pcap-filter(7)).
        let filter = format!(
            "udp port {MARK_PORT} or ((tcp or udp or ip6 proto 43) and not host {NODE_V4} and not host {NODE_V6})"
        );
        let mut tcpdump = Launch::new(node, program::system("tcpdump")?, Rights::Harness)
            // A big buffer: bulk transfers come faster than a debug build's neighbours leave time to write.
            .args(["--immediate-mode", "-U", "-n", "-s", "0", "-B", "65536", "-Z", "root", "-i", port, "-w"])
            .args([file.as_os_str()])
            .args([filter.as_str()])
            .spawn(&file)?;
        wait::until_true("tcpdump", wait::PATIENCE, || {
            tcpdump.check_alive()?;
            Ok(fs::read_to_string(&tcpdump.stderr)?.contains("listening on"))
        })?;
        Ok(Self { node, pod, file, tcpdump })
    }

    /// Ends it, once everything that was sent before this call is in the file, and reads it.
    ///
    /// # Errors
    /// When packets were lost, or the file cannot be read.
    pub fn finish(mut self) -> Result<Traffic> {
        // Packets are captured in order: when the mark is in the file, so is all that came before it.
        let mark = format!("heddle-e2e mark {:?}", std::time::Instant::now());
        let (pod, text) = (SocketAddr::new(self.pod, MARK_PORT), mark.as_bytes());
        wait::until_true("the end of a capture", wait::PATIENCE, || {
            let any: IpAddr = if pod.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            self.node.run(|| UdpSocket::bind((any, 0))?.send_to(text, pod))??;
            let bytes = fs::read(&self.file)?;
            Ok(bytes.windows(text.len()).rev().any(|window| window == text))
        })?;
        self.tcpdump.signal(libc::SIGINT);
        self.tcpdump.wait(Duration::from_secs(10))?;
        let said = fs::read_to_string(&self.tcpdump.stderr)?;
        let lost =
            said.lines().find(|line| line.contains("dropped by kernel")).unwrap_or("0 packets dropped by kernel");
        ensure!(lost.starts_with("0 "), "the capture is not complete: {lost}");
        let bytes = fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        Traffic::of(pcap::packets(&bytes).with_context(|| self.file.display().to_string())?)
    }
}

/// What was captured: each direction of each TCP connection, put together, and the datagrams of UDP.
#[derive(Debug)]
pub struct Traffic {
    streams: BTreeMap<(SocketAddr, SocketAddr), Stream>,
    /// Who dialled whom (SYN without ACK).
    pub dials: Vec<(SocketAddr, SocketAddr)>,
    /// What each datagram of UDP carried, from whom to whom.
    pub datagrams: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl Traffic {
    fn of(packets: Vec<Packet<'_>>) -> Result<Self> {
        let mut pieces: BTreeMap<(SocketAddr, SocketAddr), Vec<Segment<'_>>> = BTreeMap::new();
        let (mut dials, mut datagrams) = (Vec::new(), Vec::new());
        for packet in packets {
            let segment = match packet {
                Packet::Tcp(segment) => segment,
                Packet::Udp(datagram) => {
                    if datagram.destination.port() != MARK_PORT {
                        datagrams.push((datagram.source, datagram.destination, datagram.payload.to_vec()));
                    }
                    continue;
                }
            };
            if segment.is_dial() {
                dials.push((segment.source, segment.destination));
            }
            pieces.entry((segment.source, segment.destination)).or_default().push(segment);
        }
        let streams = pieces.into_iter().map(|(ends, segments)| (ends, Stream::of(&segments))).collect();
        Ok(Self { streams, dials, datagrams })
    }

    /// Bytes of TCP payload.
    pub fn payload_bytes(&self) -> usize {
        self.sum(|stream| stream.bytes.len())
    }

    /// Records of TLS that carry application data (RFC 8446, section 5.1: type 23, version 0x0303).
    pub fn tls_records(&self) -> usize {
        self.sum(|stream| stream.tls.application_records)
    }

    /// Bytes of payload outside of TLS records: what a listener on the wire reads without a key.
    pub fn readable_bytes(&self) -> usize {
        self.sum(|stream| stream.tls.outside_bytes)
    }

    /// How often `marker` can be read, in TLS records or outside of them, across segments, and in datagrams.
    pub fn occurrences(&self, marker: &str) -> usize {
        let marker = marker.as_bytes();
        let in_datagram = |payload: &[u8]| payload.windows(marker.len()).filter(|window| *window == marker).count();
        let in_datagrams: usize = self.datagrams.iter().map(|(_, _, payload)| in_datagram(payload)).sum();
        self.sum(|stream| stream.occurrences(marker)) + in_datagrams
    }

    /// Checks that a listener learned nothing: no byte outside of TLS, `marker` nowhere, and that there was something to
    /// hide.
    ///
    /// # Errors
    /// What was readable, and between whom.
    pub fn check_encrypted(&self, marker: &str) -> Result<()> {
        for ((from, to), stream) in &self.streams {
            let outside = stream.tls.outside_bytes;
            ensure!(outside == 0, "{outside} bytes from {from} to {to} are readable: {}", stream.excerpt());
        }
        ensure!(self.occurrences(marker) == 0, "`{marker}` is readable");
        ensure!(self.tls_records() > 0, "there is no TLS record on the wire: the capture saw nothing that matters");
        Ok(())
    }

    /// Whether anybody sent anything by TCP to this address.
    pub fn reaches(&self, address: IpAddr) -> bool {
        self.streams.keys().any(|(_, to)| to.ip() == address)
    }

    /// The ports that were dialled, each once.
    pub fn dialled_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.dials.iter().map(|(_, to)| to.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn sum(&self, count: impl Fn(&Stream) -> usize) -> usize {
        self.streams.values().map(count).sum()
    }
}

/// The discard port: where the mark that ends a capture is sent.
const MARK_PORT: u16 = 9;

//! What the proxy tells of the network: a way that loses packets is seen on the side that it is on, and nowhere else; what went
//! past the proxy is seen by its destination.

use anyhow::{Context, Result, ensure};
use heddle_e2e::{
    Mode, Pod, TestMesh,
    process::Rights,
    traffic::bulk,
    wait::{self, PATIENCE},
};
use serde_json::Value;
use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, UdpSocket},
    thread,
};

scenarios! {
    packets_lost_between_the_proxies_are_told_on_that_side,
    what_went_past_the_proxy_or_was_refused_is_counted_by_destination,
}

fn packets_lost_between_the_proxies_are_told_on_that_side(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let listener = web.listen(9000)?;
    let ours = client.connect(mesh.service("web", 9000))?;
    // The whole way stands before anything is lost on it.
    (&ours).write_all(b"?")?;
    let (theirs, _) = listener.accept()?;
    (&theirs).read_exact(&mut [0])?;
    web.exec_as(Rights::Harness, &["nft", LOSSY])?.success().context("making the way lossy")?;

    let receiver = thread::spawn(move || bulk::receive(&theirs));
    let sent = bulk::send(&ours, 1, BULK_BYTES)?;
    ours.shutdown(Shutdown::Write)?;
    let received = receiver.join().expect("the receiver does not panic")?;
    ensure!(sent == received, "sent {sent:?}, received {received:?}");

    let outbound = entry(mesh, &client, "outbound")?;
    let inbound = entry(mesh, &web, "inbound")?;
    for (side, at) in [("outbound", &outbound), ("inbound", &inbound)] {
        for end in ["downstream", "upstream"] {
            ensure!(number(at, end, "rtt_us")? > 0, "{side}, {end}: {at}");
            ensure!(number(at, end, "rtt_min_us")? <= number(at, end, "rtt_us")?, "{side}, {end}: {at}");
        }
    }
    let lossy = number(&outbound, "upstream", "retransmits")?;
    ensure!(lossy > 0, "{outbound}");
    ensure!(number(&outbound, "upstream", "bytes_retransmitted")? > 0, "{outbound}");
    ensure!(number(&outbound, "upstream", "bytes_acked")? >= BULK_BYTES, "{outbound}");
    ensure!(number(&inbound, "downstream", "bytes_received")? >= BULK_BYTES, "{inbound}");
    // Nothing is lost inside of a pod; but TCP may suspect so when a receiver is slow (RFC 8985, tail loss probes).
    ensure!(number(&outbound, "downstream", "retransmits")? < lossy / 10, "{outbound}");
    ensure!(number(&inbound, "upstream", "retransmits")? < lossy / 10, "{inbound}");

    let metrics = client.proxy().metrics()?;
    let counted = |side| {
        let labels = [("direction", "outbound"), ("side", side)];
        metrics.sum("heddle_tcp_retransmitted_segments_total", &labels)
    };
    ensure!(counted("upstream") > 10.0 * counted("downstream"), "{}", metrics.text());
    Ok(())
}

fn what_went_past_the_proxy_or_was_refused_is_counted_by_destination(mesh: &TestMesh) -> Result<()> {
    let client = mesh.pod("client").init_args(&["--guard", "on"]).start()?;
    let outside = mesh.outside();
    let send = |port: u16| -> Result<io::Result<usize>> {
        client.run(|| {
            let any: IpAddr =
                if outside.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            UdpSocket::bind((any, 0))?.send_to(b"?", (outside, port))
        })
    };
    for _ in 0..DATAGRAMS {
        send(9999)?.context("a datagram that nothing forbids")?;
    }
    let quic = send(443)?.err().map(|error| error.kind());
    ensure!(quic == Some(ErrorKind::PermissionDenied), "a datagram to port 443 ended with {quic:?}");

    let metrics = client.proxy().metrics()?;
    let address = outside.to_string();
    let flow = |name: &str, reason, port| {
        let labels = [("reason", reason), ("protocol", "udp"), ("destination", &address), ("port", port)];
        metrics.sum(name, &labels)
    };
    let counted = (
        flow("heddle_capture_bypass_total", "udp", "9999"),
        flow("heddle_capture_refused_flows_total", "quic", "443"),
        metrics.sum("heddle_capture_refused_total", &[("reason", "quic")]),
    );
    ensure!(counted == (f64::from(DATAGRAMS), 1.0, 1.0), "{counted:?} in\n{}", metrics.text());

    if mesh.mode() == Mode::Tproxy {
        let plain = mesh.pod("plain").start()?;
        ensure!(
            !plain.proxy().metrics()?.text().contains("heddle_capture_"),
            "without the guard there is nothing to tell"
        );
    }
    Ok(())
}

/// The entry of the large connection, once it is there.
fn entry(mesh: &TestMesh, pod: &Pod, direction: &str) -> Result<Value> {
    let path = mesh.folder().join("logs").join(format!("{}.proxy.out", pod.name()));
    wait::until(&format!("an {direction} entry in {}", path.display()), PATIENCE, || {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let large = |entry: &Value| entry["direction"] == direction && entry["bytes_sent"].as_u64() >= Some(BULK_BYTES);
        Ok(entries.find(large))
    })
}

fn number(entry: &Value, side: &str, field: &str) -> Result<u64> {
    entry[side][field].as_u64().with_context(|| format!("{side} has no {field} in {entry}"))
}

/// Every fifth packet to the tunnel port is lost, but for those that open or reset a connection.
const LOSSY: &str = "table inet lossy { chain in { type filter hook prerouting priority raw; \
                     tcp dport 15008 tcp flags & (syn | rst) == 0 numgen inc mod 5 == 0 drop; }; }";
/// Sent past the proxy.
const DATAGRAMS: u32 = 3;
const BULK_BYTES: u64 = 4 << 20;

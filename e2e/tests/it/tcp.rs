//! TCP as it is: half-closes, resets, refusals, greetings and many connections pass as they would without a mesh.

use crate::support::{Echo, EchoClient, PROMPT, prompt, soon};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{
    App, Pod, TestMesh,
    pod::io_kind,
    tier::Tier,
    traffic::{self, bulk},
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

scenarios! {
    each_side_may_finish_first,
    a_reset_stays_a_reset,
    an_absent_application_is_refused_at_once,
    a_server_that_speaks_first_is_heard_at_once,
    many_connections_leave_nothing_behind,
}

/// A connection through the mesh: the client's end, and the end that the server accepted.
fn connection(client: &Pod, listener: &TcpListener, to: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let ours = client.connect(to)?;
    // A byte each way, so that the whole path stands before anything is tested.
    (&ours).write_all(b"?")?;
    let (theirs, _) = listener.accept()?;
    (&theirs).read_exact(&mut [0])?;
    (&theirs).write_all(b"!")?;
    (&ours).read_exact(&mut [0])?;
    Ok((ours, theirs))
}

fn each_side_may_finish_first(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let listener = web.listen(9000)?;

    for what in ["the client finishes first", "the server finishes first"] {
        let (ours, theirs) = connection(&client, &listener, mesh.service("web", 9000))?;
        let (first, second) = if what.starts_with("the client") { (ours, theirs) } else { (theirs, ours) };
        // First sends all it has and closes its half; only when the other has seen that end does it answer.
        let sender = thread::spawn(move || -> Result<_> {
            let sent = bulk::send(&first, 1, BULK_BYTES)?;
            first.shutdown(Shutdown::Write)?;
            Ok((sent, bulk::receive(&first).context("the answer")?))
        });
        let received = bulk::receive(&second).context(what)?;
        let answered = bulk::send(&second, 2, BULK_BYTES)?;
        second.shutdown(Shutdown::Write)?;
        let (sent, answer) = sender.join().expect("the sender does not panic")?;
        ensure!(sent.bytes == BULK_BYTES && received == sent, "{what}: sent {sent:?}, received {received:?}");
        ensure!(answer == answered, "{what}: answered {answered:?}, received {answer:?}");
    }
    // Nothing is left of them.
    soon("the end of both connections in both logs", || {
        let ended = |pod: &Pod| {
            Ok::<_, anyhow::Error>(pod.proxy().access_log()?.iter().filter(|entry| entry.reason == "ok").count())
        };
        Ok(ended(&client)? == 2 && ended(&web)? == 2)
    })?;
    for entry in client.proxy().access_log()? {
        ensure!((entry.bytes_sent, entry.bytes_received) == (BULK_BYTES + 1, BULK_BYTES + 1), "{entry:?}");
    }
    Ok(())
}

fn a_reset_stays_a_reset(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let listener = web.listen(9000)?;
    for what in ["the server resets", "the client resets"] {
        let (ours, theirs) = connection(&client, &listener, mesh.service("web", 9000))?;
        let (resets, other) = if what.starts_with("the server") { (theirs, ours) } else { (ours, theirs) };
        (&resets).write_all(b"half a sen")?;
        (&other).read_exact(&mut [0; 10])?;
        traffic::reset(resets)?;
        let end = prompt(what, || Ok((&other).read(&mut [0])))?;
        let error = end.err().with_context(|| format!("{what}: the other side saw an orderly end"))?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{what}: the other side saw {error}");
    }
    let reasons = |pod: &Pod| -> Result<Vec<String>> {
        Ok(pod.proxy().access_log()?.into_iter().map(|entry| entry.reason).collect())
    };
    soon("both resets in both logs", || Ok(reasons(&client)?.len() == 2 && reasons(&web)?.len() == 2))?;
    for pod in [&client, &web] {
        ensure!(reasons(pod)? == ["upstream_reset", "downstream_reset"], "{}: {:?}", pod.name(), reasons(pod)?);
    }
    Ok(())
}

fn an_absent_application_is_refused_at_once(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).serve(App::Nginx)?;
    let client = mesh.pod("client").start()?;
    let refused = |to: SocketAddr| -> Result<()> {
        let error =
            prompt("a refusal", || Ok(EchoClient::connect(&client, to).err()))?.context("it was not refused")?;
        let kind = io_kind(&error);
        // The connection was taken by our own proxy before the other end was known, so it may be a reset.
        ensure!(matches!(kind, Some(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)), "{error:?}");
        Ok(())
    };
    refused(mesh.service("web", 9000))?;
    let entry = web.proxy().wait_entry("the refusal", |entry| entry.destination.port() == 9000)?;
    ensure!(entry.reason == "connect_failed" && entry.error.is_some(), "{entry:?}");
    client.proxy().wait_entry("the refusal", |entry| entry.reason == "peer_refused")?;

    refused(mesh.service("web", 9999))?;
    client.proxy().wait_entry("the refusal of a port that no service has", |entry| entry.reason == "no_such_port")?;

    // It is there again as soon as the application is.
    let _server = Echo::start(&web, 9000)?;
    EchoClient::connect(&client, mesh.service("web", 9000))?.exchange("back again")
}

fn a_server_that_speaks_first_is_heard_at_once(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000, 9001]).init_args(&["--exclude-inbound-ports", "9001"]).start()?;
    let client = mesh.pod("client").init_args(&["--exclude-outbound-ports", "9001"]).start()?;
    let (_captured, _direct) = (Echo::start(&web, 9000)?, Echo::start(&web, 9001)?);
    let greeting = |to: SocketAddr| -> Result<Duration> {
        let start = Instant::now();
        EchoClient::connect(&client, to).map(|_| start.elapsed())
    };
    let fastest = |to: SocketAddr| -> Result<Duration> {
        let times: Result<Vec<_>> = (0..20).map(|_| greeting(to)).collect();
        times?.into_iter().min().context("no greeting")
    };
    // The first of all is allowed a handshake; no greeting is allowed a detection timeout.
    let first = greeting(mesh.service("web", 9000))?;
    let (mesh_time, direct_time) = (fastest(mesh.service("web", 9000))?, fastest(web.at(9001))?);
    println!(
        "time to the greeting of a server that speaks first: direct {direct_time:?}, through the mesh {mesh_time:?} \
         (+{:?}), the first one {first:?}",
        mesh_time.saturating_sub(direct_time)
    );
    ensure!(first < PROMPT, "the first greeting took {first:?}");
    Ok(())
}

fn many_connections_leave_nothing_behind(mesh: &TestMesh) -> Result<()> {
    let count = Tier::current().count("connections through the mesh", 5_000, 100_000);
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let _server = Echo::start(&web, 9000)?;
    let proxies = [client.proxy(), web.proxy()];
    let at_rest = || -> Result<[usize; 2]> { Ok([proxies[0].fds()?, proxies[1].fds()?]) };

    // The first ones make pools, caches and log buffers; what grows after them is a leak.
    run_connections(&client, mesh.service("web", 9000), WARM_UP)?;
    wait_idle(&client, &web)?;
    let (fds, rss) = (at_rest()?, [proxies[0].rss_bytes()?, proxies[1].rss_bytes()?]);
    run_connections(&client, mesh.service("web", 9000), count)?;
    wait_idle(&client, &web)?;
    soon("the file descriptors back within 10 %", || {
        let now = at_rest()?;
        Ok(now.iter().zip(fds).all(|(now, before)| *now * 10 <= before * 11))
    })
    .with_context(|| format!("before {fds:?}, after {:?}", at_rest().unwrap_or_default()))?;
    for (proxy, before) in proxies.iter().zip(rss) {
        let after = proxy.rss_bytes()?;
        println!("resident memory after {WARM_UP} connections {before} bytes, after {count} more {after} bytes");
        ensure!(after <= before / 10 * 11, "resident memory grew from {before} to {after} bytes");
    }
    for (proxy, direction) in proxies.iter().zip(["outbound", "inbound"]) {
        let (metrics, wanted) = (proxy.metrics()?, f64::from(count + WARM_UP));
        let ok = metrics.sum("heddle_connections_closed_total", &[("direction", direction), ("reason", "ok")]);
        ensure!(ok == wanted, "{ok} of {wanted} {direction} connections ended well: {}", metrics.text());
    }
    Ok(())
}

/// Connections one after the other, by a few clients at a time.
fn run_connections(client: &Pod, to: SocketAddr, count: u32) -> Result<()> {
    let left = AtomicU32::new(count);
    let one_after_the_other = || -> Result<()> {
        // In the pod for all of its connections, because entering it takes longer than a connection.
        client.run(|| {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let mut stream = TcpStream::connect(to)?;
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                stream.write_all(b"in")?;
                stream.shutdown(Shutdown::Write)?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer)?;
                ensure!(answer.ends_with(b"\nin"), "the answer was {:?}", String::from_utf8_lossy(&answer));
            }
            Ok(())
        })?
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one_after_the_other)).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })
}

fn wait_idle(client: &Pod, web: &Pod) -> Result<()> {
    soon("the end of all connections", || {
        let active = |pod: &Pod| Ok::<_, anyhow::Error>(pod.proxy().metrics()?.sum("heddle_connections_active", &[]));
        Ok(active(client)? == 0.0 && active(web)? == 0.0)
    })
}

/// What goes through each half of a connection.
const BULK_BYTES: u64 = 64 << 20;
/// Connections before memory is measured for the first time.
const WARM_UP: u32 = 1_000;
/// Clients at a time.
const CLIENTS: usize = 8;

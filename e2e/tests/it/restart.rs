//! A proxy that dies and comes back: meanwhile its pod is closed, and nothing leaves it in the clear.

use crate::{
    sockets,
    support::{Echo, echo, prompt, soon},
};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{Pod, TestMesh, wait};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

scenarios! {
    a_pod_without_its_proxy_is_closed_and_opens_again,
}

fn a_pod_without_its_proxy_is_closed_and_opens_again(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    // So that whoever gets past the proxy is served.
    mesh.apply("mtls-permissive.yaml")?;
    let _server = Echo::start(&web, 9000)?;
    let to = web.at(9000);

    // The control: without a proxy the word is seen.
    let wire = stranger.capture()?;
    stranger.run(|| say(to))??;
    soon("the control on the wire", || Ok(web.proxy().metrics()?.sum("heddle_connections_opened_total", &[]) > 0.0))?;
    ensure!(wire.finish()?.occurrences(WORD) > 0, "the control is not seen on the wire");

    let wire = client.capture()?;
    let (ended, attempts) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| -> Result<()> {
        // All the time, before, during and after.
        let insistent = scope.spawn(|| {
            client.run(|| {
                while !ended.load(Ordering::Relaxed) {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    // Most of them are refused, as they should be; the loop leaves time for the proxy.
                    if say(to).is_err() {
                        thread::park_timeout(Duration::from_millis(1));
                    }
                }
            })
        });
        let lives = lives(mesh, &client, to);
        ended.store(true, Ordering::Relaxed);
        insistent.join().expect("a client does not panic")?;
        lives
    })?;
    let traffic = wire.finish()?;
    ensure!(traffic.occurrences(WORD) == 0 && traffic.readable_bytes() == 0, "{traffic:?}");
    ensure!(traffic.dialled_ports().iter().all(|port| *port == 15008), "{:?}", traffic.dials);
    println!("{} attempts all the while, none in the clear", attempts.into_inner());
    Ok(())
}

/// Kills the proxy and starts it again: in its container, and in a new one.
fn lives(mesh: &TestMesh, client: &Pod, to: SocketAddr) -> Result<()> {
    for container in ["its container", "a new container"] {
        echo(client, to)?;
        let killed = Instant::now();
        client.proxy().kill()?;
        let refused = prompt("a refusal", || Ok(echo(client, to)))?;
        ensure!(refused.is_err(), "the dead proxy's pod is open");
        let closed = killed.elapsed();
        if container == "a new container" {
            client.proxy().renew_container()?;
        }
        let started = Instant::now();
        client.proxy().spawn()?;
        client.proxy().wait_ready().with_context(|| format!("in {container}"))?;
        let ready = started.elapsed();
        echo(client, mesh.service("web", 9000)).with_context(|| format!("in {container}"))?;
        println!(
            "killed: refused after {closed:?}; started again in {container}: ready after {ready:?}, serves after {:?}",
            started.elapsed()
        );
    }
    Ok(())
}

/// Says a word to whoever takes it.
fn say(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    sockets::set_option(&stream, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    stream.write_all(WORD.as_bytes())?;
    // One after the other: it waits for an answer, or for the end.
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

/// What must not be seen on the wire.
const WORD: &str = "in-the-clear-again";

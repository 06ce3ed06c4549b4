//! Lives and deaths: a controller that is away, a proxy that is asked to end, a proxy that is killed.

use crate::support::{Echo, EchoClient, PLAIN_MARKER, echo, prompt};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{App, Pod, TestMesh, process::Rights, traffic::bulk};
use std::{
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

scenarios! {
    ten_seconds_without_a_controller_lose_nothing,
    a_drained_proxy_finishes_what_it_has,
    a_killed_proxy_fails_closed_and_comes_back,
}

fn ten_seconds_without_a_controller_lose_nothing(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).serve(App::Nginx)?;
    let client = mesh.pod("client").start()?;
    let _server = Echo::start(&web, 9000)?;
    let mut live = EchoClient::connect(&client, mesh.service("web", 9000))?;
    live.exchange("before")?;

    mesh.controller().stop()?;
    let (start, mut connections) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(10) {
        echo(&client, mesh.service("web", 9000)).with_context(|| format!("{:?} after the end", start.elapsed()))?;
        live.exchange("during")?;
        connections += 1;
    }
    let reply = client.curl("http://web/")?;
    ensure!(reply.is_ok(), "{reply:?}");
    println!("{connections} connections without a controller");
    for pod in [&client, &web] {
        let (status, reason) = pod.proxy().ready()?;
        ensure!(status == 200, "the proxy of {} is not ready: {reason}", pod.name());
        ensure!(pod.proxy().metrics()?.sum("heddle_controller_connected", &[]) == 0.0);
    }

    mesh.controller().start()?;
    for pod in [&client, &web] {
        crate::support::soon("the proxies' way back to the controller", || {
            Ok(pod.proxy().metrics()?.sum("heddle_controller_connected", &[]) == 1.0)
        })?;
    }
    live.exchange("after")?;
    // What the new controller says arrives.
    mesh.apply("not-client.yaml")?;
    live.wait_end()?;
    Ok(())
}

fn a_drained_proxy_finishes_what_it_has(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    for draining in [&web, &client] {
        let listener = web.listen(9000)?;
        let stream = client.connect(mesh.service("web", 9000))?;
        let mut sender = bulk::Sender::new(4);
        sender.send(&stream, 4 << 20)?;
        let (accepted, _) = listener.accept()?;
        let receiver = thread::spawn(move || -> Result<_> {
            let received = bulk::receive(&accepted)?;
            let answered = bulk::send(&accepted, 5, 4 << 20)?;
            accepted.shutdown(Shutdown::Write)?;
            Ok((received, answered))
        });

        draining.proxy().terminate()?;
        crate::support::soon("a draining proxy that is not ready", || {
            Ok(draining.proxy().ready().map_or(true, |(status, _)| status != 200))
        })?;
        sender.send(&stream, 4 << 20).context("sending while it drains")?;
        stream.shutdown(Shutdown::Write)?;
        let answer = bulk::receive(&stream).context("the answer while it drains")?;
        let (received, answered) = receiver.join().expect("the receiver does not panic")?;
        ensure!(received == sender.digest() && answer == answered, "what came through is not what was sent");

        let status = draining.proxy().wait(Duration::from_secs(30))?;
        ensure!(status.success(), "the proxy of {} ended with {status}", draining.name());
        draining.proxy().start()?;
    }
    Ok(())
}

fn a_killed_proxy_fails_closed_and_comes_back(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let reply = client.curl("http://web/")?;
    ensure!(reply.is_ok(), "{reply:?}");
    let rules = [ruleset(&client)?, ruleset(&web)?];

    // Out: the client's own proxy is gone.
    let capture = client.capture()?;
    client.proxy().kill()?;
    for host in ["web", "web.pod"] {
        let reply = prompt("a refusal", || client.curl(&format!("http://{host}/")))?;
        ensure!(reply.is_refused(), "{host}: {reply:?}");
    }
    let traffic = capture.finish()?;
    ensure!(traffic.readable_bytes() == 0 && traffic.occurrences(PLAIN_MARKER) == 0, "{traffic:?}");
    ensure!(traffic.dials.is_empty(), "the application got past its dead proxy: {:?}", traffic.dials);
    client.proxy().start()?;
    let reply = client.curl("http://web/")?;
    ensure!(reply.is_ok(), "after the restart: {reply:?}");

    // In: the server's proxy is gone.
    let served = web.app_log(App::Nginx).len();
    let capture = web.capture()?;
    web.proxy().kill()?;
    for (pod, host) in [(&client, "web"), (&stranger, "web.pod")] {
        let reply = prompt("a refusal", || pod.curl(&format!("http://{host}/")))?;
        ensure!(reply.is_refused(), "from {}: {reply:?}", pod.name());
    }
    let traffic = capture.finish()?;
    ensure!(traffic.occurrences(PLAIN_MARKER) == 0 && traffic.readable_bytes() == 0, "{traffic:?}");
    ensure!(web.app_log(App::Nginx).len() == served, "{:?}", web.app_log(App::Nginx));
    web.proxy().start()?;
    let reply = client.curl("http://web/")?;
    ensure!(reply.is_ok(), "after the restart: {reply:?}");

    let after = [ruleset(&client)?, ruleset(&web)?];
    ensure!(after == rules, "somebody touched the rules; before: {rules:#?}, after: {after:#?}");
    Ok(())
}

/// A pod's rules, without the elements of sets: the kernel adds those by itself, for refusals.
fn ruleset(pod: &Pod) -> Result<String> {
    pod.exec_as(Rights::Harness, &["nft", "--stateless", "--terse", "list", "ruleset"])?.success()
}

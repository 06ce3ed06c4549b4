//! Authorization: what a policy denies never reaches the application, and a new policy reaches live connections.

use crate::support::{Echo, EchoClient, prompt};
use anyhow::{Result, ensure};
use heddle_e2e::{App, TestMesh};
use std::time::Duration;

scenarios! {
    a_denied_client_never_reaches_the_application,
    a_tightened_policy_ends_the_connections_it_forbids,
}

fn a_denied_client_never_reaches_the_application(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).serve(App::Nginx)?;
    let client = mesh.pod("client").start()?;
    let thief = mesh.pod("thief").start()?;
    let server = Echo::start(&web, 9000)?;
    mesh.apply("only-client.yaml")?;

    let reply = prompt("a refusal", || thief.curl("http://web/"))?;
    ensure!(reply.is_refused(), "{reply:?}");
    ensure!(prompt("a refusal", || Ok(EchoClient::connect(&thief, mesh.service("web", 9000)).is_err()))?, "it got in");
    ensure!(web.app_log(App::Nginx).is_empty(), "{:?}", web.app_log(App::Nginx));
    ensure!(server.connections() == 0, "{} connections reached the server", server.connections());

    let denied = web.proxy().wait_entry("the denial", |entry| entry.direction == "inbound")?;
    ensure!(denied.reason == "policy_denied" && denied.peer == Some(thief.spiffe_id()), "{denied:?}");
    ensure!(denied.policy.as_deref() == Some("shop/only-client"), "{denied:?}");
    let told = thief.proxy().wait_entry("the denial", |entry| entry.direction == "outbound")?;
    ensure!(told.reason == "peer_denied" && told.bytes_received == 0, "{told:?}");

    // The grant beside it.
    let reply = client.curl("http://web/")?;
    ensure!(reply.is_ok(), "{reply:?}");
    EchoClient::connect(&client, mesh.service("web", 9000))?.exchange("let in")?;
    ensure!(web.app_log(App::Nginx).len() == 1 && server.connections() == 1);
    Ok(())
}

fn a_tightened_policy_ends_the_connections_it_forbids(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let friend = mesh.pod("friend").start()?;
    let _server = Echo::start(&web, 9000)?;
    let mut forbidden = EchoClient::connect(&client, mesh.service("web", 9000))?;
    let mut allowed = EchoClient::connect(&friend, mesh.service("web", 9000))?;
    forbidden.exchange("still allowed")?;
    allowed.exchange("allowed")?;

    mesh.apply("not-client.yaml")?;
    // The proxies have acknowledged the policy; from then on counts the promise.
    let took = forbidden.wait_end()?;
    ensure!(took < Duration::from_secs(5), "closed after {took:?}");
    let entry = web.proxy().wait_entry("the end", |entry| entry.reason == "policy_revoked")?;
    ensure!(entry.peer == Some(client.spiffe_id()), "{entry:?}");
    allowed.exchange("allowed as before")?;
    ensure!(EchoClient::connect(&client, mesh.service("web", 9000)).is_err(), "a forbidden client dialled anew");

    // Widening touches nobody.
    mesh.delete("not-client.yaml")?;
    allowed.exchange("and still")?;
    EchoClient::connect(&client, mesh.service("web", 9000))?.exchange("allowed again")?;
    Ok(())
}

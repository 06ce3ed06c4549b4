//! The demo's parts: three applications through the mesh, a refusal, and the look at the wire without mutual TLS.

use crate::{Pods, report::Report};
use anyhow::{Context, Result};
use heddle_e2e::{App, Pod, TestMesh, app::NGINX_BODY, pod::AccessEntry, process::Output, wire::Traffic};
use std::{path::Path, time::Instant};

/// Shows everything; an error is something that could not even be tried.
pub(crate) fn everything(report: &mut Report, mesh: &TestMesh, pods: &Pods<'_>) -> Result<()> {
    web(report, pods)?;
    redis(report, pods)?;
    postgres(report, pods)?;
    refusal(report, pods)?;
    without_mtls(report, mesh, pods)
}

fn web(report: &mut Report, pods: &Pods<'_>) -> Result<()> {
    report.heading("client$ curl http://web/");
    let request = || pods.client.exec(&["curl", "-sS", "--max-time", "10", "http://web/"]);
    let (answer, traffic) = on_the_wire(pods, pods.web, request)?;
    report.evidence("the answer", answer.trim(), answer.trim() == NGINX_BODY);
    peers(report, pods, pods.web, 80)?;
    let log = pods.web.app_log(App::Nginx);
    let line = log.last().context("nginx logged nothing")?;
    client_address(report, "nginx's log", line.split(' ').next().unwrap_or_default(), pods);
    wire(report, &traffic, NGINX_BODY);
    Ok(())
}

fn redis(report: &mut Report, pods: &Pods<'_>) -> Result<()> {
    report.heading(&format!("client$ redis-cli -h database set greeting {REDIS_WORD}"));
    let request = || pods.client.exec(&["redis-cli", "-h", "database", "set", "greeting", REDIS_WORD]);
    let (answer, traffic) = on_the_wire(pods, pods.database, request)?;
    report.evidence("the answer", answer.trim(), answer.trim() == "OK");
    peers(report, pods, pods.database, 6379)?;
    let list = pods.client.exec(&["redis-cli", "-h", "database", "client", "list"])?.success()?;
    let seen = list.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap_or_default();
    let address = seen.rsplit_once(':').map_or(seen, |(address, _)| address.trim_matches(['[', ']']));
    client_address(report, "redis's client list", address, pods);
    wire(report, &traffic, REDIS_WORD);
    Ok(())
}

fn postgres(report: &mut Report, pods: &Pods<'_>) -> Result<()> {
    let query = format!("select '{POSTGRES_WORD}', host(inet_client_addr())");
    report.heading(&format!("client$ psql -h database -U postgres -c \"{query}\""));
    let request = || pods.client.exec(&["psql", "-h", "database", "-U", "postgres", "-Atc", &query]);
    let (answer, traffic) = on_the_wire(pods, pods.database, request)?;
    let (word, address) = answer.trim().split_once('|').unwrap_or_default();
    report.evidence("the answer", word, word == POSTGRES_WORD);
    peers(report, pods, pods.database, 5432)?;
    client_address(report, "inet_client_addr()", address, pods);
    wire(report, &traffic, POSTGRES_WORD);
    Ok(())
}

fn refusal(report: &mut Report, pods: &Pods<'_>) -> Result<()> {
    report.heading("web$ redis-cli -h database get greeting        # the policy lets only client in");
    let start = Instant::now();
    let output = pods.web.exec(&["redis-cli", "-h", "database", "get", "greeting"])?;
    let took = start.elapsed();
    let said = format!("{}{}", output.stdout, output.stderr);
    let refused = !output.status.success() || said.contains("Error");
    report.evidence("the client was told", &format!("{} (after {} ms)", said.trim(), took.as_millis()), refused);
    let web = pods.web.spiffe_id();
    let denied = |entry: &AccessEntry| entry.direction == "inbound" && entry.peer.as_ref() == Some(&web);
    let entry = pods.database.proxy().wait_entry("the denial", denied)?;
    report.evidence("who asked", entry.peer.as_deref().unwrap_or("nobody"), true);
    report.evidence("the server's proxy says", &entry.reason, entry.reason == "policy_denied");
    report.line("because", entry.error.as_deref().unwrap_or("(no reason)"));
    let told = pods.web.proxy().wait_entry("the denial", |entry| entry.reason != "ok")?;
    report.evidence("the client's proxy says", &told.reason, told.reason == "peer_denied");
    let bytes = entry.bytes_sent + entry.bytes_received;
    report.evidence("bytes that reached redis", &bytes.to_string(), bytes == 0);
    Ok(())
}

/// The positive control: the same look at the wire, with mutual TLS switched off, finds what it looks for.
fn without_mtls(report: &mut Report, mesh: &TestMesh, pods: &Pods<'_>) -> Result<()> {
    report.heading(
        "client$ curl http://web/        # the same look at the wire, with mutual TLS disabled by a MeshPolicy",
    );
    mesh.apply("mtls-disabled.yaml")?;
    let request = || pods.client.exec(&["curl", "-sS", "--max-time", "10", "http://web/"]);
    let (_, traffic) = on_the_wire(pods, pods.web, request)?;
    mesh.delete("mtls-disabled.yaml")?;
    for (whose, traffic) in ENDS.iter().zip(traffic) {
        let (readable, all, found) =
            (traffic.readable_bytes(), traffic.payload_bytes(), traffic.occurrences(NGINX_BODY));
        let text = format!("{readable} of {all} payload bytes readable, the answer {found} time");
        report.evidence(&format!("on the {whose}'s wire"), &text, found == 1 && readable > 0);
    }
    Ok(())
}

/// Makes a request while the wires of both ends are captured.
fn on_the_wire(
    pods: &Pods<'_>,
    server: &Pod,
    request: impl FnOnce() -> Result<Output>,
) -> Result<(String, [Traffic; 2])> {
    let captures = [pods.client.capture()?, server.capture()?];
    let answer = request()?.success()?;
    let [client, server] = captures;
    Ok((answer, [client.finish()?, server.finish()?]))
}

/// Who each proxy talked to, by certificate.
fn peers(report: &mut Report, pods: &Pods<'_>, server: &Pod, port: u16) -> Result<()> {
    let to_it = |direction: &'static str| {
        move |entry: &AccessEntry| {
            entry.direction == direction && entry.destination.port() == port && entry.reason == "ok"
        }
    };
    let outbound = pods.client.proxy().wait_entry("the request", to_it("outbound"))?;
    let inbound = server.proxy().wait_entry("the request", to_it("inbound"))?;
    for (label, entry, expected) in [
        ("the client's proxy talked to", outbound, server.spiffe_id()),
        ("the server's proxy heard from", inbound, pods.client.spiffe_id()),
    ] {
        let peer = entry.peer.as_deref().unwrap_or("nobody");
        report.evidence(label, peer, peer == expected && entry.security == "mtls");
    }
    Ok(())
}

fn client_address(report: &mut Report, source: &str, seen: &str, pods: &Pods<'_>) {
    let own = pods.client.address().to_string();
    report.evidence("the application saw the client as", &format!("{seen}   ({source})"), seen == own);
}

fn wire(report: &mut Report, traffic: &[Traffic; 2], marker: &str) {
    for (whose, traffic) in ENDS.iter().zip(traffic) {
        let text = format!(
            "{} of {} payload bytes readable, {} TLS records",
            traffic.readable_bytes(),
            traffic.payload_bytes(),
            traffic.tls_records()
        );
        report.evidence(&format!("on the {whose}'s wire"), &text, traffic.check_encrypted(marker).is_ok());
    }
}

/// A path as one would type it here.
pub(crate) fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// Whose wires are looked at.
const ENDS: [&str; 2] = ["client", "server"];
/// Words that are looked for on the wire.
const REDIS_WORD: &str = "plain-as-redis";
const POSTGRES_WORD: &str = "plain-as-postgres";

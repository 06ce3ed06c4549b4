//! Ways round the proxy: whatever an application tries, it is captured or refused, and nothing leaves the pod in the clear.
//!
//! Each attempt has a control beside it: the same from a pod without capture gets through, and is seen on the wire.

mod detours;
mod family;
mod ports;
mod refused;
mod ways;

use crate::support::Echo;
use anyhow::{Result, bail, ensure};
use detours::no_option_leads_a_socket_out;
use family::{a_late_family_is_closed, the_other_family_is_captured_too};
use heddle_e2e::{Family, Mode, Pod, TestMesh, cgroup, mesh::PROXY_UID, pod, wire::Traffic};
use ports::{nobody_shares_the_proxys_ports, the_proxys_ports_lead_nowhere};
use refused::{a_strict_guard_refuses_other_udp, what_cannot_be_captured_is_refused};
use ways::{End, WAYS, Who, ensure_delivered};

scenarios! {
    every_way_to_connect_is_captured,
    a_captured_socket_names_the_ends_it_asked_for,
    the_other_family_is_captured_too,
    no_option_leads_a_socket_out,
    what_cannot_be_captured_is_refused,
    a_strict_guard_refuses_other_udp,
    the_proxys_ports_lead_nowhere,
    nobody_shares_the_proxys_ports,
}

fn every_way_to_connect_is_captured(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    // So that the control's plaintext is served.
    mesh.apply("mtls-permissive.yaml")?;
    let _server = Echo::start(&web, 9000)?;
    for pod in [&web, &client, &stranger] {
        pod.netns().sysctl("net/ipv4/tcp_fastopen", FAST_OPEN_ALWAYS)?;
    }

    let wire = stranger.capture()?;
    let app = application(&stranger);
    for (number, way) in WAYS.into_iter().enumerate() {
        let who = Who { pod: &stranger, container: &app, uid: NOBODY };
        ensure_delivered(&who.attempt(way, web.at(9000), &word(number))?, way.name)?;
    }
    let traffic = wire.finish()?;
    for (number, way) in WAYS.into_iter().enumerate() {
        ensure!(traffic.occurrences(&word(number)) > 0, "the control of {} is not seen on the wire", way.name);
    }

    let wire = client.capture()?;
    let (app, nested) = (application(&client), client.cgroup().container("app/nested"));
    let late = client.cgroup().container("debugger");
    nested.make()?;
    late.make()?;
    let mut words = Vec::new();
    for way in WAYS {
        for (place, container, uid) in [
            ("an application", &app, NOBODY),
            ("the proxy's uid", &app, proxy_uid(mesh)),
            ("a nested cgroup", &nested, NOBODY),
            ("a later container", &late, NOBODY),
        ] {
            let word = word(words.len());
            let end = Who { pod: &client, container, uid }.attempt(way, web.at(9000), &word)?;
            println!("{} as {place}: {}", way.name, said(&end));
            words.push(word);
        }
    }
    ensure_nothing_readable(&wire.finish()?, &words)?;
    println!("got round: 0 of {}", words.len());
    Ok(())
}

fn a_captured_socket_names_the_ends_it_asked_for(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let _server = Echo::start(&web, 9000)?;
    let (app, mut wrong) = (application(&client), Vec::new());
    for (number, way) in WAYS.into_iter().enumerate() {
        let who = Who { pod: &client, container: &app, uid: NOBODY };
        match who.attempt(way, web.at(9000), &word(number))? {
            End::Delivered { local, peer } => {
                println!("{}: {local} to {peer}", way.name);
                let ends = (local.ip().to_canonical(), peer.ip().to_canonical(), peer.port());
                if ends != (client.address(), web.address(), 9000) {
                    wrong.push((way.name, local, peer));
                }
            }
            End::Refused(error) => bail!("{}: {error}", way.name),
        }
    }
    ensure!(wrong.is_empty(), "not from {} to {}: {wrong:?}", client.address(), web.at(9000));
    Ok(())
}

#[test]
fn a_family_that_the_proxy_does_not_serve_is_closed() {
    for mode in [Mode::Tproxy, Mode::Ebpf] {
        let test = format!("bypass::{mode}::a_family_that_the_proxy_does_not_serve_is_closed");
        let mesh = TestMesh::builder(Family::V4).mode(mode).test(&test).build().expect("root can make a mesh");
        mesh.conclude(a_late_family_is_closed(&mesh));
    }
}

/// How a report names an end that did not get round.
fn said(end: &End) -> String {
    match end {
        End::Delivered { .. } => "captured".to_owned(),
        End::Refused(error) => format!("refused ({error})"),
    }
}

/// Checks that none of the words, and nothing else that could be read, left the pod: only tunnels did.
fn ensure_nothing_readable(traffic: &Traffic, words: &[String]) -> Result<()> {
    for word in words {
        ensure!(traffic.occurrences(word) == 0, "`{word}` got round: {traffic:?}");
    }
    ensure!(traffic.readable_bytes() == 0, "{traffic:?}");
    ensure!(traffic.datagrams.is_empty(), "{:?}", traffic.datagrams);
    ensure!(traffic.dialled_ports().iter().all(|port| *port == 15008), "{:?}", traffic.dials);
    Ok(())
}

fn word(number: usize) -> String {
    format!("past-the-proxy-{number:03}")
}

/// The user that the proxy runs as.
fn proxy_uid(mesh: &TestMesh) -> u32 {
    match mesh.mode() {
        Mode::Tproxy => 0,
        Mode::Ebpf => PROXY_UID,
    }
}

/// A pod with the guard, which is on by itself in eBPF mode alone.
fn guarded(mesh: &TestMesh, name: &str) -> pod::Builder {
    match mesh.mode() {
        Mode::Tproxy => mesh.pod(name).init_args(&["--guard", "on"]),
        Mode::Ebpf => mesh.pod(name),
    }
}

/// The container of a pod's applications.
fn application(pod: &Pod) -> cgroup::Container {
    pod.cgroup().container(cgroup::APP)
}

/// Debian's `nobody`.
const NOBODY: u32 = 65534;
/// Client and server, data in the first SYN with no cookie and for every listener (ip-sysctl: 0x1, 0x2, 0x4, 0x200, 0x400).
const FAST_OPEN_ALWAYS: &str = "1543";

//! What is captured and what is not; that captured traffic is encrypted; and that capture leaves no trace.

use crate::{
    bpf,
    support::{Echo, PLAIN_MARKER, echo, prompt},
};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{App, Family, Mode, Pod, TestMesh, app::NGINX_BODY, mesh::PROXY_UID, process::Rights, program};
use std::fs;

scenarios! {
    captured_traffic_is_encrypted,
    the_application_sees_the_clients_address,
    the_own_address_is_direct_and_the_own_service_takes_one_turn,
    excluded_ports_are_not_captured,
    an_unknown_address_passes_only_where_egress_is_allowed,
    an_application_with_the_proxys_uid_is_captured,
    capture_adds_nothing_to_conntrack,
    undo_leaves_no_trace,
    every_part_has_the_rights_it_needs_and_no_more,
    the_proxys_own_ports_serve_no_other_pod,
}

fn captured_traffic_is_encrypted(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    let client = mesh.pod("client").start()?;

    let captures = (client.capture()?, web.capture()?);
    let reply = client.curl("http://web/")?;
    ensure!(reply.is_ok() && reply.body.trim() == NGINX_BODY, "{reply:?}");
    for traffic in [captures.0.finish()?, captures.1.finish()?] {
        traffic.check_encrypted(PLAIN_MARKER)?;
        ensure!(traffic.dialled_ports() == [15008], "{:?}", traffic.dials);
    }
    let out = client.proxy().wait_entry("the request", |entry| entry.direction == "outbound")?;
    ensure!(out.reason == "ok" && out.security == "mtls" && out.peer == Some(web.spiffe_id()), "{out:?}");
    ensure!(out.service.as_deref() == Some("shop/web.shop.svc.cluster.local"), "{out:?}");
    let inbound = web.proxy().wait_entry("the request", |entry| entry.direction == "inbound")?;
    ensure!(
        inbound.reason == "ok" && inbound.security == "mtls" && inbound.peer == Some(client.spiffe_id()),
        "{inbound:?}"
    );

    // The positive control: without mutual TLS, the same look at the wire finds everything.
    mesh.apply("mtls-disabled.yaml")?;
    let captures = (client.capture()?, web.capture()?);
    let reply = client.curl("http://web/")?;
    ensure!(reply.is_ok(), "{reply:?}");
    for traffic in [captures.0.finish()?, captures.1.finish()?] {
        ensure!(traffic.occurrences(PLAIN_MARKER) == 1 && traffic.readable_bytes() > PLAIN_MARKER.len(), "{traffic:?}");
        ensure!(traffic.check_encrypted(PLAIN_MARKER).is_err());
    }
    Ok(())
}

fn the_application_sees_the_clients_address(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    let database = mesh.pod("database").ports(App::Postgres.ports()).serve(App::Redis)?;
    database.run_app(App::Postgres)?;
    let client = mesh.pod("client").start()?;
    let address = client.address().to_string();

    let reply = client.curl("http://web/peer")?;
    ensure!(reply.body.trim() == address, "{reply:?}");
    let log = web.app_log(App::Nginx);
    ensure!(log.iter().all(|line| line.starts_with(&format!("{address} "))), "{log:?}");
    let list = client.exec(&["redis-cli", "-h", "database", "client", "list"])?.success()?;
    let expected = if mesh.family() == Family::V4 { format!("addr={address}:") } else { format!("addr=[{address}]:") };
    ensure!(list.contains(&expected), "{list}");
    let query = "select host(inet_client_addr())";
    let seen = client.exec(&["psql", "-h", "database", "-U", "postgres", "-Atc", query])?.success()?;
    ensure!(seen.trim() == address, "{seen}");
    Ok(())
}

fn the_own_address_is_direct_and_the_own_service_takes_one_turn(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    for host in ["web.pod", "localhost"] {
        let reply = web.curl(&format!("http://{host}/"))?;
        ensure!(reply.is_ok(), "{host}: {reply:?}");
    }
    ensure!(opened(&web)? == 0.0, "a connection to itself went to the proxy: {:?}", web.proxy().access_log()?);

    let reply = web.curl("http://web/")?;
    ensure!(reply.is_ok(), "{reply:?}");
    web.proxy().wait_entry("its own request, inbound", |entry| entry.direction == "inbound")?;
    web.proxy().wait_entry("its own request, outbound", |entry| entry.direction == "outbound")?;
    let log = web.proxy().access_log()?;
    ensure!(log.len() == 2 && log.iter().all(|entry| entry.peer == Some(web.spiffe_id())), "{log:?}");
    Ok(())
}

/// Connections that the proxy of `pod` has accepted, in both directions.
fn opened(pod: &Pod) -> Result<f64> {
    Ok(pod.proxy().metrics()?.sum("heddle_connections_opened_total", &[]))
}

fn excluded_ports_are_not_captured(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9001, 9002]).init_args(&["--exclude-inbound-ports", "9001"]).start()?;
    let client = mesh.pod("client").init_args(&["--exclude-outbound-ports", "9003"]).start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let (_open, _closed) = (Echo::start(&web, 9001)?, Echo::start(&web, 9002)?);

    // In: the excluded port takes plaintext under a strict policy, its neighbour does not.
    let seen = echo(&stranger, web.at(9001))?;
    ensure!(seen.ip() == stranger.address(), "{seen}");
    ensure!(echo(&stranger, web.at(9002)).is_err(), "a port that is not excluded took plaintext");
    web.proxy()
        .wait_entry("the refusal", |entry| entry.destination.port() == 9002 && entry.reason == "mtls_required")?;
    ensure!(opened(&web)? == 1.0, "{:?}", web.proxy().access_log()?);

    // Out: the excluded port is dialled by the application itself.
    let _outside = (Echo::on_node(mesh, 9003)?, Echo::on_node(mesh, 9004)?);
    for (port, captured) in [(9003, 0.0), (9004, 1.0)] {
        let seen = echo(&client, (mesh.outside(), port).into())?;
        ensure!(seen.ip() == client.address(), "{seen}");
        ensure!(opened(&client)? == captured, "after {port}: {:?}", client.proxy().access_log()?);
    }
    Ok(())
}

fn an_unknown_address_passes_only_where_egress_is_allowed(mesh: &TestMesh) -> Result<()> {
    let client = mesh.pod("client").start()?;
    let _outside = Echo::on_node(mesh, 9000)?;
    let outside = (mesh.outside(), 9000).into();

    let seen = echo(&client, outside)?;
    ensure!(seen.ip() == client.address(), "{seen}");
    let entry = client.proxy().wait_entry("the passthrough", |entry| entry.destination == outside)?;
    ensure!(entry.reason == "ok" && entry.security == "plaintext" && entry.service.is_none(), "{entry:?}");

    mesh.apply("egress-deny.yaml")?;
    prompt("a refusal by egress policy", || ensure_err(echo(&client, outside).map(drop)))?;
    client
        .proxy()
        .wait_entry("the refusal", |entry| entry.destination == outside && entry.reason == "egress_denied")?;
    Ok(())
}

fn ensure_err(result: Result<()>) -> Result<()> {
    ensure!(result.is_err(), "it was not refused");
    Ok(())
}

fn an_application_with_the_proxys_uid_is_captured(mesh: &TestMesh) -> Result<()> {
    mesh.pod("web").serve(App::Nginx)?;
    let client = mesh.pod("client").start()?;
    let capture = client.capture()?;
    for rights in [Rights::Root, Rights::User(PROXY_UID, PROXY_UID)] {
        let reply = client.curl_as(rights, "http://web/")?;
        ensure!(reply.is_ok(), "{rights:?}: {reply:?}");
    }
    capture.finish()?.check_encrypted(PLAIN_MARKER)?;
    let entry = client.proxy().wait_entry("the request", |entry| entry.direction == "outbound")?;
    ensure!(entry.security == "mtls", "{entry:?}");
    Ok(())
}

fn capture_adds_nothing_to_conntrack(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    mesh.apply("mtls-permissive.yaml")?;
    let _server = Echo::start(&web, 9000)?;

    // Outbound connections of the client are captured there; plaintext ones of a stranger are captured at the server.
    let both_ways = |count: u32| -> Result<()> {
        for _ in 0..count {
            echo(&client, mesh.service("web", 9000))?;
            echo(&stranger, web.at(9000))?;
        }
        Ok(())
    };
    both_ways(1000)?;
    for (pod, direction) in [(&client, "outbound"), (&web, "inbound")] {
        let captured = pod.proxy().metrics()?.sum("heddle_captured_connections_total", &[("direction", direction)]);
        ensure!(captured >= 1000.0, "the proxy of {} counts {captured} captured connections", pod.name());
        let entries = conntrack(pod)?;
        ensure!(entries.is_empty(), "conntrack of {} has {} entries: {}", pod.name(), entries.len(), entries[0]);
    }

    // The positive control: with a nat rule of somebody else beside it, the same look finds entries.
    for pod in [&client, &web] {
        let family = if mesh.family() == Family::V4 { "ip" } else { "ip6" };
        // No packet leaves by that name; the kernel tracks connections as soon as there is such a rule.
        let rule = "chain out { type nat hook postrouting priority 100; oifname nowhere masquerade; };";
        let rules = format!("table {family} nat {{ {rule} }}");
        pod.exec_as(Rights::Harness, &["nft", &rules])?.success()?;
    }
    both_ways(1)?;
    for pod in [&client, &web] {
        ensure!(!conntrack(pod)?.is_empty(), "the look into conntrack of {} finds nothing in any case", pod.name());
    }
    Ok(())
}

/// The entries of a pod's connection tracking, of both families.
fn conntrack(pod: &Pod) -> Result<Vec<String>> {
    let mut entries = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let listing = pod.exec_as(Rights::Harness, &["conntrack", "-L", "-f", family])?.success()?;
        entries.extend(listing.lines().map(str::to_owned));
    }
    Ok(entries)
}

fn undo_leaves_no_trace(mesh: &TestMesh) -> Result<()> {
    let pod = mesh.pod("web").uncaptured().start()?;
    // Somebody else's rules must survive.
    let foreign = "table inet foreign { chain in { type filter hook input priority 0; tcp dport 9 counter accept; }; }";
    pod.exec_as(Rights::Harness, &["nft", foreign])?.success()?;
    let before = kernel_state(&pod)?;

    pod.init("apply")?.success()?;
    let applied = kernel_state(&pod)?;
    ensure!(applied != before, "apply changed nothing");
    pod.init("apply")?.success()?;
    ensure!(kernel_state(&pod)? == applied, "a second apply changed something");
    pod.init("undo")?.success()?;
    let after = kernel_state(&pod)?;
    ensure!(after == before, "undo left a trace; before: {before}\nafter: {after}");
    pod.init("undo")?.success().context("undo of nothing")?;
    Ok(())
}

/// Rules and routes of a pod, of both families, and what is attached to it, as text.
fn kernel_state(pod: &Pod) -> Result<String> {
    let mut state = String::new();
    for command in
        ["nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"]
    {
        let words: Vec<&str> = command.split(' ').collect();
        state.push_str(&format!("# {command}\n{}", pod.exec_as(Rights::Harness, &words)?.success()?));
    }
    // Without the links' ids: a second apply may replace a program.
    let attached: Vec<_> = bpf::attached(pod)?.into_iter().map(|program| (program.hook, program.name)).collect();
    state.push_str(&format!("# bpftool\n{attached:?}"));
    Ok(state)
}

fn every_part_has_the_rights_it_needs_and_no_more(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    match mesh.mode() {
        // capabilities(7): CAP_NET_RAW is number 13.
        Mode::Tproxy => check_rights(web.proxy().pid()?, 0, 1 << 13)?,
        Mode::Ebpf => check_rights(web.proxy().pid()?, PROXY_UID, 0)?,
    }
    check_rights(mesh.controller().pid()?, 65532, 0)?;
    let (www_data, _) = program::user("www-data")?;
    for pid in web.app_pids() {
        check_rights(pid, www_data, 0)?;
    }
    Ok(())
}

/// Checks uid and capabilities of a process, and that it cannot get more (proc(5), `/proc/pid/status`).
fn check_rights(pid: u32, uid: u32, capabilities: u64) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<&str> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("no {name} in {status}"))?;
        line.split_whitespace().next().with_context(|| format!("{name} is empty"))
    };
    ensure!(field("Uid:")?.parse::<u32>()? == uid, "{status}");
    ensure!(field("NoNewPrivs:")? == "1", "{status}");
    for (set, wanted) in [("CapPrm:", capabilities), ("CapBnd:", capabilities), ("CapInh:", 0), ("CapAmb:", 0)] {
        ensure!(u64::from_str_radix(field(set)?, 16)? == wanted, "{set} is not {wanted:x}: {status}");
    }
    Ok(())
}

fn the_proxys_own_ports_serve_no_other_pod(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    mesh.apply("mtls-permissive.yaml")?;
    for pod in [&client, &stranger] {
        let reply = prompt("a refusal", || pod.curl("http://web.pod:15000/config_dump"))?;
        ensure!(reply.is_refused(), "from {}: {reply:?}", pod.name());
        for port in [15001, 15006] {
            let reply = pod.exec(&["curl", "-sS", "--max-time", "2", &format!("http://web.pod:{port}/")])?;
            ensure!(!reply.status.success() && reply.stdout.is_empty(), "port {port} from {}: {reply:?}", pod.name());
        }
    }
    // Its own pod may look.
    ensure!(web.proxy().config_dump()?["ready"] == true);
    ensure!(web.app_log(App::Nginx).is_empty(), "{:?}", web.app_log(App::Nginx));
    Ok(())
}

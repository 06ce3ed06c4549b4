//! The address family that nobody thought of: it is captured like the other, or closed.

use super::{ensure_nothing_readable, word};
use crate::support::{Echo, EchoClient, PLAIN_MARKER, PROMPT, echo};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{Pod, TestMesh, mesh::NODE_V6, process::Rights};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};

pub(super) fn the_other_family_is_captured_too(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let bare = mesh.pod("bare").unmeshed().start()?;
    let to = SocketAddr::new(web.other_address(), 9000);
    let open = SocketAddr::new(bare.other_address(), 9000);
    let _servers = (Echo::at(&web, to)?, Echo::at(&bare, open)?);

    let wire = client.capture()?;
    let mut connection = EchoClient::connect(&client, to)?;
    connection.exchange(PLAIN_MARKER)?;
    ensure!(connection.seen_as.ip() == client.other_address(), "{}", connection.seen_as);
    let traffic = wire.finish()?;
    traffic.check_encrypted(PLAIN_MARKER)?;
    ensure!(traffic.dialled_ports() == [15008], "{:?}", traffic.dials);

    // In: plaintext is refused as in the mesh's own family. The control: that family is open where there is no mesh.
    ensure!(echo(&stranger, to).is_err(), "{to} took plaintext");
    echo(&stranger, open).context("the control")?;
    Ok(())
}

/// IPv6 comes to the pod after its proxy has started without it.
pub(super) fn a_late_family_is_closed(mesh: &TestMesh) -> Result<()> {
    let client = mesh.pod("client").uncaptured().start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    let web = mesh.pod("web").unmeshed().start()?;
    let to = SocketAddr::new(web.other_address(), 9000);
    let server = Echo::at(&web, to)?;

    set_ipv6(&client, false)?;
    client.init("apply")?.success()?;
    client.proxy().start()?;
    set_ipv6(&client, true)?;
    let v6 = client.other_address();
    for command in [format!("address add {v6}/64 dev eth0 nodad"), format!("route add ::/0 via {NODE_V6}")] {
        let words: Vec<&str> = ["ip", "-6"].into_iter().chain(command.split(' ')).collect();
        client.exec_as(Rights::Harness, &words)?.success()?;
    }

    // The control, on the same wires.
    echo(&stranger, to).context("the control")?;
    ensure!(server.connections() == 1);
    let wire = client.capture()?;
    // With TPROXY it is dropped, because there is no route that would bring it to the proxy.
    let error = client.run(|| TcpStream::connect_timeout(&to, PROMPT))?.err();
    println!("IPv6 beside a proxy without it: closed ({})", error.context("IPv6 is open")?);
    ensure_nothing_readable(&wire.finish()?, &[word(0)])?;
    ensure!(server.connections() == 1, "the connection arrived");
    Ok(())
}

fn set_ipv6(pod: &Pod, on: bool) -> Result<()> {
    let value = if on { "0" } else { "1" };
    for scope in ["all", "default", "lo", "eth0"] {
        pod.netns().sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), value)?;
    }
    // What the loopback had is lost with it.
    let loopback = format!("{}/128", Ipv6Addr::LOCALHOST);
    let there = pod.exec_as(Rights::Harness, &["ip", "-6", "address", "show", "dev", "lo"])?.success()?;
    if on && !there.contains(&loopback) {
        pod.exec_as(Rights::Harness, &["ip", "-6", "address", "add", &loopback, "dev", "lo"])?.success()?;
    }
    Ok(())
}

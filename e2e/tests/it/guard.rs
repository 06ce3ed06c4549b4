//! The guard beside TPROXY: what it refuses, whether or not the rules of nftables are there.

use crate::support::{Echo, echo};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{TestMesh, process::Rights};
use std::{io::ErrorKind, net::TcpStream, time::Duration};

scenarios! {
    in tproxy Tproxy:
    a_guard_beside_the_rules_holds_when_they_are_gone,
}

fn a_guard_beside_the_rules_holds_when_they_are_gone(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let guarded = mesh.pod("guarded").init_args(&["--guard", "on"]).start()?;
    mesh.apply("mtls-permissive.yaml")?;
    let _server = Echo::start(&web, 9000)?;
    for pod in [&client, &guarded] {
        echo(pod, mesh.service("web", 9000))?;
        pod.exec_as(Rights::Harness, &["nft", "delete table inet heddle"])?.success()?;
    }
    // The control: without the guard, a pod without its rules is open.
    let wire = client.capture()?;
    echo(&client, web.at(9000))?;
    ensure!(wire.finish()?.readable_bytes() > 0);

    let wire = guarded.capture()?;
    let to = web.at(9000);
    let error = guarded.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))?.err();
    let error = error.context("a connection that the rules did not catch got out")?;
    ensure!([ErrorKind::PermissionDenied, ErrorKind::TimedOut].contains(&error.kind()), "{error}");
    let traffic = wire.finish()?;
    let dials: Vec<_> = traffic.dials.iter().filter(|(_, dialled)| dialled.port() != 15008).collect();
    ensure!(dials.is_empty() && traffic.readable_bytes() == 0, "{traffic:?}");
    println!("without the table, with the guard: {error}");
    Ok(())
}

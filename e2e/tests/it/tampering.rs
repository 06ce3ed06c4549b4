//! Somebody takes capture away: the proxy notices and says so, and what belongs to others is left alone.

use crate::{
    bpf,
    support::{Echo, echo, soon},
};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{Mode, Pod, TestMesh, process::Rights};
use std::time::Instant;

scenarios! {
    capture_that_is_gone_makes_the_pod_unready,
}

fn capture_that_is_gone_makes_the_pod_unready(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let _server = Echo::start(&web, 9000)?;
    add_foreign(mesh, &client)?;
    let foreign = foreign(&client)?;
    for what in takeable(mesh.mode()) {
        echo(&client, mesh.service("web", 9000))?;
        let taken = Instant::now();
        take(&client, what).with_context(|| format!("taking {what} away"))?;
        let mut reason = String::new();
        soon(&format!("a pod that is not ready without {what}"), || {
            let (status, text) = client.proxy().ready()?;
            reason = text;
            Ok(status != 200)
        })?;
        println!("without {what}: not ready after {:?}: {}", taken.elapsed(), reason.trim());
        ensure!(reason.contains("capture"), "{reason}");
        client.init("apply")?.success()?;
        client.proxy().wait_ready().with_context(|| format!("with {what} back"))?;
    }
    echo(&client, mesh.service("web", 9000))?;
    ensure!(self::foreign(&client)? == foreign, "before: {foreign}\nafter: {}", self::foreign(&client)?);
    client.init("undo")?.success()?;
    ensure!(self::foreign(&client)? == foreign, "before: {foreign}\nafter undo: {}", self::foreign(&client)?);
    Ok(())
}

/// What the outbound side of a mode cannot be without in this family.
fn takeable(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Tproxy => &["the table", "the rule of routing"],
        Mode::Ebpf => &["cgroup_inet4_connect", "cgroup_inet6_connect", "cgroup_sock_ops"],
    }
}

fn take(pod: &Pod, what: &str) -> Result<()> {
    let commands: &[&[&str]] = match what {
        "the table" => &[&["nft", "delete table inet heddle"]],
        "the rule of routing" => {
            &[&["ip", "rule", "del", "fwmark", "0x539"], &["ip", "-6", "rule", "del", "fwmark", "0x539"]]
        }
        hook => return bpf::detach(pod, hook),
    };
    commands.iter().try_for_each(|command| pod.exec_as(Rights::Harness, command)?.success().map(drop))
}

/// A rule of somebody else, and a program where there are programs.
fn add_foreign(mesh: &TestMesh, pod: &Pod) -> Result<()> {
    let table = "table inet foreign { chain in { type filter hook input priority 0; tcp dport 9 accept; }; }";
    pod.exec_as(Rights::Harness, &["nft", table])?.success()?;
    match mesh.mode() {
        Mode::Tproxy => Ok(()),
        Mode::Ebpf => bpf::attach_foreign(mesh, pod),
    }
}

/// What of them is there.
fn foreign(pod: &Pod) -> Result<String> {
    let rules = pod.exec_as(Rights::Harness, &["nft", "list", "table", "inet", "foreign"])?.success()?;
    let programs: Vec<_> = bpf::attached(pod)?.into_iter().filter(|program| program.name == bpf::FOREIGN).collect();
    Ok(format!("{rules}{programs:?}"))
}

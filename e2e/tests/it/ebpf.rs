//! What only eBPF capture promises: no rule of nftables, our programs and no other, and a proxy that nobody can pose as.

use crate::{
    bpf::{self, attached},
    sockets,
    support::{Echo, echo, soon},
};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{Pod, TestMesh, cgroup, mesh::PROXY_UID, process::Rights};
use socket2::Protocol;
use std::{io, os::fd::AsRawFd};

scenarios! {
    in ebpf Ebpf:
    capture_is_our_programs_alone,
    nobody_else_can_claim_to_be_the_proxy,
    programs_that_were_loaded_anew_find_the_proxy_again,
}

fn programs_that_were_loaded_anew_find_the_proxy_again(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").ports(&[9000]).proxy_args(&["--workers", "2"]).start()?;
    let client = mesh.pod("client").start()?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;
    mesh.apply("mtls-permissive.yaml")?;
    let _server = Echo::start(&web, 9000)?;
    for pod in [&web, &client] {
        pod.init("undo")?.success()?;
        pod.init("apply")?.success()?;
    }
    // The maps are new: no claim, and no listener for inbound connections.
    soon("outbound connections through the new programs", || Ok(echo(&client, mesh.service("web", 9000)).is_ok()))?;
    for _ in 0..8 {
        // Every worker's listener takes its share.
        soon("inbound connections through the new programs", || Ok(echo(&stranger, web.at(9000)).is_ok()))?;
    }
    web.proxy().wait_ready()?;
    let said = web.proxy().last_words();
    ensure!(said.contains("inbound listeners are opened beside those"), "{said}");
    Ok(())
}

fn capture_is_our_programs_alone(mesh: &TestMesh) -> Result<()> {
    let pod = mesh.pod("web").uncaptured().start()?;
    let before = attached(&pod)?;
    ensure!(before.is_empty(), "{before:?}");
    pod.init("apply")?.success()?;
    let once = attached(&pod)?;
    pod.init("apply")?.success()?;
    let twice = attached(&pod)?;
    for applied in [&once, &twice] {
        let mut hooks: Vec<&str> = applied.iter().map(|program| program.hook.as_str()).collect();
        hooks.sort_unstable();
        ensure!(hooks == HOOKS, "{applied:#?}");
        ensure!(
            applied.iter().all(|program| program.name.starts_with("link_") && program.link.is_some()),
            "{applied:#?}"
        );
    }
    ensure!(ruleset(&pod)?.trim().is_empty(), "{}", ruleset(&pod)?);
    // The control: that look would find a rule.
    pod.exec_as(Rights::Harness, &["nft", "table inet foreign { chain in { type filter hook input priority 0; }; }"])?
        .success()?;
    ensure!(ruleset(&pod)?.contains("table inet foreign"));

    bpf::attach_foreign(mesh, &pod)?;
    let beside = attached(&pod)?;
    ensure!(beside.len() == HOOKS.len() + 1, "{beside:#?}");
    pod.init("apply")?.success().context("apply beside somebody else's program")?;
    ensure!(attached(&pod)?.len() == HOOKS.len() + 1, "{:#?}", attached(&pod)?);
    pod.init("undo")?.success()?;
    let left = attached(&pod)?;
    ensure!(left.len() == 1 && left[0].name == bpf::FOREIGN, "{left:#?}");
    let pins = mesh.folder().join("bpf/heddle").join(pod.uid());
    ensure!(!pins.exists(), "undo left {}", pins.display());
    Ok(())
}

fn ruleset(pod: &Pod) -> Result<String> {
    pod.exec_as(Rights::Harness, &["nft", "list", "ruleset"])?.success()
}

fn nobody_else_can_claim_to_be_the_proxy(mesh: &TestMesh) -> Result<()> {
    // The control: while there is no proxy yet, the first claim is granted.
    let first = mesh.pod("first").uncaptured().start()?;
    first.init("apply")?.success()?;
    first.run(|| private(&first, CLAIM, &[7; 32]))?.context("the first claim")?;

    let web = mesh.pod("web").ports(&[9000]).start()?;
    let client = mesh.pod("client").start()?;
    let _server = Echo::start(&web, 9000)?;
    let (app, nested) = (client.cgroup().container(cgroup::APP), client.cgroup().container("app/nested"));
    nested.make()?;
    let refused = |when: &str| -> Result<()> {
        for (container, uid) in [(&app, 65534), (&app, PROXY_UID), (&app, 0), (&nested, PROXY_UID)] {
            for (option, value) in [(CLAIM, &[7; 32]), (CLAIM, &[0; 32]), (LISTENER, &[1; 32]), (CLIENT, &[1; 32])] {
                let result = client.run_as(container, uid, || private(&client, option, value))?;
                let error =
                    result.err().with_context(|| format!("{when}: option {option} of uid {uid} was granted"))?;
                ensure!(error.raw_os_error() == Some(libc::EPERM), "{when}: option {option} of uid {uid}: {error}");
            }
        }
        Ok(())
    };
    refused("beside the proxy")?;
    echo(&client, mesh.service("web", 9000)).context("the proxy serves as before")?;
    client.proxy().kill()?;
    refused("after the proxy's death")?;
    client.proxy().start()?;
    echo(&client, mesh.service("web", 9000)).context("after the restart")?;
    Ok(())
}

/// Sets a private option of the proxy's (init/abi).
fn private(pod: &Pod, option: i32, value: &[u8]) -> io::Result<()> {
    let socket = sockets::stream(pod.at(0), Protocol::TCP)?;
    sockets::set_bytes(socket.as_raw_fd(), LEVEL, option, value)
}

const LEVEL: i32 = 0x4844;
const CLAIM: i32 = 1;
const LISTENER: i32 = 2;
const CLIENT: i32 = 4;

/// Where our programs are without `--dns`, in bpftool's words, each once.
const HOOKS: [&str; 16] = [
    "cgroup_getsockopt",
    "cgroup_inet4_bind",
    "cgroup_inet4_connect",
    "cgroup_inet4_getpeername",
    "cgroup_inet4_getsockname",
    "cgroup_inet6_bind",
    "cgroup_inet6_connect",
    "cgroup_inet6_getpeername",
    "cgroup_inet6_getsockname",
    "cgroup_inet_egress",
    "cgroup_inet_sock_create",
    "cgroup_setsockopt",
    "cgroup_sock_ops",
    "cgroup_udp4_sendmsg",
    "cgroup_udp6_sendmsg",
    "sk_lookup",
];

//! The ground of every subject: two pods on a bridge, made alike, so that only what stands between them differs.

use anyhow::Result;
use heddle_e2e::{
    netns::Namespace,
    process::{Launch, Rights},
    program, wait,
    wire::{Capture, Traffic},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// Two pods on a node's bridge, and the folder where what runs in them writes.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The client's pod.
    pub(crate) client: Namespace,
    /// The server's pod.
    pub(crate) server: Namespace,
    /// The bridge, and what runs beside the pods.
    pub(crate) node: Namespace,
}

impl Ground {
    /// Makes the namespaces `heddle-<pid>-bench-<name>-…`, with [`CONGESTION_CONTROL`] in each.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let namespace = |role: &str| Namespace::create(&format!("heddle-{}-bench-{name}-{role}", std::process::id()));
        let ground = Self { client: namespace("client")?, server: namespace("server")?, node: namespace("node")? };
        ground.node.make_bridge(NODE_V4, v6(1))?;
        for (pod, port, last) in [(&ground.client, "client", CLIENT_LAST), (&ground.server, SERVER_PORT, SERVER_LAST)] {
            ground.node.join(pod, port, (v4(last), v6(u16::from(last))), (NODE_V4, v6(1)))?;
            pod.sysctl("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL)?;
        }
        Ok(ground)
    }

    /// The server's pod's address.
    pub(crate) fn server_address() -> IpAddr {
        v4(SERVER_LAST).into()
    }

    /// The node's address on the bridge.
    pub(crate) fn node_address() -> IpAddr {
        NODE_V4.into()
    }

    /// Both pods' addresses: the client's, the server's.
    pub(crate) fn addresses() -> [Ipv4Addr; 2] {
        [v4(CLIENT_LAST), v4(SERVER_LAST)]
    }

    /// Captures both pods' traffic with `heddle-init apply`, with the rights of the init container.
    ///
    /// # Errors
    /// What `heddle-init` said.
    pub(crate) fn capture(&self) -> Result<()> {
        let init = program::product("heddle-init")?;
        for pod in [&self.client, &self.server] {
            Launch::new(pod, &init, Rights::Capability("net_admin"))
                .args(["apply"])
                .output(wait::PATIENCE)?
                .success()?;
        }
        Ok(())
    }

    /// What crosses the server's wire while `work` runs.
    ///
    /// # Errors
    /// The work's own, or when the capture is not complete.
    pub(crate) fn on_the_wire(&self, folder: &Path, work: impl FnOnce() -> Result<()>) -> Result<Traffic> {
        let tap = Capture::start(&self.node, SERVER_PORT, Self::server_address(), folder.join("wire.pcap"))?;
        work()?;
        tap.finish()
    }

    /// Waits until something listens in the server's pod. Dials the pod from inside, which is never captured.
    ///
    /// # Errors
    /// When nothing does within the usual patience.
    pub(crate) fn wait_for_listener(&self, port: u16) -> Result<()> {
        let address = (Self::server_address(), port);
        wait::until_true(&format!("a listener on port {port} of the server's pod"), wait::PATIENCE, || {
            self.server.run(|| std::net::TcpStream::connect(address).is_ok())
        })
    }
}

const fn v4(last: u8) -> Ipv4Addr {
    let [a, b, c, _] = NODE_V4.octets();
    Ipv4Addr::new(a, b, c, last)
}

const fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0xbe, 0, 0, 0, 0, 0, last)
}

/// The kernel's default may be BBR, whose pacing hides what a proxy costs in bulk.
pub(crate) const CONGESTION_CONTROL: &str = "reno";
const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const CLIENT_LAST: u8 = 10;
const SERVER_LAST: u8 = 11;
/// The node's end of the server's veth.
const SERVER_PORT: &str = "server";

//! A pod and its outside, as two namespaces joined by two links, with small servers and clients in them.

use crate::netns::Namespace;
use heddle_init_abi::{DNS_PORT, INBOUND_PORT, OUTBOUND_PORT, OWN_MARK};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The pod's addresses on eth0, the link to its default gateway.
pub(crate) const POD: [IpAddr; 2] = [v4(77, 2), v6(0xfd77, 2)];
/// The outside's addresses on eth0.
pub(crate) const OUTSIDE: [IpAddr; 2] = [v4(77, 1), v6(0xfd77, 1)];
/// The pod's addresses on eth1.
pub(crate) const POD_ETH1: [IpAddr; 2] = [v4(78, 2), v6(0xfd78, 2)];
/// The outside's addresses on eth1.
pub(crate) const OUTSIDE_ETH1: [IpAddr; 2] = [v4(78, 1), v6(0xfd78, 1)];
/// Where the application of these tests listens, in the pod and outside.
pub(crate) const APP: u16 = 8080;

const fn v4(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, net, 0, host))
}

const fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(net, 0, 0, 0, 0, 0, 0, host))
}

/// A pod and its outside.
pub(crate) struct Pod {
    pub(crate) inside: Namespace,
    pub(crate) outside: Namespace,
}

/// What a run of `heddle-init` gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Pod {
    pub(crate) fn new() -> Self {
        let pod = Self { inside: Namespace::new(), outside: Namespace::new() };
        for (link, inside, outside) in [("eth0", POD, OUTSIDE), ("eth1", POD_ETH1, OUTSIDE_ETH1)] {
            let to = pod.outside.name();
            pod.inside.run(&format!("ip link add {link} type veth peer name {link} netns {to}"));
            for (namespace, addresses) in [(&pod.inside, inside), (&pod.outside, outside)] {
                // A link-local address would come at a time of its own, and change what `ip route` prints.
                namespace.run(&format!("ip link set {link} addrgenmode none"));
                for (address, length) in addresses.iter().zip([24, 64]) {
                    let nodad = if address.is_ipv6() { "nodad" } else { "" };
                    namespace.run(&format!("ip address add {address}/{length} dev {link} {nodad}"));
                }
                namespace.run(&format!("ip link set {link} up"));
            }
        }
        for gateway in OUTSIDE {
            pod.inside.run(&format!("ip route add default via {gateway}"));
        }
        pod.wait_for_links();
        pod
    }

    /// Until the kernel says that a link is up, it drops what is sent; that takes up to a second when it sets up many.
    fn wait_for_links(&self) {
        let deadline = Instant::now() + LINK_TIMEOUT;
        let is_up =
            |namespace: &Namespace| namespace.run("ip -oneline link show up").matches(" state UP ").count() == 2;
        while !(is_up(&self.inside) && is_up(&self.outside)) {
            assert!(Instant::now() < deadline, "the links do not come up");
        }
    }

    /// Runs `heddle-init` in the pod as uid 0 with `CAP_NET_ADMIN` and no other capability.
    pub(crate) fn init(&self, line: &str) -> Run {
        self.init_as("--bounding-set=-all,+net_admin --inh-caps=-all", line)
    }

    /// Runs `heddle-init` in the pod with the rights that these options of `setpriv` leave.
    pub(crate) fn init_as(&self, rights: &str, line: &str) -> Run {
        let binary = env!("CARGO_BIN_EXE_heddle-init");
        Run::of(&mut self.inside.command(&format!("setpriv {rights} -- {binary} {line}")))
    }

    /// Applies, and fails the test if that fails.
    pub(crate) fn apply(&self, options: &str) {
        self.init(&format!("apply {options}")).succeeds();
    }

    /// An application in the pod.
    pub(crate) fn app(&self) -> Server {
        self.inside.enter(|| Server::plain(APP))
    }

    /// A server outside.
    pub(crate) fn server(&self, port: u16) -> Server {
        self.outside.enter(|| Server::plain(port))
    }

    /// A proxy in the pod.
    pub(crate) fn proxy(&self) -> Proxy {
        self.inside.enter(Proxy::start)
    }

    /// Dials from the pod, as an application.
    pub(crate) fn dial_out(&self, to: IpAddr, port: u16) -> io::Result<String> {
        self.inside.enter(|| dial(SocketAddr::new(to, port), None))
    }

    /// Dials from outside.
    pub(crate) fn dial_in(&self, to: IpAddr, port: u16) -> io::Result<String> {
        self.outside.enter(|| dial(SocketAddr::new(to, port), None))
    }
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().expect("ip and setpriv are installed");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    pub(crate) fn succeeds(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    pub(crate) fn fails(self) -> String {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// Connects within a second and reads what the server says.
pub(crate) fn dial(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<String> {
    let mut socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    socket.connect_timeout(&to.into(), DIAL_TIMEOUT)?;
    socket.set_read_timeout(Some(DIAL_TIMEOUT))?;
    let mut said = String::new();
    socket.read_to_string(&mut said)?;
    Ok(said)
}

/// That a dial is refused, and how fast.
pub(crate) fn assert_refused(dial: impl FnOnce() -> io::Result<String>, what: &str) {
    let start = Instant::now();
    let error = dial().expect_err(what);
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{what}: {error}");
    assert!(start.elapsed() < Duration::from_secs(1), "{what}: refused only after {:?}", start.elapsed());
}

/// How a listener is set up.
pub(crate) struct Listening {
    is_proxy: bool,
    answer: fn(&Connection) -> io::Result<String>,
}

/// An application: it tells whom it sees.
const PLAIN: Listening =
    Listening { is_proxy: false, answer: |connection| Ok(format!("application saw {}", connection.peer.ip())) };
/// The proxy's outbound port: it tells where the client meant to go.
const OUTBOUND: Listening =
    Listening { is_proxy: true, answer: |connection| Ok(format!("outbound {}", connection.local)) };
/// The proxy's inbound port: it dials the application as the client, and hands on what it says.
const INBOUND: Listening = Listening { is_proxy: true, answer: forward };

pub(crate) struct Connection {
    local: SocketAddr,
    peer: SocketAddr,
}

/// A server that says one sentence to everyone who connects.
pub(crate) struct Server {
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(port: u16, listening: &'static Listening) -> Self {
        let mut server = Self { served: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let listener = listener(SocketAddr::new(any, port), listening.is_proxy);
            let (served, stop) = (Arc::clone(&server.served), Arc::clone(&server.stop));
            server.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((mut accepted, peer)) = listener.accept() {
                        served.fetch_add(1, Ordering::Relaxed);
                        let local = accepted.local_addr().expect("an accepted socket has an address");
                        let connection = Connection { local: address(&local), peer: address(&peer) };
                        let answer = (listening.answer)(&connection).unwrap_or_else(|error| error.to_string());
                        // A client that only connects may be gone.
                        let _ = accepted.write_all(answer.as_bytes());
                        let _ = accepted.shutdown(Shutdown::Both);
                    }
                }
            }));
        }
        server
    }

    /// An application on this port, in the namespace of this thread.
    pub(crate) fn plain(port: u16) -> Self {
        Self::start(port, &PLAIN)
    }

    /// How many have connected.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The proxy's listeners, as far as capture is concerned.
pub(crate) struct Proxy {
    pub(crate) outbound: Server,
    pub(crate) inbound: Server,
    pub(crate) dns: Server,
}

impl Proxy {
    fn start() -> Self {
        Self {
            outbound: Server::start(OUTBOUND_PORT, &OUTBOUND),
            inbound: Server::start(INBOUND_PORT, &INBOUND),
            dns: Server::start(DNS_PORT, &OUTBOUND),
        }
    }
}

fn forward(connection: &Connection) -> io::Result<String> {
    let mut upstream = own_socket(connection.peer)?;
    upstream.bind(&SocketAddr::new(connection.peer.ip(), 0).into())?;
    upstream.connect_timeout(&connection.local.into(), DIAL_TIMEOUT)?;
    upstream.set_read_timeout(Some(DIAL_TIMEOUT))?;
    let mut said = String::new();
    upstream.read_to_string(&mut said)?;
    Ok(format!("inbound {}: {said}", connection.local))
}

/// Dials with the proxy's mark.
pub(crate) fn dial_as_proxy(to: SocketAddr) -> io::Result<String> {
    let mut socket = own_socket(to)?;
    socket.connect_timeout(&to.into(), DIAL_TIMEOUT)?;
    socket.set_read_timeout(Some(DIAL_TIMEOUT))?;
    let mut said = String::new();
    socket.read_to_string(&mut said)?;
    Ok(said)
}

fn listener(at: SocketAddr, is_proxy: bool) -> Socket {
    let open = || -> io::Result<Socket> {
        let listener =
            if is_proxy { own_socket(at)? } else { Socket::new(Domain::for_address(at), Type::STREAM, None)? };
        listener.set_reuse_address(true)?;
        if at.is_ipv6() {
            listener.set_only_v6(true)?;
        }
        listener.bind(&at.into())?;
        listener.listen(64)?;
        listener.set_read_timeout(Some(ACCEPT_TIMEOUT))?;
        Ok(listener)
    };
    open().unwrap_or_else(|error| panic!("cannot listen on {at}: {error}"))
}

/// A transparent socket with the proxy's mark.
fn own_socket(like: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(like), Type::STREAM, None)?;
    socket.set_mark(OWN_MARK)?;
    if like.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    Ok(socket)
}

/// A transparent UDP socket on the proxy's DNS port.
pub(crate) fn dns_listener(any: IpAddr) -> UdpSocket {
    let open = || -> io::Result<UdpSocket> {
        let at = SocketAddr::new(any, DNS_PORT);
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
        socket.set_mark(OWN_MARK)?;
        if any.is_ipv4() {
            socket.set_ip_transparent_v4(true)?;
        } else {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
        socket.bind(&at.into())?;
        socket.set_read_timeout(Some(DIAL_TIMEOUT))?;
        Ok(socket.into())
    };
    open().expect("port 15053 is free")
}

fn address(found: &SockAddr) -> SocketAddr {
    found.as_socket().expect("an internet address")
}

const DIAL_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Longest wait for the links of a new pod.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a server notices that it is to stop.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(50);

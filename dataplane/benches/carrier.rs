//! What the carrier costs: clients -> client's proxy -> tunnel -> server's proxy -> application, all on loopback.
//!
//! The floor is the same way without TLS and HTTP/2: two relays between plain sockets.
//!
//! Each proxy is one worker thread; what counts is the CPU time of those two, per request, per connection and per gigabyte. The
//! clients and the application are threads of their own and are not counted. Ratios on one machine mean something, the
//! figures themselves do not.
//!
//! `cargo bench -p heddle-dataplane --bench carrier [-- FILTER [SECONDS]]`; filters are prefixes of the row names.

#![expect(clippy::disallowed_methods, reason = "the main thread does nothing but wait for the clock")]

#[path = "../tests/it/support/ca.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod ca;

use ca::Ca;
use heddle_dataplane::{
    allocator,
    hbone::{
        authority::Authority,
        client::{Dial, Key, Pool, PoolLimits},
        server::{self, Incoming, ServerLimits},
    },
    identity::Svid,
    relay::{Meter, RelayLimits, relay},
    stream::Transport,
    tls,
};
use heddle_mesh::identity::SpiffeId;
use http::HeaderMap;
use socket2::SockRef;
use std::{
    fs, io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::watch,
    task::spawn_local,
};
use tokio_util::sync::CancellationToken;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        // `cargo test --all-targets` runs benches too, and only wants to know that they are there.
        return;
    }
    allocator::keep_freed_memory();
    arguments.retain(|argument| argument != "--bench");
    let filter = arguments.first().map_or("", String::as_str);
    let seconds = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let bench = Bench::start(Duration::from_secs_f64(seconds));
    println!("{:<24} {:>12} {:>14} {:>10} {:>10}", "", "per second", "CPU of both", "client", "server");
    for connections in [1, 4, 16, 64, 256] {
        bench.row(filter, &format!("requests-{connections}"), Work::Requests { connections });
    }
    bench.floor(filter, "floor-requests-64", Work::Requests { connections: 64 });
    bench.floor(filter, "floor-connects-16", Work::Connects { connections: 16 });
    bench.floor(filter, "floor-upload-2", Work::Upload { connections: 2 });
    bench.row(filter, "connects-16", Work::Connects { connections: 16 });
    bench.row(filter, "upload-1", Work::Upload { connections: 1 });
    bench.row(filter, "upload-2", Work::Upload { connections: 2 });
    bench.row(filter, "upload-16", Work::Upload { connections: 16 });
    bench.memory(filter, 2000);
}

/// What the clients do.
#[derive(Clone, Copy)]
enum Work {
    /// 100 bytes there, 1 KiB back, one after the other on each connection.
    Requests { connections: usize },
    /// The same once per connection.
    Connects { connections: usize },
    /// As much as goes through.
    Upload { connections: usize },
}

struct Bench {
    tunnel: Proxies,
    plain: Proxies,
    duration: Duration,
}

/// Two proxies, and where clients connect.
struct Proxies {
    entry: SocketAddr,
    client_cpu: CpuFile,
    server_cpu: CpuFile,
}

/// The scheduler's account of one thread: `<ns on CPU> <ns waiting> <slices>` (proc(5), schedstat).
struct CpuFile(String);

impl CpuFile {
    fn of_this_thread() -> Self {
        let link = fs::read_link("/proc/thread-self").expect("proc is mounted");
        Self(format!("/proc/{}/schedstat", link.display()))
    }

    fn read(&self) -> Duration {
        let text = fs::read_to_string(&self.0).expect("the thread lives");
        Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number"))
    }
}

impl Bench {
    fn start(duration: Duration) -> Self {
        let ca = Ca::new();
        let application = application();
        let (server, server_cpu) = server_proxy(ca.svid("spiffe://cluster.local/ns/bench/sa/server"));
        let (entry, client_cpu) =
            client_proxy(ca.svid("spiffe://cluster.local/ns/bench/sa/client"), server, application);
        let tunnel = Proxies { entry, client_cpu, server_cpu };
        let (server, server_cpu) = plain_proxy("plain-server", application);
        let (entry, client_cpu) = plain_proxy("plain-client", server);
        Self { tunnel, plain: Proxies { entry, client_cpu, server_cpu }, duration }
    }

    fn row(&self, filter: &str, name: &str, work: Work) {
        self.measure(&self.tunnel, filter, name, work);
    }

    fn floor(&self, filter: &str, name: &str, work: Work) {
        self.measure(&self.plain, filter, name, work);
    }

    fn measure(&self, through: &Proxies, filter: &str, name: &str, work: Work) {
        if !name.starts_with(filter) {
            return;
        }
        let load = Load::start(through.entry, work);
        thread::sleep(Duration::from_millis(300));
        let before = (load.done(), through.client_cpu.read(), through.server_cpu.read(), Instant::now());
        thread::sleep(self.duration);
        let after = (load.done(), through.client_cpu.read(), through.server_cpu.read(), Instant::now());
        load.stop();
        let done = (after.0 - before.0) as f64;
        let elapsed = (after.3 - before.3).as_secs_f64();
        let (client, server) = ((after.1 - before.1).as_secs_f64(), (after.2 - before.2).as_secs_f64());
        let (unit, scale, per) = match work {
            Work::Requests { .. } | Work::Connects { .. } => ("us", 1e6, 1.0),
            Work::Upload { .. } => ("s/GB", 1.0, 1e9),
        };
        let cost = |cpu: f64| cpu * scale * per / done;
        let rate = match work {
            Work::Upload { .. } => format!("{:.1} Gbit", done * 8.0 / 1e9 / elapsed),
            _ => format!("{:.0}", done / elapsed),
        };
        println!(
            "{name:<24} {rate:>12} {:>9.2} {unit:<4} {:>10.2} {:>10.2}",
            cost(client + server),
            cost(client),
            cost(server)
        );
    }

    /// Anonymous memory of the process for idle connections, both proxies and both ends of everything together.
    fn memory(&self, filter: &str, connections: usize) {
        if !"memory".starts_with(filter) {
            return;
        }
        let before = anonymous_bytes();
        let held: Vec<_> = (0..connections)
            .map(|_| {
                use std::io::{Read, Write};
                let mut tcp = std::net::TcpStream::connect(self.tunnel.entry).expect("connects");
                tcp.write_all(&[0; REQUEST_BYTES]).expect("sends");
                let mut answer = [0; ANSWER_BYTES];
                tcp.read_exact(&mut answer).expect("receives");
                tcp
            })
            .collect();
        let after = anonymous_bytes();
        println!(
            "memory: {:.1} KiB a connection, all parts together",
            (after - before) as f64 / 1024.0 / held.len() as f64
        );
    }
}

fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn on_a_thread<F: Future<Output = ()>>(name: &str, work: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("a runtime can be built").block_on(async move { work().await });
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).expect("threads can be made");
}

fn bound() -> (StdListener, SocketAddr) {
    let listener = StdListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.set_nonblocking(true).expect("can be set");
    tune(SockRef::from(&listener));
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Answers every [`REQUEST_BYTES`] with [`ANSWER_BYTES`]; a first byte of 1 makes it swallow everything.
fn application() -> SocketAddr {
    let (listener, address) = bound();
    on_a_thread("application", move || async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        loop {
            let (mut tcp, _) = listener.accept().await.expect("accepts");
            spawn_local(async move {
                let mut request = vec![0; REQUEST_BYTES];
                let answer = [0; ANSWER_BYTES];
                while tcp.read_exact(&mut request).await.is_ok() {
                    if request[0] == 1 {
                        request.resize(256 * 1024, 0);
                        while tcp.read(&mut request).await.is_ok_and(|read| read > 0) {}
                        return;
                    }
                    if tcp.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn server_proxy(svid: Arc<Svid>) -> (SocketAddr, CpuFile) {
    let (listener, address) = bound();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    on_a_thread("server-proxy", move || async move {
        send.send(CpuFile::of_this_thread()).expect("the main thread waits");
        let listener = TcpListener::from_std(listener).expect("a listener");
        loop {
            let (tcp, _) = listener.accept().await.expect("accepts");
            let config = tls::server_config(&svid, svid.id().trust_domain());
            spawn_local(async move {
                let (stream, peer) = tls::accept(tcp, config).await.expect("a good peer");
                let (limits, drain) = (ServerLimits::default(), CancellationToken::new());
                let _ = server::serve(stream, peer, &limits, &drain, dial_application).await;
            });
        }
    });
    (address, receive.recv().expect("the thread starts"))
}

async fn dial_application(incoming: Incoming) {
    let Authority::Address(application) = *incoming.authority() else { return };
    let Ok(tcp) = connect(application).await else { return };
    let Ok(tunnel) = incoming.accept() else { return };
    let _ = relay(tcp, Transport::Tunnel(tunnel), &RelayLimits::default(), &Meter::default()).await;
}

fn client_proxy(svid: Arc<Svid>, server: SocketAddr, application: SocketAddr) -> (SocketAddr, CpuFile) {
    let (listener, address) = bound();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    on_a_thread("client-proxy", move || async move {
        send.send(CpuFile::of_this_thread()).expect("the main thread waits");
        let listener = TcpListener::from_std(listener).expect("a listener");
        let (_svids, watched) = watch::channel(Some(svid));
        let identities: Arc<[SpiffeId]> =
            Arc::from(["spiffe://cluster.local/ns/bench/sa/server".parse().expect("an identity")]);
        let pool = Pool::new(watched, PoolLimits::default(), Dial::new(connect));
        let key = Rc::new(Key { address: server, identities });
        loop {
            let (tcp, _) = listener.accept().await.expect("accepts");
            let (pool, key) = (pool.clone(), key.clone());
            spawn_local(async move {
                let tunnel = pool.open(&key, application, &HeaderMap::new()).await.expect("the server is there");
                let _ = relay(tcp, Transport::Tunnel(tunnel), &RelayLimits::default(), &Meter::default()).await;
            });
        }
    });
    (address, receive.recv().expect("the thread starts"))
}

fn plain_proxy(name: &str, next: SocketAddr) -> (SocketAddr, CpuFile) {
    let (listener, address) = bound();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    on_a_thread(name, move || async move {
        send.send(CpuFile::of_this_thread()).expect("the main thread waits");
        let listener = TcpListener::from_std(listener).expect("a listener");
        loop {
            let (tcp, _) = listener.accept().await.expect("accepts");
            spawn_local(async move {
                let next = connect(next).await.expect("the next one listens");
                let _ = relay(tcp, Transport::Plain(next), &RelayLimits::default(), &Meter::default()).await;
            });
        }
    });
    (address, receive.recv().expect("the thread starts"))
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tune(SockRef::from(&tcp));
    Ok(tcp)
}

/// BBR, where it is the default, paces loopback and hides what bulk costs. Accepted sockets are like their listener.
fn tune(socket: SockRef<'_>) {
    socket.set_tcp_nodelay(true).expect("can be set");
    socket.set_tcp_congestion(b"reno").expect("every kernel has it");
}

/// Clients, until they are stopped.
struct Load {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(entry: SocketAddr, work: Work) -> Self {
        let load = Self { done: Arc::default(), stop: Arc::default() };
        let (done, stop) = (load.done.clone(), load.stop.clone());
        on_a_thread("clients", move || async move {
            let (Work::Requests { connections } | Work::Connects { connections } | Work::Upload { connections }) = work;
            let clients: Vec<_> = (0..connections)
                .map(|_| {
                    let (done, stop) = (done.clone(), stop.clone());
                    spawn_local(async move {
                        let _ = match work {
                            Work::Requests { .. } => requests(entry, &done, &stop).await,
                            Work::Connects { .. } => connects(entry, &done, &stop).await,
                            Work::Upload { .. } => upload(entry, &done, &stop).await,
                        };
                    })
                })
                .collect();
            for client in clients {
                let _ = client.await;
            }
        });
        load
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(200));
    }
}

async fn requests(entry: SocketAddr, done: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut tcp = connect(entry).await?;
    let mut answer = [0; ANSWER_BYTES];
    while !stop.load(Ordering::Relaxed) {
        tcp.write_all(&[0; REQUEST_BYTES]).await?;
        tcp.read_exact(&mut answer).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn connects(entry: SocketAddr, done: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut answer = [0; ANSWER_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let mut tcp = connect(entry).await?;
        tcp.write_all(&[0; REQUEST_BYTES]).await?;
        tcp.read_exact(&mut answer).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn upload(entry: SocketAddr, done: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut tcp = connect(entry).await?;
    let bytes = vec![1; 256 * 1024];
    while !stop.load(Ordering::Relaxed) {
        let written = tcp.write(&bytes).await?;
        done.fetch_add(written as u64, Ordering::Relaxed);
    }
    Ok(())
}

const REQUEST_BYTES: usize = 100;
const ANSWER_BYTES: usize = 1024;

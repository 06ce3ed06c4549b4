//! Two proxies on loopback: a pool that tunnels, and a server that leads to applications.

use super::Ca;
use heddle_dataplane::{
    hbone::{
        authority::Authority,
        client::{Dial, Key, OpenError, Pool, PoolLimits},
        server::{self, Incoming, ServerLimits},
    },
    identity::Svid,
    relay::{Meter, RelayError, RelayLimits, relay},
    stream::{Transport, Tunnel},
    tls,
};
use heddle_mesh::identity::SpiffeId;
use http::{HeaderMap, StatusCode};
use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{JoinSet, spawn_local},
};
use tokio_util::sync::CancellationToken;

pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// What differs from test to test.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) pool: PoolLimits,
    pub(crate) server: ServerLimits,
    pub(crate) relay: RelayLimits,
}

/// Two proxies.
pub(crate) struct Mesh {
    pub(crate) pool: Pool,
    pub(crate) key: Key,
    pub(crate) drain: CancellationToken,
    pub(crate) svids: watch::Sender<Option<Arc<Svid>>>,
    pub(crate) ca: Ca,
    relay: RelayLimits,
    /// How relays at the client's and at the server's side ended.
    client_ends: RefCell<mpsc::Receiver<Result<(), RelayError>>>,
    server_ends: RefCell<mpsc::Receiver<Result<(), RelayError>>>,
    client_end: mpsc::Sender<Result<(), RelayError>>,
    serving: RefCell<JoinSet<()>>,
    /// How connections of the server ended.
    served: RefCell<mpsc::Receiver<Result<(), server::ServeError>>>,
}

impl Mesh {
    pub(crate) async fn start() -> Rc<Self> {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Rc<Self> {
        let (ends, server_ends) = mpsc::channel(ENDS_MAX);
        let relay_limits = options.relay.clone();
        Self::serving(options, server_ends, move |incoming| {
            dial_application(incoming, relay_limits.clone(), ends.clone())
        })
        .await
    }

    /// Two proxies of which the server's does something else than to dial applications.
    pub(crate) async fn answering<F>(options: Options, each: impl Fn(Incoming) -> F + 'static) -> Rc<Self>
    where
        F: Future<Output = ()> + 'static,
    {
        let (_, server_ends) = mpsc::channel(ENDS_MAX);
        Self::serving(options, server_ends, each).await
    }

    async fn serving<F>(
        options: Options,
        server_ends: mpsc::Receiver<Result<(), RelayError>>,
        each: impl Fn(Incoming) -> F + 'static,
    ) -> Rc<Self>
    where
        F: Future<Output = ()> + 'static,
    {
        let ca = Ca::new();
        let (listener, address) = listen().await;
        let server_svid = ca.svid(SERVER);
        let drain = CancellationToken::new();
        let (serve_end, served) = mpsc::channel(ENDS_MAX);
        let mut serving = JoinSet::new();
        serving.spawn_local({
            let drain = drain.clone();
            let each = Rc::new(each);
            async move {
                // Cut together with this task.
                let mut connections = JoinSet::new();
                loop {
                    let (tcp, _) = listener.accept().await.expect("accept works");
                    let config = tls::server_config(&server_svid, server_svid.id().trust_domain());
                    let (drain, each, serve_end) = (drain.clone(), each.clone(), serve_end.clone());
                    connections.spawn_local(async move {
                        let Ok((stream, peer)) = tls::accept(tcp, config).await else { return };
                        let result =
                            server::serve(stream, peer, &options.server, &drain, |incoming| each(incoming)).await;
                        let _ = serve_end.try_send(result);
                    });
                }
            }
        });
        let (svids, watched) = watch::channel(Some(ca.svid(CLIENT)));
        let identities: Arc<[SpiffeId]> = Arc::from([SERVER.parse().expect("an identity")]);
        let (client_end, client_ends) = mpsc::channel(ENDS_MAX);
        Rc::new(Self {
            pool: Pool::new(watched, options.pool, Dial::new(connect)),
            key: Key { address, identities },
            drain,
            svids,
            ca,
            relay: options.relay,
            client_ends: RefCell::new(client_ends),
            server_ends: RefCell::new(server_ends),
            client_end,
            serving: RefCell::new(serving),
            served: RefCell::new(served),
        })
    }

    /// Where to connect in order to reach `application` through both proxies.
    pub(crate) async fn through(self: &Rc<Self>, application: SocketAddr) -> SocketAddr {
        let (listener, address) = listen().await;
        let mesh = self.clone();
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.expect("accept works");
                let mesh = mesh.clone();
                spawn_local(async move {
                    let Ok(tunnel) = mesh.pool.open(&mesh.key, application, &HeaderMap::new()).await else { return };
                    let result = relay(tcp, Transport::Tunnel(tunnel), &mesh.relay, &Meter::default()).await;
                    let _ = mesh.client_end.try_send(result);
                });
            }
        });
        address
    }

    /// A tunnel to `authority`.
    pub(crate) async fn open(&self, authority: SocketAddr) -> Result<Tunnel, OpenError> {
        self.pool.open(&self.key, authority, &HeaderMap::new()).await
    }

    /// Another pool to the same server.
    pub(crate) fn pool_with(&self, limits: PoolLimits, dial: Dial) -> Pool {
        Pool::new(self.svids.subscribe(), limits, dial)
    }

    /// Where relays that a test starts itself tell how they ended.
    pub(crate) fn ends(&self) -> mpsc::Sender<Result<(), RelayError>> {
        self.client_end.clone()
    }

    /// How the next relay at the client's side ends.
    #[expect(clippy::await_holding_refcell_ref, reason = "a test looks at one end at a time")]
    pub(crate) async fn client_end(&self) -> Result<(), RelayError> {
        self.client_ends.borrow_mut().recv().await.expect("the sender is in self")
    }

    /// How the next relay at the server's side ends.
    #[expect(clippy::await_holding_refcell_ref, reason = "a test looks at one end at a time")]
    pub(crate) async fn server_end(&self) -> Result<(), RelayError> {
        self.server_ends.borrow_mut().recv().await.expect("the sender is in the server")
    }

    /// How the next connection of the server ends.
    #[expect(clippy::await_holding_refcell_ref, reason = "a test looks at one end at a time")]
    pub(crate) async fn served(&self) -> Result<(), server::ServeError> {
        self.served.borrow_mut().recv().await.expect("the sender is in the server")
    }

    pub(crate) async fn both_ended_well(&self) {
        self.client_end().await.expect("the client's relay ended well");
        self.server_end().await.expect("the server's relay ended well");
    }

    /// Ends the server's proxy with all that it does, and listens no more.
    pub(crate) fn cut(&self) {
        self.serving.borrow_mut().abort_all();
    }

    /// A connection to `application` through both proxies.
    pub(crate) async fn connect(self: &Rc<Self>, application: SocketAddr) -> TcpStream {
        let address = self.through(application).await;
        TcpStream::connect(address).await.expect("the client's proxy listens")
    }

    /// A connection to `application` through both proxies, and the application's end of it.
    pub(crate) async fn connect_to(self: &Rc<Self>, application: &TcpListener) -> (TcpStream, TcpStream) {
        let client = self.connect(application.local_addr().expect("bound")).await;
        let (server, _) = application.accept().await.expect("accept works");
        (client, server)
    }
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

async fn dial_application(incoming: Incoming, limits: RelayLimits, ends: mpsc::Sender<Result<(), RelayError>>) {
    let Authority::Address(application) = *incoming.authority() else {
        return incoming.refuse(StatusCode::BAD_REQUEST, "authority_refused");
    };
    let Ok(tcp) = TcpStream::connect(application).await else {
        return incoming.refuse(StatusCode::SERVICE_UNAVAILABLE, "connect_failed");
    };
    let Ok(tunnel) = incoming.accept() else { return };
    let result = relay(tcp, Transport::Tunnel(tunnel), &limits, &Meter::default()).await;
    let _ = ends.try_send(result);
}

/// A listener on loopback.
pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// An application that sends back what it gets, and ends when its client has.
pub(crate) async fn echo() -> SocketAddr {
    let (listener, address) = listen().await;
    spawn_local(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.expect("accept works");
            spawn_local(async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// Both ends of one TCP connection.
pub(crate) async fn accept_one() -> (TcpStream, TcpStream) {
    let (listener, address) = listen().await;
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("connects"), server.expect("accepts").0)
}

/// More relays than any test looks at.
const ENDS_MAX: usize = 1024;

//! A controller that a test drives by hand: it accepts streams, shows their requests, and sends what it is told.

use crate::relay::Relay;
use heddle_controller_client::{Client, Discovery, Node, Settings, Snapshots, connect};
use heddle_mesh::Mesh;
use heddle_proto::{
    names::{ADDRESS_TYPE, AUTHORIZATION_TYPE},
    wire::{
        envoy::service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
            aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
        },
        istio::v1::auth::{
            IstioCertificateRequest, IstioCertificateResponse,
            istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
        },
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{
    Stream as TokioStream, StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Identity, Server, ServerTlsConfig},
};

/// A controller on loopback, behind a relay that can fail as a network does.
pub(crate) struct Controller {
    pub(crate) relay: Relay,
    pub(crate) signing: Arc<Mutex<Signing>>,
    streams: mpsc::Receiver<Stream>,
    folder: PathBuf,
}

/// How the certificate service answers.
pub(crate) struct Signing {
    pub(crate) answer: Result<Vec<String>, Status>,
    pub(crate) seen: Vec<(MetadataMap, IstioCertificateRequest)>,
}

impl Controller {
    pub(crate) async fn start() -> Self {
        let folder = folder();
        let (root_pem, identity) = certificates();
        fs::write(folder.join("root-cert.pem"), root_pem).unwrap();
        fs::write(folder.join("token"), "first.token\n").unwrap();

        let (sender, streams) = mpsc::channel(8);
        let signing = Arc::new(Mutex::new(Signing { answer: Ok(Vec::new()), seen: Vec::new() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))
            .unwrap()
            .add_service(AggregatedDiscoveryServiceServer::new(Accept { streams: sender }))
            .add_service(IstioCertificateServiceServer::new(Sign { signing: signing.clone() }));
        let relay = Relay::start(listener.local_addr().unwrap()).await;
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { relay, signing, streams, folder }
    }

    /// Settings of a client of this controller, whose pod is `shop/web` at 10.0.0.1.
    pub(crate) fn settings(&self, discovery: Discovery) -> Settings {
        let node = Node {
            pod_name: "web".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
            ips: vec!["10.0.0.1".parse().unwrap()],
            node_name: "node-1".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            network: String::new(),
        };
        let (address, root) = (self.relay.address.to_string(), self.folder.join("root-cert.pem"));
        Settings { discovery, ..Settings::new(&address, "controller.test", root, self.folder.join("token"), node) }
    }

    /// Starts a client of this controller.
    pub(crate) fn client(&self, discovery: Discovery) -> Running {
        Running::start(self.settings(discovery))
    }

    /// The next stream that a client opens.
    pub(crate) async fn accept(&mut self) -> Stream {
        soon(self.streams.recv()).await.expect("the controller runs")
    }

    /// Replaces the token.
    pub(crate) fn write_token(&self, token: &str) {
        fs::write(self.folder.join("token"), token).unwrap();
    }

    /// Replaces the roots that clients trust by ones that did not sign this controller.
    pub(crate) fn write_foreign_root(&self) {
        fs::write(self.folder.join("root-cert.pem"), certificates().0).unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A client that runs; dropped, it stops.
pub(crate) struct Running {
    pub(crate) snapshots: Snapshots,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(settings: Settings) -> Self {
        let (snapshots, client): (Snapshots, Client) = connect(settings);
        let task = tokio::spawn(async move {
            client.run().await;
        });
        Self { snapshots, task }
    }

    /// The first mesh for which `wanted` holds.
    pub(crate) async fn mesh(&mut self, wanted: impl Fn(&Mesh) -> bool) -> Arc<Mesh> {
        loop {
            let mesh = self.snapshots.current();
            if wanted(&mesh) {
                return mesh;
            }
            soon(self.snapshots.changed()).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The controller's end of one stream.
pub(crate) struct Stream {
    pub(crate) metadata: MetadataMap,
    requests: tonic::Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    sent: u32,
}

impl Stream {
    /// The next request of the client.
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        soon(self.requests.next()).await.expect("the stream is open").expect("the request is sound")
    }

    /// Reads the first request of each type, and what an on-demand client asks for its own pod.
    pub(crate) async fn greeting(&mut self, discovery: Discovery) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for _ in 0..if discovery == Discovery::OnDemand { 3 } else { 2 } {
            requests.push(self.request().await);
        }
        requests
    }

    /// Sends a response of one type and returns its nonce.
    pub(crate) async fn respond(&mut self, type_url: &str, resources: Vec<Resource>, removed: &[&str]) -> String {
        self.sent += 1;
        let nonce = format!("nonce-{}", self.sent);
        let response = DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            nonce: nonce.clone(),
            resources,
            removed_resources: removed.iter().map(|&name| name.to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(Ok(response)).await.expect("the stream is open");
        nonce
    }

    /// Sends a response and reads its acknowledgement, which must carry nothing else.
    pub(crate) async fn deliver(&mut self, type_url: &str, resources: Vec<Resource>, removed: &[&str]) {
        let nonce = self.respond(type_url, resources, removed).await;
        let expected =
            DeltaDiscoveryRequest { type_url: type_url.to_owned(), response_nonce: nonce, ..Default::default() };
        assert_eq!(self.request().await, expected);
    }

    /// Sends a response and reads its refusal; returns the message.
    pub(crate) async fn deliver_refused(&mut self, type_url: &str, resources: Vec<Resource>) -> String {
        let nonce = self.respond(type_url, resources, &[]).await;
        let request = self.request().await;
        assert_eq!((request.type_url.as_str(), request.response_nonce), (type_url, nonce));
        assert!(request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty());
        request.error_detail.expect("a refusal").message
    }

    /// An empty first response for policies, and these addresses.
    pub(crate) async fn deliver_all(&mut self, addresses: Vec<Resource>) {
        self.deliver(AUTHORIZATION_TYPE, Vec::new(), &[]).await;
        self.deliver(ADDRESS_TYPE, addresses, &[]).await;
    }

    /// Ends the stream with an error.
    pub(crate) async fn fail(self, status: Status) {
        self.responses.send(Err(status)).await.expect("the stream is open");
    }
}

struct Accept {
    streams: mpsc::Sender<Stream>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Accept {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn TokioStream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<tonic::Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, receiver) = mpsc::channel(16);
        let metadata = request.metadata().clone();
        let stream = Stream { metadata, requests: request.into_inner(), responses, sent: 0 };
        self.streams.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct Sign {
    signing: Arc<Mutex<Signing>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Sign {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let mut signing = self.signing.lock().unwrap();
        signing.seen.push((request.metadata().clone(), request.into_inner()));
        let cert_chain = signing.answer.clone()?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// Waits, but not for ever: a test that hangs says nothing.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it happens within 20 s")
}

/// A root in PEM, and a certificate that it signed for `controller.test`.
pub(crate) fn certificates() -> (String, Identity) {
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["controller.test".to_owned()]).unwrap().signed_by(&key, &root).unwrap();
    (root.pem(), Identity::from_pem(leaf.pem(), key.serialize_pem()))
}

/// An address on loopback where nobody listens.
pub(crate) async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("controller-client-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

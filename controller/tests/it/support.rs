//! A controller on loopback with a folder of its own, and a client that speaks the protocol step by step.

use heddle_controller::{
    app,
    ca::ServerNames,
    config::Config,
    state::StateFolder,
    token::{Caller, Tokens},
};
use heddle_proto::{
    names::{ADDRESS_TYPE, AUTHORIZATION_TYPE},
    wire::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
        },
        google::rpc::Status as RpcStatus,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// A folder that is removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("heddle-controller-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("manifests")).expect("a scratch folder");
        Self(path)
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Puts a manifest there in one step.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.manifests().join(file);
        let fresh = self.0.join("fresh");
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)).expect("a written manifest");
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.manifests().join(file)).expect("a removed manifest");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running controller.
pub(crate) struct Controller {
    pub(crate) address: SocketAddr,
    monitoring: SocketAddr,
    state: PathBuf,
    end: watch::Sender<bool>,
    running: JoinHandle<Result<(), app::AppError>>,
}

impl Controller {
    pub(crate) async fn start(scratch: &Scratch) -> Self {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (listener, monitoring) = (listen().await, listen().await);
        let (address, monitoring_address) = (listener.local_addr(), monitoring.local_addr());
        let (address, monitoring_address) = (address.expect("an address"), monitoring_address.expect("an address"));
        let config = Config {
            manifests: scratch.manifests(),
            state: scratch.state(),
            listen: address,
            monitoring_listen: monitoring_address,
            trust_domain: "cluster.local".parse().expect("a trust domain"),
            certificate_ttl: Duration::from_secs(3600),
            server_names: ServerNames::new(&["localhost".to_owned()]).expect("names"),
            cluster_id: "Kubernetes".to_owned(),
        };
        let (end, ending) = watch::channel(false);
        let running = tokio::spawn(app::run_until(config, listener, monitoring, ending));
        Self { address, monitoring: monitoring_address, state: scratch.state(), end, running }
    }

    /// Ends it as SIGTERM does.
    pub(crate) async fn end(self) {
        self.end.send_replace(true);
        let ended = tokio::time::timeout(PATIENCE, self.running).await.expect("an end in time");
        ended.expect("no panic").expect("no error");
    }

    pub(crate) fn root_pem(&self) -> String {
        fs::read_to_string(self.state.join("root-cert.pem")).expect("a root certificate")
    }

    pub(crate) fn token(&self, namespace: &str, service_account: &str, pod: Option<&str>) -> String {
        let tokens = Tokens::open(&StateFolder::open(&self.state).expect("a state folder")).expect("a key");
        let caller = Caller {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: pod.map(str::to_owned),
        };
        tokens.sign(&caller, Duration::from_secs(600)).expect("a token")
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.until(async |controller: &Self| controller.get("/healthz/ready").await.starts_with("HTTP/1.1 200")).await;
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.root_pem())).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).expect("an address");
        endpoint.tls_config(tls).expect("TLS").connect().await.expect("a connection")
    }

    /// A stream of the pod `shop/<name>`, whose service account has the same name.
    pub(crate) async fn connect(&self, name: &str) -> Client {
        let token = self.token("shop", name, Some(name));
        self.connect_with(&token, name, "shop").await
    }

    pub(crate) async fn connect_with(&self, token: &str, pod: &str, namespace: &str) -> Client {
        let (requests, receiver) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(receiver));
        let bearer = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", bearer);
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel().await);
        let responses = client.delta_aggregated_resources(request).await;
        let node =
            Node { id: format!("sidecar~10.0.0.1~{pod}.{namespace}~{namespace}.svc.cluster.local"), ..Node::default() };
        Client { requests, responses: responses.map(tonic::Response::into_inner), node: Some(node) }
    }

    /// An HTTP answer of the monitoring server, header and all.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.monitoring).await.expect("the monitoring server");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a sent request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    pub(crate) async fn status(&self) -> serde_json::Value {
        let answer = self.get("/status").await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("JSON")
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, holds: impl AsyncFn(&Self) -> bool) {
        let waiting = async {
            while !holds(self).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("still not: {:#}", self.status().await);
        }
    }
}

/// One stream.
pub(crate) struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(crate) responses: Result<Streaming<DeltaDiscoveryResponse>, Status>,
    node: Option<Node>,
}

impl Client {
    pub(crate) async fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        self.requests.send(request).await.expect("an open stream");
    }

    /// The first request of a wildcard subscription.
    pub(crate) async fn wildcard(&mut self, type_url: &str, held: &[(&str, &str)]) {
        let initial_resource_versions = versions(held);
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            initial_resource_versions,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// The first request of an on-demand subscription to addresses.
    pub(crate) async fn on_demand(&mut self, held: &[(&str, &str)]) {
        self.send(DeltaDiscoveryRequest {
            type_url: ADDRESS_TYPE.to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            resource_names_unsubscribe: vec!["*".to_owned()],
            initial_resource_versions: versions(held),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn ask(&mut self, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: ADDRESS_TYPE.to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn ack(&mut self, response: &DeltaDiscoveryResponse) {
        self.answer(response, None).await;
    }

    pub(crate) async fn nack(&mut self, response: &DeltaDiscoveryResponse, reason: &str) {
        self.answer(response, Some(RpcStatus { code: 3, message: reason.to_owned() })).await;
    }

    async fn answer(&mut self, response: &DeltaDiscoveryResponse, error_detail: Option<RpcStatus>) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// The next response, or why the stream ended.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let responses = self.responses.as_mut().map_err(|status| status.clone())?;
        let next = tokio::time::timeout(PATIENCE, responses.message()).await.expect("a response in time");
        next?.ok_or_else(|| Status::ok("ended"))
    }

    /// The next response, acknowledged: the names that it brings and those that it removes.
    pub(crate) async fn take(&mut self) -> (Vec<String>, Vec<String>) {
        let response = self.next().await.expect("a response");
        self.ack(&response).await;
        names(&response)
    }

    /// Nothing comes for a while.
    pub(crate) async fn silence(&mut self) {
        let responses = self.responses.as_mut().expect("a stream");
        let next = tokio::time::timeout(SILENCE, responses.message()).await;
        assert!(next.is_err(), "a response came: {next:?}");
    }
}

fn versions(held: &[(&str, &str)]) -> BTreeMap<String, String> {
    held.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

/// The names that a response brings and those that it removes, each in order.
pub(crate) fn names(response: &DeltaDiscoveryResponse) -> (Vec<String>, Vec<String>) {
    let mut brought: Vec<String> = response.resources.iter().map(|resource| resource.name.clone()).collect();
    let mut removed = response.removed_resources.clone();
    brought.sort();
    removed.sort();
    (brought, removed)
}

/// The folder of manifests of a name in `e2e/manifests`.
pub(crate) fn e2e_manifests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/manifests").join(name)
}

pub(crate) const ADDRESSES: &str = ADDRESS_TYPE;
pub(crate) const POLICIES: &str = AUTHORIZATION_TYPE;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(300);

/// Two meshed pods, and a service in front of one of them.
pub(crate) const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {heddle.dev/inject: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.0.7}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {serviceAccountName: client, containers: [{name: client}]}
status: {phase: Running, podIP: 10.0.0.8}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"#;

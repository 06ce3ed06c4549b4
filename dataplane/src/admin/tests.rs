//! The admin servers over loopback, on ports that the kernel picks.

use super::*;
use crate::config::Args;
use clap::Parser;
use heddle_controller_client::Publisher;
use heddle_mesh::{
    Mesh,
    policy::{Action, Clause, Match, Policy, Rule, Scope, StringMatch},
    workload::{Locality, Workload},
};
use std::sync::LazyLock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

#[tokio::test]
async fn readiness_names_every_condition_that_does_not_hold() {
    let bench = Bench::start();
    let reply = bench.get(Page::Readiness, "/healthz/ready").await;
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    for line in ["identity: no certificate yet\n", "config: nothing heard", "capture: not checked yet\n"] {
        assert!(reply.contains(line), "{line} is missing in {reply}");
    }
    bench.admin.readiness.identity(Ok(()));
    bench.admin.readiness.config(Ok(()));
    bench.admin.readiness.capture(Ok(()));
    let reply = bench.get(Page::Readiness, "/healthz/ready").await;
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("\r\n\r\nready\n"), "{reply}");
    bench.admin.readiness.draining();
    let reply = bench.get(Page::Readiness, "/healthz/ready").await;
    assert!(reply.starts_with("HTTP/1.1 503 ") && reply.contains("draining: "), "{reply}");
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let bench = Bench::start();
    let reply = bench.get(Page::Metrics, "/metrics").await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert!(reply.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{reply}");
    assert!(reply.contains("\nheddle_controller_connected 0\n") && reply.ends_with("# EOF\n"), "{reply}");
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told_the_way() {
    let bench = Bench::start();
    let cases = [
        (Page::Readiness, "GET", "/", 404, "GET /healthz/ready"),
        (Page::Readiness, "POST", "/healthz/ready", 405, "GET /healthz/ready"),
        (Page::Readiness, "GET", "/config_dump", 404, "GET /healthz/ready"),
        (Page::Readiness, "GET", "/metrics", 404, "GET /healthz/ready"),
        (Page::Metrics, "GET", "/config_dump", 404, "GET /metrics"),
        (Page::Metrics, "POST", "/log_level", 404, "GET /metrics"),
        (Page::Metrics, "DELETE", "/metrics", 405, "allow: GET, HEAD"),
        (Page::Loopback, "POST", "/config_dump", 405, "allow: GET, HEAD"),
        (Page::Loopback, "PUT", "/log_level", 405, "allow: GET, HEAD, POST"),
        (Page::Loopback, "POST", "/quitquitquit", 404, "POST /log_level"),
    ];
    for (page, method, path, status, hint) in cases {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let reply = bench.send(page, request.as_bytes()).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {reply}");
        assert!(reply.contains(hint), "{method} {path}: {reply}");
    }
}

#[tokio::test]
async fn the_log_level_is_read_and_set() {
    let bench = Bench::start();
    let post =
        |body: &str| format!("POST /log_level HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let reply = bench.send(Page::Loopback, post("loud").as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("\"loud\" is no level"), "{reply}");
    let reply = bench.send(Page::Loopback, post("off,h2=info\n").as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("off,h2=info\n"), "{reply}");
    let reply = bench.get(Page::Loopback, "/log_level").await;
    assert!(reply.contains("off") && reply.contains("h2=info"), "{reply}");
    let reply = bench.send(Page::Loopback, post(&"x".repeat(2000)).as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
}

#[tokio::test]
async fn the_dump_tells_the_mesh_and_the_options_and_no_secret() {
    let bench = Bench::start();
    let reply = bench.get(Page::Loopback, "/config_dump").await;
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("content-type: application/json\r\n"), "{reply}");
    let (_, body) = reply.split_once("\r\n\r\n").expect("a body");
    let dump: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(dump["spiffe_id"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(dump["options"]["connect_timeout"], "2s");
    assert_eq!(dump["certificate"], serde_json::Value::Null);
    assert_eq!(dump["controller"]["connected"], false);
    assert_eq!(dump["own_workload"]["uid"], "Kubernetes//Pod/shop/web-0");
    assert_eq!(dump["mesh"]["revision"], 7);
    assert_eq!(dump["mesh"]["coverage"]["kind"], "on_demand");
    assert_eq!(dump["mesh"]["workloads"][0]["addresses"][0], "10.0.0.1");
    assert_eq!(dump["mesh"]["policies"][0]["rules"][0][0][0], serde_json::json!({ "not_principals": ["*"] }));
    assert!(!body.contains("PRIVATE"));
}

#[tokio::test]
async fn an_oversized_header_is_refused() {
    let bench = Bench::start();
    let request =
        format!("GET /healthz/ready HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(2 * server::HEADER_BYTES_MAX));
    let reply = bench.send(Page::Readiness, request.as_bytes()).await;
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 431 "), "{reply}");
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_ends_the_connection() {
    let bench = Bench::start();
    for begun in [&b""[..], b"GET /healthz", b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = bench.connect(Page::Readiness).await;
        stream.write_all(begun).await.expect("written");
        let start = Instant::now();
        let mut reply = String::new();
        // An error is a reset: as good an end as a FIN.
        let _ = timeout(Duration::from_secs(60), stream.read_to_string(&mut reply)).await.expect("it ends");
        assert!(!reply.contains(" 200 ") && !reply.contains(" 503 "), "{reply}");
        assert!(start.elapsed() <= server::HEADER_READ_TIMEOUT + Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_ends_the_connection() {
    let bench = Bench::start();
    let mut stream = bench.connect(Page::Loopback).await;
    stream.write_all(b"POST /log_level HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nde").await.expect("written");
    let start = Instant::now();
    let mut reply = String::new();
    let _ = timeout(Duration::from_secs(600), stream.read_to_string(&mut reply)).await.expect("it ends");
    assert_eq!(reply, "");
    assert!(start.elapsed() <= server::CONNECTION_TIMEOUT + Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_one_is_served_when_one_ends() {
    let bench = Bench::start();
    let mut held = Vec::new();
    for _ in 0..server::CONNECTIONS_MAX {
        held.push(bench.connect(Page::Readiness).await);
    }
    let mut refused = bench.connect(Page::Readiness).await;
    let mut reply = Vec::new();
    let _ = timeout(Duration::from_secs(4), refused.read_to_end(&mut reply)).await.expect("closed at once");
    assert!(reply.is_empty());
    held.clear();
    // The server notices the ends in its own time.
    for _ in 0..100 {
        if bench.try_get(Page::Readiness, "/healthz/ready").await.starts_with("HTTP/1.1 503 ") {
            return;
        }
    }
    panic!("the server did not recover");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let bench = Bench::start();
    let taken = bench.addresses[0];
    let error = server::listen(taken).expect_err("it is in use");
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
}

/// Servers that run, one a page.
struct Bench {
    admin: Admin,
    addresses: [SocketAddr; 3],
    server: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start() -> Self {
        let admin = admin();
        let open = || server::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let listeners = [open(), open(), open()];
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().expect("it listens"));
        let [readiness, metrics, loopback] = listeners.map(|listener| vec![listener]);
        let listening = Listening { admin: admin.clone(), readiness, metrics, loopback };
        Self { admin, addresses, server: tokio::spawn(listening.run()) }
    }

    async fn connect(&self, page: Page) -> TcpStream {
        TcpStream::connect(self.addresses[page as usize]).await.expect("it listens")
    }

    async fn get(&self, page: Page, path: &str) -> String {
        self.send(page, format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await
    }

    async fn send(&self, page: Page, request: &[u8]) -> String {
        let mut stream = self.connect(page).await;
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut reply = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut reply)).await.expect("it ends");
        String::from_utf8(reply).expect("UTF-8")
    }

    async fn try_get(&self, page: Page, path: &str) -> String {
        tokio::task::yield_now().await;
        self.get(page, path).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn admin() -> Admin {
    let arguments = "heddle-proxy --pod-name=web-0 --pod-namespace=shop --service-account=web --pod-ips=10.0.0.1";
    let config = Config::try_from(Args::parse_from(arguments.split(' '))).expect("sound options");
    let (publisher, snapshots) = Publisher::new(&config.controller_settings().node);
    publisher.publish(mesh(&config), None);
    let (_, svids) = watch::channel(None);
    Admin {
        config: Arc::new(config),
        snapshots,
        svids,
        metrics: Metrics::new(),
        readiness: Readiness::default(),
        log_level: LOG_LEVEL.clone(),
    }
}

fn mesh(config: &Config) -> Mesh {
    let mut mesh = Mesh::default();
    let matches = vec![Match { not_principals: vec![StringMatch::Presence], ..Match::default() }];
    mesh.insert_policy(Arc::new(Policy {
        name: "shop/heddle_strict_default".parse().expect("a name"),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        dry_run: false,
    }));
    mesh.insert_workload(Arc::new(Workload {
        uid: "Kubernetes//Pod/shop/web-0".into(),
        name: "web-0".into(),
        namespace: "shop".into(),
        addresses: config.identity.pod_ips.clone(),
        network: "".into(),
        tunnel: heddle_mesh::workload::Tunnel::Hbone,
        identity: config.identity.spiffe_id.clone(),
        node: "".into(),
        locality: Locality::default(),
        health: heddle_mesh::workload::Health::Healthy,
        policies: vec!["shop/heddle_strict_default".parse().expect("a name")],
        services: std::collections::BTreeMap::new(),
        capacity: 1,
        host_network: false,
        egress: heddle_mesh::workload::Egress::Allow,
        canonical_name: "web".into(),
        workload_name: "web".into(),
        cluster: "Kubernetes".into(),
    }));
    mesh.revision = 7;
    mesh
}

/// One a process, since a process has one subscriber.
static LOG_LEVEL: LazyLock<LogLevel> =
    LazyLock::new(|| crate::telemetry::log::start(&"off".parse::<LogFilter>().expect("a filter")));

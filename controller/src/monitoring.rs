//! The HTTP server on 15014: readiness, metrics, and who is connected at which revision.

use crate::{metrics::Metrics, serve::nodes::Nodes, state_of_mesh::StateOfMesh};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// What the server shows.
#[derive(Debug, Clone)]
pub struct Monitoring {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who is connected.
    pub nodes: Nodes,
    /// The newest state of the manifests.
    pub state: watch::Receiver<StateOfMesh>,
}

/// Serves until it is dropped.
pub async fn run(monitoring: Monitoring, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed, so never an error.
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let monitoring = monitoring.clone();
                tokio::spawn(async move {
                    serve(monitoring, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a monitoring connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(monitoring: Monitoring, stream: TcpStream) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = monitoring.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    if let Ok(Err(error)) =
        tokio::time::timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(stream), answer)).await
    {
        tracing::debug!(%error, "monitoring connection");
    }
}

impl Monitoring {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if *method != Method::GET && *method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned());
        }
        match path {
            "/healthz/ready" => match self.state.borrow().not_ready.as_deref() {
                None => text(StatusCode::OK, "text/plain", "ready\n".to_owned()),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("not ready: {reason}\n")),
            },
            "/metrics" => {
                self.metrics.streams.set(i64::try_from(self.nodes.list().len()).unwrap_or(i64::MAX));
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                text(StatusCode::OK, content_type, self.metrics.render())
            }
            "/status" => text(StatusCode::OK, "application/json", self.status()),
            _ => text(StatusCode::NOT_FOUND, "text/plain", "/healthz/ready, /metrics or /status\n".to_owned()),
        }
    }

    fn status(&self) -> String {
        let state = self.state.borrow().clone();
        let status = json!({
            "ready": state.not_ready.is_none(),
            "not_ready": state.not_ready,
            "revision": state.revision,
            "files": state.files,
            "workloads": state.workloads,
            "services": state.services,
            "policies": state.policies,
            "mistakes": state.mistakes,
            "nodes": self.nodes.list(),
        });
        format!("{status:#}\n")
    }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// Monitoring connections at once.
const CONNECTIONS_MAX: usize = 64;

/// Longest time for a request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest life of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

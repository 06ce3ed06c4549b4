//! What the proxy answers about itself, on the control thread: readiness, metrics, a dump of its state, the log level.
//!
//! Invariant: what the proxy holds of others (the mesh, policies) is told on loopback only, and no key is told at all.

mod config_dump;
mod server;

pub use crate::telemetry::readiness::Readiness;

use crate::{
    config::Config,
    identity::Svid,
    telemetry::{
        log::{LogFilter, LogLevel},
        metrics::{CONTENT_TYPE, Metrics},
    },
};
use bytes::Bytes;
use heddle_controller_client::Snapshots;
use heddle_init_abi::{ADMIN_PORT, METRICS_PORT, READINESS_PORT};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// Everything that can be asked for.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The options.
    pub config: Arc<Config>,
    /// The mesh, and how its source is doing.
    pub snapshots: Snapshots,
    /// The proxy's own certificate.
    pub svids: watch::Receiver<Option<Arc<Svid>>>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Whether the pod may be given traffic.
    pub readiness: Readiness,
    /// Which diagnostics are written.
    pub log_level: LogLevel,
}

/// The servers, with their sockets open.
#[derive(Debug)]
pub struct Listening {
    admin: Admin,
    readiness: Vec<TcpListener>,
    metrics: Vec<TcpListener>,
    loopback: Vec<TcpListener>,
}

impl Admin {
    /// Opens the fixed ports: readiness and metrics on all interfaces, the rest on loopback. Needs a runtime.
    ///
    /// # Errors
    /// The port that is not to be had.
    pub fn listen(self) -> Result<Listening, ListenError> {
        let loopback_v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
        let loopback_v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, ADMIN_PORT));
        let mut loopback = vec![server::listen(loopback_v4)?];
        match server::listen(loopback_v6) {
            Ok(listener) => loopback.push(listener),
            Err(error) => tracing::info!(%error, "the admin port is on 127.0.0.1 only"),
        }
        Ok(Listening {
            readiness: vec![server::listen_on_all_interfaces(READINESS_PORT)?],
            metrics: vec![server::listen_on_all_interfaces(METRICS_PORT)?],
            loopback,
            admin: self,
        })
    }

    fn healthz_ready(&self) -> Response<Full<Bytes>> {
        let reasons = self.readiness.reasons();
        if reasons.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        text(StatusCode::SERVICE_UNAVAILABLE, reasons.iter().map(|reason| format!("{reason}\n")).collect::<String>())
    }

    fn metrics_text(&self) -> Response<Full<Bytes>> {
        self.observe_controller();
        let mut response = text(StatusCode::OK, self.metrics.encode());
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
        response
    }

    fn observe_controller(&self) {
        self.metrics.controller_connected(self.snapshots.status().connected);
        self.metrics.config_revision(self.snapshots.current().revision);
    }

    async fn dump(&self) -> Response<Full<Bytes>> {
        let admin = self.clone();
        // A big mesh takes a while to print; other control work must not wait for that.
        match tokio::task::spawn_blocking(move || config_dump::config_dump(&admin)).await {
            Ok(dump) => {
                let mut response = text(StatusCode::OK, dump);
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the dump failed: {error}\n")),
        }
    }

    async fn set_log_level<B>(&self, body: B) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let Ok(body) = Limited::new(body, LOG_LEVEL_BYTES_MAX).collect().await else {
            return text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "write at most 1 KiB: a level, such as debug or info,h2=warn\n",
            );
        };
        let body = body.to_bytes();
        let filter = match str::from_utf8(&body).unwrap_or_default().trim().parse::<LogFilter>() {
            Ok(filter) => filter,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        match self.log_level.set(&filter) {
            Ok(()) => {
                tracing::info!(%filter, "log level changed");
                text(StatusCode::OK, format!("{filter}\n"))
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

impl Listening {
    /// Serves until it is dropped, and notes every second how the controller's stream is doing, for the metrics.
    pub async fn run(self) {
        let Self { admin, readiness, metrics, loopback } = self;
        let serve = |page: Page, listeners: Vec<TcpListener>| {
            let admin = admin.clone();
            server::serve(listeners, move |request| answer(admin.clone(), page, request))
        };
        let observe = async {
            let mut tick = interval(OBSERVE_INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                admin.observe_controller();
            }
        };
        tokio::join!(
            serve(Page::Readiness, readiness),
            serve(Page::Metrics, metrics),
            serve(Page::Loopback, loopback),
            observe,
        );
    }
}

/// What one port serves.
#[derive(Debug, Clone, Copy)]
enum Page {
    Readiness,
    Metrics,
    Loopback,
}

impl Page {
    fn hint(self) -> &'static str {
        match self {
            Self::Readiness => "this port serves GET /healthz/ready\n",
            Self::Metrics => "this port serves GET /metrics\n",
            Self::Loopback => "this port serves GET /config_dump, GET /log_level and POST /log_level\n",
        }
    }
}

async fn answer<B>(admin: Admin, page: Page, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (page, path.as_str(), method) {
        (Page::Readiness, "/healthz/ready", Method::GET | Method::HEAD) => admin.healthz_ready(),
        (Page::Metrics, "/metrics", Method::GET | Method::HEAD) => admin.metrics_text(),
        (Page::Loopback, "/config_dump", Method::GET | Method::HEAD) => admin.dump().await,
        (Page::Loopback, "/log_level", Method::GET | Method::HEAD) => {
            text(StatusCode::OK, format!("{}\n", admin.log_level.current()))
        }
        (Page::Loopback, "/log_level", Method::POST) => admin.set_log_level(request.into_body()).await,
        (Page::Readiness, "/healthz/ready", _)
        | (Page::Metrics, "/metrics", _)
        | (Page::Loopback, "/config_dump" | "/log_level", _) => not_allowed(page, &path),
        _ => text(StatusCode::NOT_FOUND, page.hint()),
    }
}

fn not_allowed(page: Page, path: &str) -> Response<Full<Bytes>> {
    let allowed = if path == "/log_level" { "GET, HEAD, POST" } else { "GET, HEAD" };
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, page.hint());
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Why a port of the proxy is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; does another proxy run in this pod's network?")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// Longest body of a new log level, in bytes.
const LOG_LEVEL_BYTES_MAX: usize = 1024;
/// How often the controller's stream is looked at.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;

//! The gRPC server on 15012: discovery and certificates, over TLS, for callers with a token.
//!
//! [`snapshot`] holds what can be sent, encoded once; [`subscription`] decides what one client must be sent; [`ads`] runs one
//! stream; [`nodes`] is who is connected and how far.

mod ads;
mod authenticate;
mod certificates;
mod listen;
pub mod nodes;
pub mod snapshot;
mod subscription;
mod wire;

pub use listen::{ListenError, bind};

use crate::{ca::Authority, metrics::Metrics, token::Tokens};
use heddle_mesh::identity::TrustDomain;
use heddle_proto::wire::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use nodes::Nodes;
use snapshot::Snapshot;
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::Server;

/// What the services share.
#[derive(Debug)]
pub struct Shared {
    /// Checks callers' tokens.
    pub tokens: Tokens,
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// Trust domain of the identities it signs.
    pub trust_domain: TrustDomain,
    /// Name of the cluster, for workloads' unique names.
    pub cluster_id: Arc<str>,
    /// The newest mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Who is connected.
    pub nodes: Nodes,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Turns true when streams must end.
    pub ending: watch::Receiver<bool>,
}

/// Serves until `shared.ending` turns true and every stream has ended.
///
/// # Errors
/// The transport failed.
pub async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
) -> Result<(), tonic::transport::Error> {
    let mut ending = shared.ending.clone();
    let certificates = certificates::Certificates { shared: shared.clone() };
    let connections = listen::connections(listener, tls, shared.ending.clone());
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .add_service(wire::Discovery { shared })
        .add_service(IstioCertificateServiceServer::new(certificates).max_decoding_message_size(CSR_MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(connections, async move {
            // An error means that whoever would say so is gone, which says so.
            let _ = ending.wait_for(|ending| *ending).await;
        })
        .await
}

/// How often a silent connection is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Calls at once on one connection; a proxy has one stream and now and then a certificate.
const STREAMS_MAX: u32 = 16;

/// Longest header block: a token has about 1.5 KiB.
const HEADER_BYTES_MAX: u32 = 32 << 10;

/// Largest certificate request.
const CSR_MESSAGE_BYTES_MAX: usize = 64 << 10;

//! Builds the parts in order, owns their tasks, and ends them on a signal.

use crate::{
    ca::{Authority, AuthorityError, ServingCertificate, ServingError},
    config::Config,
    metrics::Metrics,
    monitoring::{self, Monitoring},
    serve::{self, ListenError, Shared, nodes::Nodes, snapshot::Snapshot},
    source::{folder::Manifests, watch as folder_watch},
    state::{StateError, StateFolder},
    state_of_mesh::{self, ServedBefore, StateOfMesh},
    token::{TokenError, Tokens},
    translate::Settings,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// Why the controller ended by itself, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// This server's certificate.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// The key of tokens.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The TLS library does not know what we ask of it.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Signals cannot be had.
    #[error("cannot wait for signals: {0}")]
    Signal(io::Error),
    /// The gRPC server failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A part ended that should not have.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start, or a part of it failed.
pub async fn run(config: Config) -> Result<(), AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signal)?;
    let monitoring_listener = serve::bind(config.monitoring_listen, "--monitoring-listen").await?;
    let listener = serve::bind(config.listen, "--listen").await?;
    let (end, ending) = watch::channel(false);
    let running = run_until(config, listener, monitoring_listener, ending);
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending");
    end.send_replace(true);
    // Streams are told to connect again; whoever does not listen is left.
    let _ = tokio::time::timeout(END_TIMEOUT, running).await;
    Ok(())
}

/// All parts, on listeners that are there already, until `ending` turns true. Dropped, it ends them all.
///
/// # Errors
/// It cannot start, or a part of it failed.
pub async fn run_until(
    config: Config,
    listener: TcpListener,
    monitoring_listener: TcpListener,
    ending: watch::Receiver<bool>,
) -> Result<(), AppError> {
    let state_folder = StateFolder::open(config.state)?;
    let authority = Arc::new(Authority::open(&state_folder, config.certificate_ttl)?);
    let tokens = Tokens::open(&state_folder)?;
    let certificate = Arc::new(ServingCertificate::new(authority.clone(), config.server_names)?);
    let tls = Arc::new(tls_config(certificate.clone())?);
    let served = ServedBefore::open(state_folder)?;
    let metrics = Arc::new(Metrics::default());
    let nodes = Nodes::default();

    let (manifests_sender, manifests) = watch::channel(Arc::new(Manifests::default()));
    let (snapshots_sender, mut snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let starting = StateOfMesh { not_ready: Some("the manifests are being read".to_owned()), ..StateOfMesh::default() };
    let (state_sender, state) = watch::channel(starting);
    let cluster_id: Arc<str> = config.cluster_id.into();
    let settings = Settings { cluster_id: cluster_id.clone(), trust_domain: config.trust_domain.clone() };

    let mut tasks = JoinSet::new();
    let folder = config.manifests;
    tasks.spawn(async move {
        folder_watch::run(folder, manifests_sender).await;
        "reading of manifests"
    });
    let counted = metrics.clone();
    tasks.spawn(async move {
        state_of_mesh::run(manifests, settings, snapshots_sender, state_sender, counted, served).await;
        "translation"
    });
    let monitoring = Monitoring { metrics: metrics.clone(), nodes: nodes.clone(), state };
    tasks.spawn(async move {
        monitoring::run(monitoring, monitoring_listener).await;
        "monitoring server"
    });
    tasks.spawn(async move {
        certificate.renew().await;
        "renewal of this server's certificate"
    });

    let serving = async {
        let mut until = ending.clone();
        // Before the first complete load an answer would be "does not exist", and proxies would drop what they hold.
        tokio::select! {
            loaded = snapshots.wait_for(|snapshot| snapshot.revision > 0) => drop(loaded.map_err(|_| AppError::Ended("translation"))?),
            _ = until.wait_for(|ending| *ending) => return Ok(()),
        }
        let shared = Shared {
            tokens,
            authority,
            trust_domain: config.trust_domain,
            cluster_id,
            snapshots,
            nodes,
            metrics,
            ending,
        };
        tracing::info!(address = ?listener.local_addr().ok(), "serving");
        serve::run(Arc::new(shared), listener, tls).await.map_err(AppError::from)
    };
    tokio::select! {
        served = serving => served,
        Some(ended) = tasks.join_next() => Err(AppError::Ended(ended.unwrap_or("part that panicked"))),
    }
}

fn tls_config(certificate: Arc<ServingCertificate>) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = config.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// How long open streams may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

//! One connection to the controller: TLS against the roots in the file, and the bearer token of the moment.

use crate::{
    error::{ConnectError, chain},
    settings::Settings,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    fs,
    future::Future,
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tonic::{
    codegen::Service,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// A connection and the headers that each of its calls carries.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    authorization: MetadataValue<Ascii>,
    cluster: Option<MetadataValue<Ascii>>,
}

impl Connection {
    /// Reads both files, dials and shakes hands, within `connect_timeout`.
    pub(crate) async fn open(settings: &Settings) -> Result<Self, ConnectError> {
        let authorization = read_token(&settings.token_file)?;
        let endpoint = endpoint(settings)?;
        let dial = Dial { address: settings.address.clone(), mark: settings.socket_mark };
        let channel = tokio::time::timeout(settings.connect_timeout, endpoint.connect_with_connector(dial));
        let channel = channel.await.map_err(|_| timed_out(settings))?;
        let channel = channel.map_err(|error| ConnectError::Transport {
            address: settings.address.clone(),
            server_name: settings.server_name.clone(),
            reason: chain(&error),
        })?;
        Ok(Self { channel, authorization, cluster: settings.node.cluster_id.parse().ok() })
    }

    /// A call with our headers.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        if let Some(cluster) = &self.cluster {
            request.metadata_mut().insert("clusterid", cluster.clone());
        }
        request
    }
}

/// The error of a step that took longer than `connect_timeout`.
pub(crate) fn timed_out(settings: &Settings) -> ConnectError {
    ConnectError::Timeout { address: settings.address.clone(), seconds: settings.connect_timeout.as_secs_f32() }
}

fn endpoint(settings: &Settings) -> Result<Endpoint, ConnectError> {
    let bad_address = || ConnectError::Address(settings.address.clone());
    let endpoint = Endpoint::from_shared(format!("https://{}", settings.address)).map_err(|_| bad_address())?;
    if endpoint.uri().port().is_none() {
        return Err(bad_address());
    }
    let file = |reason: String| ConnectError::File {
        what: "root certificate file",
        path: settings.root_cert_file.clone(),
        reason,
    };
    let pem = fs::read(&settings.root_cert_file).map_err(|error| file(error.to_string()))?;
    let roots = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    if roots.map_err(|error| file(format!("{error}; expected PEM")))?.is_empty() {
        return Err(file("holds no certificate; expected PEM".to_owned()));
    }
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pem)).domain_name(settings.server_name.clone());
    let endpoint = endpoint.tls_config(tls).map_err(|error| file(chain(&error)))?;
    Ok(endpoint
        .http2_keep_alive_interval(settings.keepalive.interval)
        .keep_alive_timeout(settings.keepalive.timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, ConnectError> {
    let file = |reason: String| ConnectError::File { what: "token file", path: path.to_owned(), reason };
    let token = fs::read_to_string(path).map_err(|error| file(error.to_string()))?;
    let token = token.trim();
    if token.is_empty() {
        return Err(file("is empty; expected a JWT".to_owned()));
    }
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().map_err(|_| file("is not one line of ASCII; expected a JWT".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Dials the controller with our packet mark, one address after the other.
#[derive(Debug, Clone)]
struct Dial {
    address: String,
    mark: Option<u32>,
}

impl Service<http::Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in lookup_host(&dial.address).await? {
                match dial.connect(address).await {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
                }
            }
            Err(last)
        })
    }
}

impl Dial {
    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        socket.set_nodelay(true)?;
        socket.connect(address).await
    }
}

/// HTTP/2 windows: a limit, not memory held. Large enough that a big first response is not bound by round trips.
const WINDOW_BYTES: u32 = 4 << 20;

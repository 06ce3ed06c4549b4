//! A peer of the tunnel port that says what a test wants it to: any certificate, any CONNECT.

use anyhow::{Context, Result, bail};
use heddle_e2e::{Pod, traffic::certificate::Certificate};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// What the peer shows.
pub(crate) enum Identity {
    /// Nothing.
    None,
    /// A certificate.
    Of(Certificate),
}

/// What came of a CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// There was no tunnel connection: the handshake failed, or the connection ended before an answer.
    NoTunnel(String),
    /// The status, and the reason code of a refusal.
    Status(u16, Option<String>),
}

/// A client of the tunnel port, in a pod.
pub(crate) struct Peer<'a> {
    pod: &'a Pod,
    identity: Identity,
}

impl<'a> Peer<'a> {
    pub(crate) fn new(pod: &'a Pod, identity: Identity) -> Self {
        Self { pod, identity }
    }

    /// Dials `at` and asks for a tunnel to `authority`.
    pub(crate) fn ask(&self, at: SocketAddr, authority: &str) -> Result<Answer> {
        let config = self.config()?;
        let stream = self.pod.connect(at)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match timeout(DEADLINE, connect(stream, config, authority)).await {
                Ok(answer) => answer,
                Err(_) => bail!("no answer within {DEADLINE:?}"),
            }
        })
    }

    fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let mut config = match &self.identity {
            Identity::None => builder.with_no_client_auth(),
            Identity::Of(Certificate { certificate, key }) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)?.collect();
                builder.with_client_auth_cert(chain?, PrivateKeyDer::from_pem_file(key)?)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        Ok(config)
    }
}

async fn connect(stream: TcpStream, config: ClientConfig, authority: &str) -> Result<Answer> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let stream = match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => stream,
        Err(error) => return Ok(Answer::NoTunnel(format!("handshake: {error}"))),
    };
    let (mut requests, connection) = match h2::client::handshake(stream).await {
        Ok(pair) => pair,
        Err(error) => return Ok(Answer::NoTunnel(format!("preface: {error}"))),
    };
    let request = http::Request::connect(authority).body(()).context("CONNECT")?;
    let ask = async move {
        // In TLS 1.3 the server sees the certificate after the client is done, so its refusal comes only now.
        let (response, _open) = requests.send_request(request, false)?;
        response.await
    };
    let answer = tokio::select! {
        answer = ask => answer,
        ended = connection => return Ok(Answer::NoTunnel(format!("the connection ended: {ended:?}"))),
    };
    Ok(match answer {
        Ok(response) => {
            let reason = response.headers().get(REASON_HEADER).and_then(|value| value.to_str().ok());
            Answer::Status(response.status().as_u16(), reason.map(str::to_owned))
        }
        Err(error) => Answer::NoTunnel(format!("CONNECT: {error}")),
    })
}

/// Takes every server: it is the server's refusal that is tested.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Where a refused tunnel's answer says why.
const REASON_HEADER: &str = "x-heddle-reason";
const DEADLINE: Duration = Duration::from_secs(10);

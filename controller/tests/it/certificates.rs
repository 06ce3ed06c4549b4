//! The certificate service over the wire.

use crate::support::{Controller, SHOP, Scratch};
use heddle_proto::wire::istio::v1::auth::{
    IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_client::IstioCertificateServiceClient,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tonic::{Code, Request, Status};
use x509_parser::extensions::{GeneralName, ParsedExtension};

fn csr(san: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(san.try_into().expect("a URI"))];
    let key = KeyPair::generate().expect("a key");
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

async fn sign(
    controller: &Controller,
    token: &str,
    csr: String,
    seconds: i64,
) -> Result<IstioCertificateResponse, Status> {
    let mut request = Request::new(IstioCertificateRequest { csr, validity_duration: seconds, metadata: None });
    let bearer = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    let mut client = IstioCertificateServiceClient::new(controller.channel().await);
    client.create_certificate(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn the_token_and_not_the_request_says_whose_certificate_it_is() {
    let scratch = Scratch::new();
    scratch.write("shop.yaml", SHOP);
    let controller = Controller::start(&scratch).await;
    let token = controller.token("shop", "web", None);
    let request = csr("spiffe://cluster.local/ns/heddle-system/sa/admin");
    let chain = sign(&controller, &token, request, 86_400).await.expect("a certificate").cert_chain;
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], controller.root_pem());
    let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).expect("PEM");
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
    let san = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(san) => Some((extension.critical, san)),
        _ => None,
    });
    let (critical, san) = san.expect("a SAN");
    assert!(critical);
    assert_eq!(san.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
    // An hour is what this controller allows.
    let validity = certificate.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(seconds, 3600 + 120);
    assert!(controller.get("/metrics").await.contains("heddle_controller_certificates_issued_total 1"));
}

#[tokio::test]
async fn strangers_and_nonsense_are_refused() {
    let scratch = Scratch::new();
    scratch.write("shop.yaml", SHOP);
    let controller = Controller::start(&scratch).await;
    let token = controller.token("shop", "web", None);
    let code = async |token: &str, csr: String| sign(&controller, token, csr, 0).await.expect_err("a refusal").code();
    let sound = || csr("spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(code("nonsense", sound()).await, Code::Unauthenticated);
    assert_eq!(code(&token, String::new()).await, Code::InvalidArgument);
    assert_eq!(code(&token, "x".repeat(20_000)).await, Code::InvalidArgument);
    let other = Scratch::new();
    other.write("shop.yaml", SHOP);
    let stranger = Controller::start(&other).await;
    stranger.channel().await;
    assert_eq!(code(&stranger.token("shop", "web", None), sound()).await, Code::Unauthenticated);
    assert!(sign(&controller, &token, sound(), -5).await.is_ok());
}

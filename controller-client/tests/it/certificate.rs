//! Signing: what is asked, and which answers are taken.

use crate::controller::{Controller, certificates, soon};
use heddle_controller_client::{CertificateClient, Discovery, SignError};
use std::time::Duration;
use tonic::Status;

async fn sign(controller: &Controller) -> Result<heddle_controller_client::Signed, SignError> {
    let client = CertificateClient::new(&controller.settings(Discovery::OnDemand));
    soon(client.sign("the request", Duration::from_secs(3600))).await
}

#[tokio::test]
async fn a_chain_comes_back_leaf_first_and_roots_apart() {
    let controller = Controller::start().await;
    let [leaf, intermediate, root, second_root] = [(); 4].map(|()| certificates().0);
    controller.signing.lock().unwrap().answer = Ok(vec![leaf, intermediate, root + &second_root]);
    let signed = sign(&controller).await.unwrap();
    assert_eq!((signed.chain.len(), signed.roots.len()), (2, 2));

    // The token is read for each call.
    controller.write_token("second.token");
    sign(&controller).await.unwrap();
    let seen = std::mem::take(&mut controller.signing.lock().unwrap().seen);
    let tokens: Vec<_> = seen.iter().map(|(metadata, _)| metadata.get("authorization").unwrap().clone()).collect();
    assert_eq!(tokens, ["Bearer first.token", "Bearer second.token"]);
    let request = &seen[0].1;
    assert_eq!((request.csr.as_str(), request.validity_duration, &request.metadata), ("the request", 3600, &None));
}

#[tokio::test]
async fn a_refusal_is_told_with_its_code() {
    let controller = Controller::start().await;
    controller.signing.lock().unwrap().answer = Err(Status::permission_denied("not your pod"));
    let text = sign(&controller).await.unwrap_err().to_string();
    assert!(text.contains("PermissionDenied: not your pod"), "{text}");

    controller.relay.cut();
    assert!(matches!(sign(&controller).await, Err(SignError::Connect(_))));
}

#[tokio::test]
async fn an_answer_that_is_no_chain_is_refused() {
    let controller = Controller::start().await;
    let certificate = certificates().0;
    let cases = [
        (vec![], "0 texts, expected a certificate and the roots"),
        (vec![certificate.clone()], "1 texts, expected a certificate and the roots"),
        (vec!["hello".to_owned(), certificate.clone()], "the certificate: no certificate; expected PEM"),
        (
            vec![certificate.clone(), String::new(), certificate.clone()],
            "an intermediate: no certificate; expected PEM",
        ),
        (vec![certificate, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned()], "the roots: "),
    ];
    for (answer, expected) in cases {
        controller.signing.lock().unwrap().answer = Ok(answer);
        let text = sign(&controller).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    }
}

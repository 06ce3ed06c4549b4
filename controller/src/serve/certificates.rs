//! The certificate service: signs for whoever the token says is calling.

use super::{Shared, authenticate};
use heddle_proto::wire::istio::v1::auth::{
    IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService,
};
use std::{sync::Arc, time::Duration};
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) shared: Arc<Shared>,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let shared = &self.shared;
        let caller = authenticate::caller(shared, request.metadata())?;
        let identity =
            caller.identity(&shared.trust_domain).map_err(|error| Status::permission_denied(error.to_string()))?;
        let request = request.into_inner();
        let ttl = u64::try_from(request.validity_duration).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        match shared.authority.sign(&request.csr, &identity, ttl) {
            Ok(chain) => {
                shared.metrics.certificates.inc();
                tracing::info!(%identity, "signed a certificate");
                Ok(Response::new(IstioCertificateResponse { cert_chain: chain.into() }))
            }
            Err(error) => {
                tracing::warn!(%identity, %error, "refused a signing request");
                Err(Status::invalid_argument(error.to_string()))
            }
        }
    }
}

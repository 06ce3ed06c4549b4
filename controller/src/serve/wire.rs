//! The discovery service as tonic serves it, with a response whose resources were encoded before.
//!
//! The generated server would encode every resource again for every stream. On the wire a repeated message and a repeated
//! byte string are the same, so [`DeltaResponse`] takes the encoded ones as they are.

use super::{Shared, ads, authenticate};
use bytes::Bytes;
use heddle_proto::wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, aggregated_discovery_service_server::SERVICE_NAME,
};
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService},
};

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse` with encoded resources.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeltaResponse {
    #[prost(string, tag = "1")]
    pub(super) system_version_info: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(super) removed_resources: Vec<String>,
}

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Discovery {
    pub(super) shared: Arc<Shared>,
}

impl NamedService for Discovery {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != DELTA_PATH {
                let status = Status::unimplemented("only DeltaAggregatedResources is served");
                return Ok(status.into_http());
            }
            let codec = tonic_prost::ProstCodec::<DeltaResponse, DeltaDiscoveryRequest>::default();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Discovery {
    type Response = DeltaResponse;
    type ResponseStream = ReceiverStream<Result<DeltaResponse, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move {
            let caller = authenticate::caller(&shared, request.metadata())?;
            Ok(Response::new(ads::start(shared, caller, request.into_inner())))
        })
    }
}

const DELTA_PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Largest request. The first one of a stream names everything that the client holds.
const REQUEST_BYTES_MAX: usize = 64 << 20;

//! One delta stream: subscribe, apply, acknowledge or refuse. Rules: Envoy's xDS protocol, incremental variant.
//!
//! Acknowledgements carry no subscriptions, and a request without a nonce always changes the set: Istio's control plane
//! checks both.

use crate::{
    channel::{Connection, timed_out},
    error::{StreamError, status_reason},
    index::{Applied, Index, Kind, own_names},
    settings::{Discovery, Node, Settings},
};
use heddle_proto::{
    FieldError,
    names::{WILDCARD, address_name},
    wire::{
        envoy::{
            config::core::v3 as core,
            service::discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
        },
        google::rpc::Status,
    },
};
use prost_types::{Struct, Value, value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Runs one stream until it ends, and says why it did.
pub(crate) async fn run(settings: &Settings, index: &mut Index) -> StreamError {
    match serve(settings, index).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn serve(settings: &Settings, index: &mut Index) -> Result<std::convert::Infallible, StreamError> {
    let connection = Connection::open(settings).await?;
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let requests = connection.request(ReceiverStream::new(requests));
    let outbox = Outbox { sender };
    // The controller may wait for the first request before it says anything.
    for kind in Kind::ALL {
        outbox.send(first_request(settings, index, kind))?;
    }
    if settings.discovery == Discovery::OnDemand {
        outbox.send(subscribe(own_names(&settings.node)))?;
    }

    let mut client =
        AggregatedDiscoveryServiceClient::new(connection.channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
    let opened = tokio::time::timeout(settings.connect_timeout, client.delta_aggregated_resources(requests)).await;
    let opened = opened.map_err(|_| timed_out(settings))?;
    let mut responses = opened.map_err(|status| ended(&status))?.into_inner();

    let shared = index.shared().clone();
    let _connected = shared.connected();
    tracing::info!(controller = settings.address, "connected to the controller");
    loop {
        tokio::select! {
            response = responses.message() => {
                let response = response.map_err(|status| ended(&status))?.ok_or(StreamError::Closed)?;
                answer(index, &outbox, response)?;
            }
            () = shared.asks.asked(), if settings.discovery == Discovery::OnDemand => {
                let addresses = shared.asks.take_unsent();
                if !addresses.is_empty() {
                    let names = addresses.into_iter().map(|address| address_name(&shared.network, address));
                    outbox.send(subscribe(names.collect()))?;
                }
            }
        }
    }
}

/// Applies a response and answers it once.
fn answer(index: &mut Index, outbox: &Outbox, response: DeltaDiscoveryResponse) -> Result<(), StreamError> {
    let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
    let Some(kind) = Kind::of(&type_url) else {
        let error = FieldError::new("", "type_url", format!("{type_url:?} was not asked for"));
        return outbox.send(acknowledgement(type_url, nonce, &[error]));
    };
    tracing::debug!(
        r#type = type_url,
        resources = response.resources.len(),
        removed = response.removed_resources.len(),
        "response"
    );
    let Applied { refused, unsubscribe } = index.apply(kind, response);
    for error in &refused {
        tracing::warn!(resource = error.resource, field = error.field, problem = error.problem, "resource refused");
    }
    outbox.send(acknowledgement(type_url, nonce, &refused))?;
    if unsubscribe.is_empty() {
        return Ok(());
    }
    outbox.send(DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_unsubscribe: unsubscribe,
        ..DeltaDiscoveryRequest::default()
    })
}

/// The first request of a type: who we are, and what we hold. On demand has no form of "nothing": everything is subscribed
/// and unsubscribed in one request.
fn first_request(settings: &Settings, index: &Index, kind: Kind) -> DeltaDiscoveryRequest {
    let wildcard = kind == Kind::Policies || settings.discovery == Discovery::Wildcard;
    let names = if wildcard { Vec::new() } else { vec![WILDCARD.to_owned()] };
    DeltaDiscoveryRequest {
        node: Some(node(&settings.node)),
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.clone(),
        resource_names_unsubscribe: names,
        initial_resource_versions: index.versions(kind),
        ..DeltaDiscoveryRequest::default()
    }
}

fn subscribe(names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: Kind::Addresses.type_url().to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}

fn acknowledgement(type_url: String, nonce: String, refused: &[FieldError]) -> DeltaDiscoveryRequest {
    let error_detail = (!refused.is_empty()).then(|| {
        let named = refused.iter().take(ERRORS_NAMED_MAX).map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let rest = refused.len().saturating_sub(ERRORS_NAMED_MAX);
        let message = if rest == 0 { named } else { format!("{named}\nand {rest} more") };
        Status { code: tonic::Code::InvalidArgument as i32, message }
    });
    DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail, ..DeltaDiscoveryRequest::default() }
}

fn node(node: &Node) -> core::Node {
    let ips = node.ips.iter().map(|ip| ip.to_canonical().to_string()).collect::<Vec<_>>();
    let first_ip = ips.first().map_or("", String::as_str);
    let (pod, namespace) = (&node.pod_name, &node.namespace);
    let instance_ips = ips.join(",");
    let fields = [
        ("NAME", pod),
        ("NAMESPACE", namespace),
        ("SERVICE_ACCOUNT", &node.service_account),
        ("INSTANCE_IPS", &instance_ips),
        ("NODE_NAME", &node.node_name),
        ("CLUSTER_ID", &node.cluster_id),
        ("NETWORK", &node.network),
    ];
    let text = |text: &String| Value { kind: Some(value::Kind::StringValue(text.clone())) };
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
    core::Node {
        id: format!("sidecar~{first_ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        cluster: String::new(),
        metadata: Some(Struct { fields: fields.map(|(name, value)| (name.to_owned(), text(value))).collect() }),
    }
}

/// Where requests wait for the connection.
struct Outbox {
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
}

impl Outbox {
    /// Does not wait: a controller that leaves so many requests unread has to be left.
    fn send(&self, request: DeltaDiscoveryRequest) -> Result<(), StreamError> {
        self.sender.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StreamError::Stalled,
            mpsc::error::TrySendError::Closed(_) => StreamError::Closed,
        })
    }
}

fn ended(status: &tonic::Status) -> StreamError {
    StreamError::Status { code: status.code(), reason: status_reason(status) }
}

/// Requests that may wait for the connection; one carries any number of names.
const REQUESTS_MAX: usize = 128;

/// Largest response. The first one of a wildcard subscription holds the whole mesh.
const RESPONSE_BYTES_MAX: usize = 200 << 20;

/// Refused resources that one acknowledgement names.
const ERRORS_NAMED_MAX: usize = 16;

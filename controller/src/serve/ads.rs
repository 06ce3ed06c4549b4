//! One delta stream: takes requests, and brings the client to the newest snapshot.
//!
//! A slow client misses intermediate snapshots and nothing else: there is no queue of changes, only the newest mesh and what
//! the client holds. A response that the client refused is not sent again until it says something else.

use super::{
    Shared, authenticate,
    nodes::{Joined, NodeStatus, Rejection, TypeStatus},
    snapshot::Snapshot,
    subscription::{Subscription, View},
    wire::DeltaResponse,
};
use crate::token::Caller;
use heddle_proto::{
    names::{ADDRESS_TYPE, AUTHORIZATION_TYPE},
    wire::envoy::service::discovery::v3::DeltaDiscoveryRequest,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Starts a stream. Its task ends with the client's requests, with the response being dropped, or when the server ends;
/// the response holds the other end of its channel, so the server waits for it.
pub(super) fn start(
    shared: Arc<Shared>,
    caller: Caller,
    requests: Streaming<DeltaDiscoveryRequest>,
) -> ReceiverStream<Result<DeltaResponse, Status>> {
    let (responses, received) = mpsc::channel(RESPONSES_MAX);
    tokio::spawn(async move {
        let mut ending = shared.ending.clone();
        let ended = tokio::select! {
            ended = serve(&shared, &caller, requests, &responses) => ended,
            () = responses.closed() => return,
            _ = ending.wait_for(|ending| *ending) => Err(Status::unavailable("the controller is ending; connect again")),
        };
        if let Err(status) = ended {
            // Whoever does not take its last word gets the end of the stream.
            let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, responses.send(Err(status))).await;
        }
    });
    ReceiverStream::new(received)
}

async fn serve(
    shared: &Arc<Shared>,
    caller: &Caller,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    responses: &mpsc::Sender<Result<DeltaResponse, Status>>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no request came"))??;
    let Some(first) = first else { return Ok(()) };
    let node = first.node.as_ref().ok_or_else(|| Status::invalid_argument("the first request must name the node"))?;
    let mut client = Client::new(shared, caller, &authenticate::claims(node, caller)?);
    let mut snapshots = shared.snapshots.clone();
    tracing::info!(node = client.id, "connected");

    let mut responses_due = client.request(first, &newest(&snapshots));
    loop {
        for response in responses_due {
            shared.metrics.pushes(&response.type_url).inc();
            // An error means that nobody reads the responses any more, which ends this task.
            if responses.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
        responses_due = tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => client.request(request, &newest(&snapshots)),
                Ok(None) => break,
                Err(status) => {
                    tracing::info!(node = client.id, reason = status.message(), "lost");
                    return Ok(());
                }
            },
            changed = snapshots.changed() => match changed {
                Ok(()) => {
                    let newest = snapshots.borrow_and_update().clone();
                    client.push(&newest)
                }
                Err(_) => break,
            },
        };
    }
    tracing::info!(node = client.id, "disconnected");
    Ok(())
}

/// A request is answered from the newest snapshot, and leaves it marked as unseen: what it does not ask for is still to be
/// pushed. If an acknowledgement marked it, the change would wait for the next one.
fn newest(snapshots: &watch::Receiver<Arc<Snapshot>>) -> Arc<Snapshot> {
    snapshots.borrow().clone()
}

/// What is known of the client of one stream.
struct Client {
    id: String,
    shared: Arc<Shared>,
    joined: Joined,
    addresses: Channel,
    policies: Channel,
    nonce: u64,
}

/// One type on one stream.
struct Channel {
    type_url: &'static str,
    subscription: Subscription,
    /// Responses that wait for their acknowledgement: nonce and revision.
    outstanding: VecDeque<(String, u64)>,
    /// The newest snapshot has not been looked at.
    behind: bool,
    status: TypeStatus,
}

impl Client {
    fn new(shared: &Arc<Shared>, caller: &Caller, claimed: &authenticate::Claimed) -> Self {
        let uid = format!("{}//Pod/{}/{}", shared.cluster_id, caller.namespace, claimed.pod);
        let policies = match claimed.shared_proxy {
            true => View::AllPolicies,
            false => View::PoliciesOf { uid, namespace: caller.namespace.clone() },
        };
        let status = NodeStatus {
            id: claimed.id.clone(),
            namespace: caller.namespace.clone(),
            service_account: caller.service_account.clone(),
            types: BTreeMap::new(),
        };
        Self {
            id: claimed.id.clone(),
            shared: shared.clone(),
            joined: shared.nodes.join(status),
            addresses: Channel::new(ADDRESS_TYPE, View::Addresses),
            policies: Channel::new(AUTHORIZATION_TYPE, policies),
            nonce: 0,
        }
    }

    /// Takes a request, and says what must be sent now.
    fn request(&mut self, request: DeltaDiscoveryRequest, snapshot: &Snapshot) -> Vec<DeltaResponse> {
        let channel = match request.type_url.as_str() {
            ADDRESS_TYPE => &mut self.addresses,
            AUTHORIZATION_TYPE => &mut self.policies,
            _ => return self.unknown_type(request),
        };
        if !request.response_nonce.is_empty() {
            let error = request.error_detail.as_ref().map(|error| error.message.as_str());
            if let Some(revision) = channel.acknowledge(&request.response_nonce, error)
                && let Some(reason) = error
            {
                let (type_url, shown) = (channel.type_url, printable(reason));
                tracing::warn!(
                    node = self.id,
                    r#type = type_url,
                    revision,
                    reason = shown,
                    "a node refused a response"
                );
                self.shared.metrics.nacks(type_url).inc();
            }
        }
        let asked = channel.subscription.request(
            &request.resource_names_subscribe,
            &request.resource_names_unsubscribe,
            &request.initial_resource_versions,
            snapshot,
        );
        if !asked {
            return self.advance(snapshot);
        }
        // Questions do not wait for acknowledgements of earlier answers, up to a bound. Removals of policies do: the
        // workload that a resuming client holds may list them until it has taken over the new one.
        channel.behind = true;
        let answer = match channel.type_url {
            _ if channel.outstanding.len() >= OUTSTANDING_MAX => None,
            AUTHORIZATION_TYPE => channel.additions(snapshot, &mut self.nonce),
            _ => channel.bring_to(snapshot, &mut self.nonce),
        };
        self.report();
        answer.into_iter().collect()
    }

    /// The snapshot changed.
    fn push(&mut self, snapshot: &Snapshot) -> Vec<DeltaResponse> {
        self.addresses.behind = true;
        self.policies.behind = true;
        self.advance(snapshot)
    }

    /// Brings the client to the snapshot where no acknowledgement is open. New policies go before the workloads that list
    /// them, and removed ones after: a listed policy that is missing would deny in between.
    fn advance(&mut self, snapshot: &Snapshot) -> Vec<DeltaResponse> {
        let mut responses = Vec::new();
        let ready = |channel: &Channel| channel.behind && channel.outstanding.is_empty();
        let policies_ready = ready(&self.policies);
        if policies_ready {
            responses.extend(self.policies.additions(snapshot, &mut self.nonce));
        }
        if ready(&self.addresses) {
            responses.extend(self.addresses.bring_to(snapshot, &mut self.nonce));
        }
        if policies_ready && !self.addresses.behind {
            responses.extend(self.policies.bring_to(snapshot, &mut self.nonce));
        }
        self.report();
        responses
    }

    fn report(&self) {
        for channel in [&self.addresses, &self.policies].into_iter().filter(|channel| channel.subscription.is_started())
        {
            let name = channel.type_url.rsplit('/').next().unwrap_or(channel.type_url);
            self.joined.update(name, &channel.status);
        }
    }

    /// A type that we have nothing of is answered with nothing, once, so that nobody waits for it.
    fn unknown_type(&mut self, request: DeltaDiscoveryRequest) -> Vec<DeltaResponse> {
        if !request.response_nonce.is_empty() {
            return Vec::new();
        }
        tracing::debug!(node = self.id, r#type = printable(&request.type_url), "asked for a type that is not served");
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        vec![DeltaResponse { type_url: request.type_url, nonce, ..DeltaResponse::default() }]
    }
}

impl Channel {
    fn new(type_url: &'static str, view: View) -> Self {
        Self {
            type_url,
            subscription: Subscription::new(view),
            outstanding: VecDeque::new(),
            behind: false,
            status: TypeStatus::default(),
        }
    }

    /// Takes an acknowledgement or refusal; `None` for a nonce that is not open.
    fn acknowledge(&mut self, nonce: &str, error: Option<&str>) -> Option<u64> {
        let at = self.outstanding.iter().position(|(open, _)| open == nonce)?;
        let (_, revision) = self.outstanding.remove(at)?;
        match error {
            Some(reason) => self.status.rejected = Some(Rejection { revision, reason: printable(reason) }),
            None if self.outstanding.is_empty() => self.status.acked = self.status.sent,
            None => {}
        }
        Some(revision)
    }

    /// What is new; what is gone stays due.
    fn additions(&mut self, snapshot: &Snapshot, nonce: &mut u64) -> Option<DeltaResponse> {
        self.respond(snapshot, false, nonce)
    }

    /// What is new and what is gone; from now on the client is at this snapshot.
    fn bring_to(&mut self, snapshot: &Snapshot, nonce: &mut u64) -> Option<DeltaResponse> {
        let response = self.respond(snapshot, true, nonce);
        self.behind = false;
        self.status.sent = snapshot.revision;
        if self.outstanding.is_empty() {
            self.status.acked = snapshot.revision;
        }
        response
    }

    fn respond(&mut self, snapshot: &Snapshot, removals: bool, nonce: &mut u64) -> Option<DeltaResponse> {
        let delta = self.subscription.delta(snapshot, removals)?;
        *nonce += 1;
        self.outstanding.push_back((nonce.to_string(), snapshot.revision));
        Some(DeltaResponse {
            system_version_info: snapshot.revision.to_string(),
            resources: delta.resources.iter().map(|resource| resource.encoded.clone()).collect(),
            type_url: self.type_url.to_owned(),
            nonce: nonce.to_string(),
            removed_resources: delta.removed,
        })
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).take(1024).collect()
}

/// Responses that wait for the connection.
const RESPONSES_MAX: usize = 4;

/// Unacknowledged responses of one type; further questions are answered after an acknowledgement.
const OUTSTANDING_MAX: usize = 32;

/// How long a new stream may say nothing.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to read why its stream ends.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

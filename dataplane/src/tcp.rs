//! Layer 4: pick an endpoint, reach it, carry the bytes.

use crate::{
    authorize::{End, Permit, Subject},
    connect::{ConnectError, Route},
    error::ConnectionError,
    listener::Accepted,
    outbound::Outbound,
    relay::{self, Meter, RelayLimits, Side},
    stream::Transport,
    telemetry::access_log::Entry,
    upstream::Lease,
};
use heddle_mesh::target::Target;
use tokio::net::TcpStream;

/// An upstream that was reached, and what must live as long as it is used.
#[derive(Debug)]
pub struct Dialled {
    /// Its bytes.
    pub transport: Transport,
    /// The right to use it.
    pub permit: Permit,
    /// Counts as load of the endpoint.
    pub lease: Option<Lease>,
}

/// Reaches what the target stands for. An endpoint that cannot be reached is replaced by another one, once: no byte was
/// sent, so that nothing happens twice.
///
/// # Errors
/// The last endpoint's.
pub async fn dial(cx: &Outbound, target: Target, log: &mut Entry) -> Result<Dialled, ConnectionError> {
    match target {
        Target::External(address) => {
            let permit = cx.admissions.hold(Subject::External(address));
            let transport = cx.connector.connect(Route::Plain(address), log).await?;
            Ok(Dialled { transport, permit, lease: None })
        }
        Target::Workload(endpoint) => {
            let lease = cx.upstreams.lease(endpoint);
            let transport = cx.connector.connect(Route::to(&lease.endpoint, &[]), log).await?;
            Ok(Dialled { transport, permit: cx.admissions.hold(Subject::Outbound), lease: Some(lease) })
        }
        Target::Service { service, endpoints, .. } => {
            let mut tried = Vec::new();
            loop {
                let lease = cx
                    .upstreams
                    .pick(&endpoints, &tried)
                    .ok_or_else(|| ConnectionError::NoneLeft(service.name.clone()))?;
                let result = cx.connector.connect(Route::to(&lease.endpoint, &service.identities), log).await;
                tried.push(lease.endpoint.address);
                log.workload = Some(lease.endpoint.workload.uid.clone());
                match result {
                    Err(error)
                        if error.another_endpoint_may_do() && tried.len() < ATTEMPTS_MAX.min(endpoints.len()) => {}
                    Err(error) => return Err(error.into()),
                    Ok(transport) => {
                        return Ok(Dialled {
                            transport,
                            permit: cx.admissions.hold(Subject::Outbound),
                            lease: Some(lease),
                        });
                    }
                }
            }
        }
        Target::Refused(refusal) => Err(refusal.into()),
        Target::Undiscovered(address) => Err(ConnectError::Unresolved(address).into()),
    }
}

/// Carries an accepted connection to its upstream.
///
/// # Errors
/// What ended it, if not both sides in order.
pub async fn carry(
    accepted: &mut Accepted,
    dialled: Dialled,
    limits: &RelayLimits,
    log: &mut Entry,
) -> Result<(), ConnectionError> {
    let Dialled { transport, permit, lease: _lease } = dialled;
    let Some(stream) = accepted.stream.take() else { return Ok(()) };
    relay_while_permitted(stream, transport, Side::Near, permit, limits, log).await
}

/// Relays until both sides are done, the relay fails, or the right to go on ends. `downstream` says which of the two the
/// connection came from.
///
/// # Errors
/// What ended it, if not both sides in order.
pub async fn relay_while_permitted(
    near: TcpStream,
    far: Transport,
    downstream: Side,
    mut permit: Permit,
    limits: &RelayLimits,
    log: &mut Entry,
) -> Result<(), ConnectionError> {
    let meter = Meter::default();
    let result = tokio::select! {
        // First: what was revoked while the upstream was dialled must not carry a byte.
        biased;
        end = permit.ended() => Err(end.into()),
        result = relay::relay(near, far, limits, &meter) => {
            result.map_err(|source| ConnectionError::Relay { source, downstream })
        }
    };
    let upstream = match downstream {
        Side::Near => Side::Far,
        Side::Far => Side::Near,
    };
    (log.bytes_sent, log.bytes_received) = match downstream {
        Side::Near => (meter.sent(), meter.received()),
        Side::Far => (meter.received(), meter.sent()),
    };
    (log.downstream, log.upstream) = (meter.take_report(downstream), meter.take_report(upstream));
    result
}

impl From<End> for ConnectionError {
    fn from(end: End) -> Self {
        match end {
            End::Revoked(denial) => Self::Revoked(denial),
            End::EgressDenied(address) => Self::Refused(heddle_mesh::target::Refusal::EgressDenied(address)),
            End::Drained => Self::Drained,
        }
    }
}

/// Endpoints of a service that one connection tries.
const ATTEMPTS_MAX: usize = 2;

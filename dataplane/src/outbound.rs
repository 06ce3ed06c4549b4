//! The way of a connection from the application into the mesh.

use crate::{
    authorize::Admissions,
    capture::{Capture, probe::Probes},
    connect::Connector,
    error::ConnectionError,
    listener::Accepted,
    relay::RelayLimits,
    tcp,
    telemetry::access_log::Entry,
    upstream::Upstreams,
    view::{NoWorkload, View},
};
use heddle_controller_client::Snapshots;
use heddle_init_abi::OUTBOUND_PORT;
use heddle_mesh::target::{self, Target};
use std::{net::SocketAddr, rc::Rc, time::Duration};

/// What an outbound connection works with; one a worker.
#[derive(Debug)]
pub struct Outbound {
    /// How connections were captured.
    pub capture: Capture,
    /// The worker's newest mesh.
    pub view: Rc<View>,
    /// Asks the controller about addresses that nobody asked for yet.
    pub snapshots: Snapshots,
    /// Longest wait for that answer.
    pub discovery_timeout: Duration,
    /// The load of endpoints.
    pub upstreams: Rc<Upstreams>,
    /// Reaches endpoints.
    pub connector: Connector,
    /// Connections that may have to end.
    pub admissions: Rc<Admissions>,
    /// Recognises the proxy's own capture probe.
    pub probes: Probes,
    /// Bounds of the relay.
    pub relay: RelayLimits,
}

/// Serves one captured connection to its end. What is left in `accepted` after an error is reset by the caller.
///
/// # Errors
/// Why it was refused, or what ended it.
pub async fn serve(cx: &Outbound, accepted: &mut Accepted, log: &mut Entry) -> Result<(), ConnectionError> {
    let destination = cx.capture.original_destination(accepted, OUTBOUND_PORT)?;
    log.destination = destination;

    let target = resolve(cx, destination).await?;
    log.target(&target);

    let dialled = tcp::dial(cx, target, log).await?;
    tcp::carry(accepted, dialled, &cx.relay, log).await
}

/// What the destination means, asking the controller where it has not said so yet.
async fn resolve(cx: &Outbound, destination: SocketAddr) -> Result<Target, ConnectionError> {
    let workload = cx.view.workload()?;
    let mut target = target::resolve(&cx.view.mesh(), destination, &workload);
    if let Target::Undiscovered(address) = target {
        tokio::time::timeout(cx.discovery_timeout, cx.snapshots.discover(address))
            .await
            .map_err(|_| ConnectionError::DiscoveryTimeout(address, cx.discovery_timeout))??;
        // The worker's view follows the snapshots a moment later; the answer is in the snapshot already. So may be another
        // egress policy: the workload is taken anew, too.
        let (mesh, workload) = (cx.snapshots.current(), cx.snapshots.own_workload().ok_or(NoWorkload)?);
        target = target::resolve(&mesh, destination, &workload);
    }
    match target {
        Target::Refused(refusal) => Err(refusal.into()),
        // Forgotten between answer and look: the bound on remembered absences. The client may try again.
        Target::Undiscovered(address) => Err(ConnectionError::DiscoveryTimeout(address, cx.discovery_timeout)),
        known @ (Target::Service { .. } | Target::Workload(_) | Target::External(_)) => Ok(known),
    }
}

//! The single report of a connection, written when it ends, whatever happened to it.
//!
//! Lines go to a thread of their own: a reader of our output that stalls costs log lines, which are counted, and never
//! a connection.

mod line;
mod writer;

pub use writer::AccessLog;

use super::{
    Direction, Security,
    metrics::Metrics,
    tcp::{TcpReport, TcpSide},
};
use crate::error::Flag;
use heddle_mesh::{identity::SpiffeId, policy::PolicyName, service::ServiceName, target::Target};
use line::Line;
use std::{net::SocketAddr, sync::Arc, time::Instant};

/// Everything about one connection that its log line and its metrics say.
#[derive(Debug)]
pub struct Entry {
    /// Which way it goes.
    pub direction: Direction,
    /// Why it ended; [`Flag::Ok`] until something else is known.
    pub flag: Flag,
    /// The error behind the flag, with the way out.
    pub error: Option<String>,
    /// Who connected.
    pub source: SocketAddr,
    /// What was dialled.
    pub destination: SocketAddr,
    /// The service that stands for the destination.
    pub service: Option<ServiceName>,
    /// Unique name of the workload at the other end of the outbound hop, or of our own for inbound ones.
    pub workload: Option<Arc<str>>,
    /// Where the bytes went.
    pub endpoint: Option<SocketAddr>,
    /// Who the other side proved to be.
    pub peer: Option<SpiffeId>,
    /// Whether the hop between the proxies was mutual TLS.
    pub security: Security,
    /// The policy that decided.
    pub policy: Option<PolicyName>,
    /// Dry-run policies that would have denied it.
    pub dry_run: Vec<PolicyName>,
    /// Bytes from downstream to upstream.
    pub bytes_sent: u64,
    /// Bytes from upstream to downstream.
    pub bytes_received: u64,
    /// What the kernel said of the connection with downstream when it ended. Boxed: it is not there before.
    pub downstream: Option<Box<TcpReport>>,
    /// What it said of the connection with upstream.
    pub upstream: Option<Box<TcpReport>>,
    started: Instant,
    sink: Sink,
}

/// Where entries go: the log, and the metrics that count the same things.
#[derive(Debug, Clone)]
pub struct Sink {
    /// Counts what ended.
    pub metrics: Arc<Metrics>,
    /// Writes it down; `None` when the access log is off.
    pub log: Option<AccessLog>,
}

impl Entry {
    /// Starts the report of a connection that was accepted just now.
    pub fn new(sink: &Sink, direction: Direction, source: SocketAddr, destination: SocketAddr, at: Instant) -> Self {
        sink.metrics.opened(direction);
        Self {
            direction,
            flag: Flag::Ok,
            error: None,
            source,
            destination,
            service: None,
            workload: None,
            endpoint: None,
            peer: None,
            security: Security::Plaintext,
            policy: None,
            dry_run: Vec::new(),
            bytes_sent: 0,
            bytes_received: 0,
            downstream: None,
            upstream: None,
            started: at,
            sink: sink.clone(),
        }
    }

    /// Notes what the destination means.
    pub fn target(&mut self, target: &Target) {
        match target {
            Target::Service { service, .. } => self.service = Some(service.name.clone()),
            Target::Workload(endpoint) => self.workload = Some(endpoint.workload.uid.clone()),
            Target::External(_) | Target::Undiscovered(_) | Target::Refused(_) => {}
        }
    }

    /// Notes why it ended.
    pub fn end(&mut self, flag: Flag, error: &dyn std::error::Error) {
        self.flag = flag;
        self.error = Some(chain(error));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sink.metrics.dry_run_denied(self.dry_run.len());
        self.sink.metrics.closed(self.direction, self.flag, self.bytes_sent, self.bytes_received);
        for (side, report) in [(TcpSide::Downstream, &self.downstream), (TcpSide::Upstream, &self.upstream)] {
            if let Some(report) = report {
                self.sink.metrics.tcp(self.direction, side, &report.uncounted);
            }
        }
        if let Some(log) = &self.sink.log
            && !log.write(&Line::of(self))
        {
            self.sink.metrics.access_log_dropped();
        }
    }
}

/// An error with its sources, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

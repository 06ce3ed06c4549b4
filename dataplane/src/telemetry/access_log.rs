//! The single report of a connection, written when it ends, whatever happened to it.
//!
//! Lines go to a thread of their own: a reader of our output that stalls costs log lines, which are counted, and never
//! a connection.

use super::{Direction, Security, metrics::Metrics};
use crate::error::Flag;
use heddle_mesh::{identity::SpiffeId, policy::PolicyName, service::ServiceName, target::Target};
use serde::Serialize;
use std::{
    io::{self, BufWriter, Write},
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

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
        if let Some(log) = &self.sink.log
            && !log.write(self)
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

/// The writer of entries: a bounded queue and a thread that empties it into standard output, a JSON object a line.
#[derive(Debug, Clone)]
pub struct AccessLog(SyncSender<Vec<u8>>);

impl AccessLog {
    /// Starts the writer thread; it ends when the last clone is dropped and the queue is empty.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (sender, receiver) = sync_channel(QUEUE_ENTRIES_MAX);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&receiver))?;
        Ok((Self(sender), thread))
    }

    /// Queues an entry; `false` when the queue is full and the entry is lost.
    fn write(&self, entry: &Entry) -> bool {
        match serde_json::to_vec(&Line::of(entry)) {
            Ok(mut line) => {
                line.push(b'\n');
                self.0.try_send(line).is_ok()
            }
            Err(_) => false,
        }
    }
}

fn write_all(receiver: &Receiver<Vec<u8>>) {
    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout());
    while let Ok(line) = receiver.recv() {
        // Whatever else is ready goes out in the same write.
        let written = out.write_all(&line).and_then(|()| receiver.try_iter().try_for_each(|line| out.write_all(&line)));
        if written.and_then(|()| out.flush()).is_err() {
            // Standard output is gone. Entries are still taken from the queue, so that nobody waits for it.
            receiver.iter().for_each(drop);
            return;
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    direction: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    source: SocketAddr,
    destination: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    security: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dry_run_denied_by: Vec<String>,
    bytes_sent: u64,
    bytes_received: u64,
    duration_ms: f64,
}

impl<'a> Line<'a> {
    fn of(entry: &'a Entry) -> Self {
        let elapsed = entry.started.elapsed();
        Self {
            time: humantime::format_rfc3339_micros(SystemTime::now() - elapsed).to_string(),
            direction: entry.direction.as_str(),
            reason: entry.flag.code(),
            error: entry.error.as_deref(),
            source: entry.source,
            destination: entry.destination,
            service: entry.service.as_ref().map(ToString::to_string),
            workload: entry.workload.as_deref(),
            endpoint: entry.endpoint,
            security: entry.security.as_str(),
            peer: entry.peer.as_ref().map(ToString::to_string),
            policy: entry.policy.as_ref().map(ToString::to_string),
            dry_run_denied_by: entry.dry_run.iter().map(ToString::to_string).collect(),
            bytes_sent: entry.bytes_sent,
            bytes_received: entry.bytes_received,
            duration_ms: milliseconds(elapsed),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Entries that may wait for the writer; more are dropped and counted.
const QUEUE_ENTRIES_MAX: usize = 8192;
/// Most that goes out in one write.
const WRITE_BYTES: usize = 64 * 1024;

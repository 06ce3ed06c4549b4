//! What can go wrong between proxy and controller, one enum a question.

use heddle_proto::FieldError;
use std::{error::Error, net::IpAddr, path::PathBuf};

/// Why the controller could not be reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// A file that each connection needs could not be read.
    #[error("{what} {path}: {reason}")]
    File {
        /// What the file is.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why it cannot be used, and what is expected.
        reason: String,
    },
    /// The address is no `host:port`.
    #[error("controller address {0:?}: expected <host>:<port>")]
    Address(String),
    /// Name resolution, dial or TLS failed.
    #[error("controller {address} (as {server_name}) cannot be reached: {reason}")]
    Transport {
        /// The address.
        address: String,
        /// The name that its certificate must have.
        server_name: String,
        /// The chain of causes.
        reason: String,
    },
    /// It took too long.
    #[error("controller {address} did not answer within the connect timeout of {seconds} s")]
    Timeout {
        /// The address.
        address: String,
        /// The time that was allowed.
        seconds: f32,
    },
}

/// Why a discovery stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// It never began.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The controller ended it with an error, or the connection broke.
    #[error("the controller ended the stream: {code:?}: {reason}")]
    Status {
        /// The gRPC code.
        code: tonic::Code,
        /// Its message and causes.
        reason: String,
    },
    /// The controller ended it without an error.
    #[error("the controller closed the stream")]
    Closed,
    /// The controller does not read what we send.
    #[error("the controller stopped reading the stream")]
    Stalled,
}

/// Why a proxy must not serve yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The controller has not sent everything once.
    #[error("the controller has not sent {missing} yet{}", because(.last_error))]
    Unsynced {
        /// What is missing.
        missing: &'static str,
        /// Why the last stream ended, if one did.
        last_error: Option<String>,
    },
    /// The controller does not know this pod.
    #[error("the controller does not know a workload with the addresses of this pod ({addresses}){}", because(.last_error))]
    OwnWorkloadUnknown {
        /// The addresses.
        addresses: String,
        /// Why the last stream ended, if one did.
        last_error: Option<String>,
    },
}

fn because(error: &Option<String>) -> String {
    error.as_ref().map(|error| format!("; last error: {error}")).unwrap_or_default()
}

/// Why the controller could not be asked about an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// There is no stream.
    #[error("no connection to the controller, so address {0} cannot be looked up")]
    NotConnected(IpAddr),
    /// Too many questions are open.
    #[error("{max} lookups are waiting for the controller, so address {address} cannot be looked up")]
    TooMany {
        /// The address.
        address: IpAddr,
        /// The bound.
        max: usize,
    },
    /// The answer could not be used.
    #[error("the controller's answer about {address} was refused: {reason}")]
    Refused {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        reason: FieldError,
    },
}

/// Why no certificate was signed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SignError {
    /// The controller could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It refused.
    #[error("the controller refused to sign: {code:?}: {reason}; its log has the details")]
    Refused {
        /// The gRPC code.
        code: tonic::Code,
        /// Its message and causes.
        reason: String,
    },
    /// It did not answer.
    #[error("the controller did not sign within {seconds} s")]
    Timeout {
        /// The time that was allowed.
        seconds: u64,
    },
    /// The answer is no certificate chain.
    #[error("the controller's certificate chain cannot be used: {0}")]
    Chain(String),
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// A gRPC status on one line.
pub(crate) fn status_reason(status: &tonic::Status) -> String {
    let message: String = status.message().chars().take(1024).collect();
    match Error::source(status) {
        Some(cause) => format!("{message}: {}", chain(cause)),
        None => message,
    }
}

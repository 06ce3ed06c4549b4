//! The controller as a proxy sees it: a mesh that is kept current, and a signer of certificates.
//!
//! [`connect`] gives two halves. [`Client`] is one future that holds the discovery stream; whoever drops it stops it.
//! [`Snapshots`] is what everybody else holds: the newest mesh, a signal when it changes, whether it is complete enough to
//! serve, and a question about one address. [`CertificateClient`] is apart, for the identity.
//!
//! Invariants: `index` is the only writer of a mesh, and publishes a response as a whole. What was good once is served
//! until the controller replaces or removes it, however long the controller is away. A response is answered exactly once.
#![forbid(unsafe_code)]

mod ads;
mod asks;
mod certificate;
mod channel;
mod error;
mod index;
mod reconnect;
mod settings;
mod snapshots;

pub use asks::ASKS_MAX;
pub use certificate::{CertificateClient, SIGN_TIMEOUT, Signed};
pub use error::{ConnectError, DiscoverError, NotReady, SignError};
pub use reconnect::Client;
pub use settings::{Discovery, Keepalive, Node, Settings};
pub use snapshots::{Publisher, Snapshots, Status};

/// Prepares the discovery of a mesh. Nothing happens before [`Client::run`] is polled.
pub fn connect(settings: Settings) -> (Snapshots, Client) {
    let (publisher, snapshots) = Publisher::new(&settings.node);
    (snapshots, Client::new(settings, publisher))
}

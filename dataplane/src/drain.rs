//! "Stop soon" and "stop now": how the end of the process reaches every listener and connection.

use tokio_util::sync::CancellationToken;

/// The two stages of a drain. Each worker has a child of its own, so that waiting takes no lock of another worker.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    soon: CancellationToken,
    now: CancellationToken,
}

impl Drain {
    /// One that ends when this one does.
    pub fn child(&self) -> Self {
        Self { soon: self.soon.child_token(), now: self.now.child_token() }
    }

    /// Asks everything to finish: no new inbound connection, and carriers are told to go elsewhere.
    pub fn start(&self) {
        self.soon.cancel();
    }

    /// Ends what has not finished.
    pub fn cut(&self) {
        self.soon.cancel();
        self.now.cancel();
    }

    /// Resolves when the drain starts. Cancel safe.
    pub async fn soon(&self) {
        self.soon.cancelled().await;
    }

    /// Resolves when what is left must end. Cancel safe.
    pub async fn now(&self) {
        self.now.cancelled().await;
    }

    /// Whether the drain has started.
    pub fn started(&self) -> bool {
        self.soon.is_cancelled()
    }

    /// The first stage as a token, for code that knows nothing of the second.
    pub fn soon_token(&self) -> &CancellationToken {
        &self.soon
    }

    /// The second stage as a token.
    pub fn now_token(&self) -> &CancellationToken {
        &self.now
    }
}

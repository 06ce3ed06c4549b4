//! Questions about addresses that wait for the controller, shared by those who ask the same.

use crate::error::DiscoverError;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, broadcast};

/// The open questions.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    open: Mutex<Open>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Open {
    connected: bool,
    waiting: HashMap<IpAddr, Ask>,
}

#[derive(Debug)]
struct Ask {
    answer: broadcast::Sender<Answer>,
    sent: bool,
}

type Answer = Result<(), DiscoverError>;

impl Asks {
    /// Joins the question about `address`, or opens it.
    ///
    /// # Errors
    /// No stream, or too many open questions.
    pub(crate) fn join(&self, address: IpAddr) -> Result<broadcast::Receiver<Answer>, DiscoverError> {
        let mut open = self.lock();
        if !open.connected {
            return Err(DiscoverError::NotConnected(address));
        }
        if let Some(ask) = open.waiting.get(&address) {
            return Ok(ask.answer.subscribe());
        }
        if open.waiting.len() >= ASKS_MAX {
            // Whoever gave up waiting need not be answered.
            open.waiting.retain(|_, ask| ask.answer.receiver_count() > 0);
        }
        if open.waiting.len() >= ASKS_MAX {
            return Err(DiscoverError::TooMany { address, max: ASKS_MAX });
        }
        let (answer, receiver) = broadcast::channel(1);
        open.waiting.insert(address, Ask { answer, sent: false });
        self.asked.notify_one();
        Ok(receiver)
    }

    /// Resolves when there may be questions to send. Cancel safe.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The questions that were not sent yet; they count as sent from now on.
    pub(crate) fn take_unsent(&self) -> Vec<IpAddr> {
        let mut open = self.lock();
        let unsent = open.waiting.iter_mut().filter(|(_, ask)| !ask.sent);
        unsent
            .map(|(address, ask)| {
                ask.sent = true;
                *address
            })
            .collect()
    }

    /// Whether somebody asked about `address`.
    pub(crate) fn is_open(&self, address: IpAddr) -> bool {
        self.lock().waiting.contains_key(&address)
    }

    /// Answers every question that `answer` has an answer for. The mesh that holds it must be published before.
    pub(crate) fn resolve(&self, answer: impl Fn(IpAddr) -> Option<Answer>) {
        self.lock().waiting.retain(|address, ask| match answer(*address) {
            Some(answer) => {
                // Nobody listens when everybody gave up.
                let _ = ask.answer.send(answer);
                false
            }
            None => true,
        });
    }

    /// Questions are taken from now on, until what is returned is dropped; then the open ones fail.
    pub(crate) fn connected(&self) -> Connected<'_> {
        self.lock().connected = true;
        Connected { asks: self }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it holds the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While this lives, questions can be asked.
#[derive(Debug)]
pub(crate) struct Connected<'a> {
    asks: &'a Asks,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let mut open = self.asks.lock();
        open.connected = false;
        for (address, ask) in open.waiting.drain() {
            let _ = ask.answer.send(Err(DiscoverError::NotConnected(address)));
        }
    }
}

/// How many addresses may wait for an answer at once.
pub const ASKS_MAX: usize = 1024;

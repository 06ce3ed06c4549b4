//! Whether the pod may be given traffic: four conditions, each kept by its owner, each with its reason when it does not hold.
//!
//! Invariant: ready means that all four hold. A condition that its owner has not set yet does not hold.

use std::fmt;
use tokio::sync::watch;

/// One condition of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The proxy holds a valid certificate. Kept by the source of certificates.
    Identity,
    /// The controller has said which workload this is, and which policies apply. Kept by whoever follows the mesh.
    Config,
    /// The pod's connections come to the proxy. Kept by the capture probe.
    Capture,
    /// The proxy is not being shut down. Kept by the drain.
    Draining,
}

impl Condition {
    /// All, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Identity, Self::Config, Self::Capture, Self::Draining];

    /// As the readiness page and the log show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Config => "config",
            Self::Capture => "capture",
            Self::Draining => "draining",
        }
    }
}

/// A handle on the conditions; clones share them.
#[derive(Debug, Clone)]
pub struct Readiness(watch::Sender<[Result<(), String>; Condition::ALL.len()]>);

impl Readiness {
    /// The condition "identity": holds, or the reason why not.
    pub fn identity(&self, state: Result<(), String>) {
        self.set(Condition::Identity, state);
    }

    /// The condition "config": holds, or the reason why not.
    pub fn config(&self, state: Result<(), String>) {
        self.set(Condition::Config, state);
    }

    /// The condition "capture": holds, or the reason why not.
    pub fn capture(&self, state: Result<(), String>) {
        self.set(Condition::Capture, state);
    }

    /// The drain has begun: never ready again.
    pub fn draining(&self) {
        self.set(Condition::Draining, Err("the proxy is being shut down".to_owned()));
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().iter().all(Result::is_ok)
    }

    /// The conditions that do not hold, with their reasons; empty when ready.
    pub fn reasons(&self) -> Vec<NotReady> {
        let states = self.0.borrow();
        let each = Condition::ALL.iter().zip(states.iter());
        each.filter_map(|(condition, state)| {
            state.as_ref().err().map(|reason| NotReady { condition: *condition, reason: reason.clone() })
        })
        .collect()
    }

    fn set(&self, condition: Condition, state: Result<(), String>) {
        let index = condition as usize;
        let changed = self.0.send_if_modified(|states| {
            let changed = states[index] != state;
            states[index].clone_from(&state);
            changed
        });
        match (changed, state) {
            (false, _) => {}
            (true, Ok(())) => {
                tracing::info!(condition = condition.as_str(), ready = self.is_ready(), "condition holds");
            }
            (true, Err(reason)) => tracing::warn!(condition = condition.as_str(), reason, "not ready"),
        }
    }
}

impl Default for Readiness {
    /// Everything but the drain is still to be proven.
    fn default() -> Self {
        let states = Condition::ALL.map(|condition| match condition {
            Condition::Identity => Err("no certificate yet".to_owned()),
            Condition::Config => Err("nothing heard from the controller yet".to_owned()),
            Condition::Capture => Err("not checked yet".to_owned()),
            Condition::Draining => Ok(()),
        });
        Self(watch::Sender::new(states))
    }
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// Which one.
    pub condition: Condition,
    /// Why.
    pub reason: String,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.condition.as_str(), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_every_condition_holds_and_never_again_once_it_drains() {
        let readiness = Readiness::default();
        assert_eq!(readiness.reasons().len(), 3);
        readiness.identity(Ok(()));
        readiness.config(Ok(()));
        assert_eq!(readiness.reasons()[0].to_string(), "capture: not checked yet");
        readiness.capture(Ok(()));
        assert!(readiness.is_ready());
        readiness.draining();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.reasons()[0].condition, Condition::Draining);
    }
}

//! `heddle-init agent`: on every node, sees that captured pods stay captured, captures those that started too early, and
//! sweeps what dead ones left.
//!
//! One thread looks at one pod after the other. What is wrong with one is told, once, and does not stop the others.

mod late;
pub mod options;
mod round;

use crate::{
    config::ConfigError,
    install::{self, Installer},
    wait::{WaitError, Waiter},
};
use options::AgentArgs;
use round::Round;
use std::time::Instant;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The options are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot wait for anything.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the options are wrong, or nothing can be waited for. What happens later is told and tried again.
pub fn run(args: &AgentArgs) -> Result<(), AgentError> {
    let mut round = Round::new(args, args.node.settings()?);
    let mut waiter = Waiter::new()?;
    let mut installer = None;
    if args.install {
        installer = Some((Installer::new(&args.places, args.node.plugin()?), String::new()));
        install::watch(&mut waiter, &args.places)?;
    }
    println!(
        "heddle-init: looking after the pods in {} every {:?}",
        args.node.state_directory.display(),
        args.interval
    );
    let mut next = Instant::now();
    loop {
        let mut has_changed = false;
        if let Some((installer, last)) = &mut installer {
            has_changed = install::attempt(installer, last);
        }
        if next <= Instant::now() {
            next = Instant::now() + args.interval;
            round.run();
        }
        // Somebody who writes whenever we do would otherwise keep a core busy.
        let is_on = !has_changed || waiter.pause(install::AFTER_CHANGE);
        if !is_on || !waiter.changed_or(next.saturating_duration_since(Instant::now())) {
            println!("heddle-init: {}; ending, capture stays as it is", round.counters);
            return Ok(());
        }
    }
}

//! What the commands, the CNI plugin and the agent do with a pod's capture: plan it, put it in force, read it back, undo it.
//!
//! Every function acts on the network namespace that the calling thread is in.

use crate::{
    apply::{self, ApplyError, StepError},
    config::{Args, Config, ConfigError},
    ebpf::Place,
    kernel::{Kernel, KernelError},
    plan::Plan,
    rights::{self, RightsError},
    verify,
};

/// Why a pod's capture is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The options are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nothing can be planned without these facts.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A capability is missing, so nothing was tried.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// The plan is not in force, or not out of it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// What is in force is unknown.
    #[error("cannot read back what is in force")]
    ReadBack(#[from] StepError),
    /// Somebody else works on the same things.
    #[error("the plan was carried out, but something changed it at once: {}", .0.join("; "))]
    Changed(Vec<String>),
}

/// The plan for these options on this kernel. Needs no rights and changes nothing.
///
/// # Errors
/// Every mistake in the options, or that /proc is not there.
pub fn plan(args: &Args) -> Result<Plan, CaptureError> {
    let config = Config::new(args)?;
    let kernel = Kernel::read(&config.inbound.interfaces)?;
    Ok(Plan::new(&config, &kernel, Place::find(&config)))
}

/// Puts the plan in force and reads it back. May be repeated at any time: connections go on.
///
/// # Errors
/// The step that failed; the steps before it are then undone.
pub fn apply(plan: &Plan) -> Result<(), CaptureError> {
    rights::require(plan.programs().is_some())?;
    apply::apply(plan)?;
    let differences = verify::differences(plan)?;
    if differences.is_empty() { Ok(()) } else { Err(CaptureError::Changed(differences)) }
}

/// How what is in force differs from the plan: one sentence each, none when it is the same.
///
/// # Errors
/// When that cannot be told.
pub fn differences(plan: &Plan) -> Result<Vec<String>, CaptureError> {
    rights::require(plan.programs().is_some())?;
    Ok(verify::differences(plan)?)
}

/// Takes everything of the plan away, whether or not it is there. May be repeated.
///
/// # Errors
/// What could not be removed.
pub fn undo(plan: &Plan) -> Result<(), CaptureError> {
    rights::require(plan.programs().is_some())?;
    Ok(apply::undo(plan)?)
}

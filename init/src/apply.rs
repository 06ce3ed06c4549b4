//! Carries the plan's steps out, and back.

use crate::{
    ebpf::attach::{self, EbpfError},
    netlink::{
        batch,
        message::{Done, NetlinkError},
        routing,
    },
    plan::{Flavour, Plan, Step, table::Family},
    report::chain,
};

/// Why the plan is not in force, or not out of it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A step failed. The steps before it that changed something were undone.
    #[error("cannot do step `{step}`{}", leftovers(.left))]
    Step {
        /// The step.
        step: String,
        /// Why.
        source: Box<StepError>,
        /// What could not be undone.
        left: Vec<StepError>,
    },
    /// Steps could not be undone. The others were.
    #[error("cannot undo everything: {}", list(.0))]
    Undo(Vec<StepError>),
}

/// Why a step could not be done, undone or read back.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Rules and routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Programs.
    #[error(transparent)]
    Ebpf(#[from] EbpfError),
}

/// Carries out every step that this kernel takes. What is there already stays, and the table is replaced as a whole.
///
/// # Errors
/// The first step that fails; then this call has changed nothing.
pub fn apply(plan: &Plan) -> Result<(), ApplyError> {
    let mut changed = Vec::new();
    for step in plan.steps_here() {
        match carry_out(step) {
            Ok(Done::Now) => changed.push(step),
            Ok(Done::Before) => {}
            Err(source) => {
                let left = changed.into_iter().rev().filter_map(|step| take_back(step).err()).collect();
                return Err(ApplyError::Step { step: step.to_string(), source: Box::new(source), left });
            }
        }
    }
    Ok(())
}

/// Undoes every step, in reverse order, whether or not it was done.
///
/// # Errors
/// All steps that could not be undone.
pub fn undo(plan: &Plan) -> Result<(), ApplyError> {
    let mut left: Vec<_> = plan.steps.iter().rev().filter_map(|step| take_back(step).err()).collect();
    // Whatever mode the plan was made for, the other may have been in force.
    if plan.programs().is_none() {
        left.extend(attach::undo(&plan.place).err().map(StepError::from));
    }
    if plan.flavour == Flavour::Programs {
        let rules = Family::BOTH.into_iter().flat_map(|family| [Step::Rule(family), Step::Route(family)]);
        left.extend(rules.filter_map(|step| take_back(&step).err()));
        left.extend(batch::remove().err().map(StepError::from));
    }
    if left.is_empty() { Ok(()) } else { Err(ApplyError::Undo(left)) }
}

fn carry_out(step: &Step) -> Result<Done, StepError> {
    Ok(match step {
        Step::Route(family) => routing::add_route(*family)?,
        Step::Rule(family) => routing::add_rule(*family)?,
        Step::Table(table) => batch::replace(table).map(|()| Done::Now)?,
        Step::Programs(programs) => attach::apply(programs)?,
    })
}

fn take_back(step: &Step) -> Result<(), StepError> {
    match step {
        Step::Route(family) => routing::remove_route(*family).map(|_| ())?,
        Step::Rule(family) => routing::remove_rule(*family).map(|_| ())?,
        Step::Table(_) => batch::remove()?,
        Step::Programs(programs) => attach::undo(&programs.place)?,
    }
    Ok(())
}

fn leftovers(left: &[StepError]) -> String {
    if left.is_empty() { String::new() } else { format!(", nor take back what was done before it ({})", list(left)) }
}

fn list(errors: &[StepError]) -> String {
    let sentences: Vec<_> = errors.iter().map(|error| chain(error)).collect();
    sentences.join("; ")
}

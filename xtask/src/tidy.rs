//! `cargo xtask tidy`: the rules of the source tree that no compiler checks.
//!
//! Who may know whom, between crates and inside the dataplane; what a file begins with and how long it may grow. The
//! tables are in the files below, each rule with a test that shows it failing. `docs/architecture.md` draws them.

mod arrows;
mod files;
mod floors;
mod reasons;
mod source;

use crate::process;
use anyhow::{Result, bail};
use std::fmt;

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// The file, relative to the workspace.
    path: String,
    /// The line in it, from 1; 0 where the whole file is meant.
    line: usize,
    /// The rule, and the way out.
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(formatter, "{}: {}", self.path, self.what),
            line => write!(formatter, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Checks the whole tree; prints every problem and a report of sizes.
pub(crate) fn run() -> Result<()> {
    let sources = source::read(&process::root())?;
    let mut problems = arrows::check(&process::metadata()?);
    problems.extend(floors::check(&sources));
    problems.extend(files::check(&sources));
    problems.extend(reasons::check(&sources));
    problems.sort();
    for problem in &problems {
        println!("{problem}");
    }
    println!("{}", files::report(&sources));
    if !problems.is_empty() {
        bail!("{} problem(s) in the source tree, each named above", problems.len());
    }
    Ok(())
}

//! What is wrong with a manifest, said so that its author can mend it: file, line, object, field, problem and way out.

use std::{fmt, path::Path, sync::Arc};

/// One finding about one field of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// How bad it is.
    pub severity: Severity,
    /// Where it stands.
    pub place: Place,
    /// Which object: `Pod shop/web`; empty when a file could not be read far enough to know.
    pub object: String,
    /// The field, as a path: `spec.ports[0].targetPort`; empty when it is about the whole object.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing: something is ignored on purpose.
    Note,
    /// Probably not what was meant, but it has a defined meaning.
    Warning,
    /// Wrong. `check` exits non-zero.
    Mistake,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named to us.
    pub file: Arc<Path>,
    /// The line, counted from 1; 0 for the file as a whole.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl fmt::Display for Condition {
    /// `FILE:LINE: KIND NAME: FIELD: what is wrong; way out`, on one line whatever the manifest holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}: ", self.place);
        for part in [&self.object, &self.field].into_iter().filter(|part| !part.is_empty()) {
            text.push_str(part);
            text.push_str(": ");
        }
        match self.severity {
            Severity::Note => text.push_str("note: "),
            Severity::Warning => text.push_str("warning: "),
            Severity::Mistake => {}
        }
        text.push_str(&self.problem);
        if !self.remedy.is_empty() {
            text.push_str("; ");
            text.push_str(&self.remedy);
        }
        for part in text.chars() {
            match part.is_control() {
                true => f.write_str(" ")?,
                false => write!(f, "{part}")?,
            }
        }
        Ok(())
    }
}

/// Cuts a text of unknown origin for a message, and quotes it.
pub fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(QUOTED_CHARS_MAX).collect();
    match chars.next() {
        Some(_) => format!("{start:?}..."),
        None => format!("{start:?}"),
    }
}

const QUOTED_CHARS_MAX: usize = 80;

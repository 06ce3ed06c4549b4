//! What is wrong with a message: which resource, which field, why, and what to send instead.

/// A field of a resource that cannot be taken as it is. Its text goes into the negative acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {problem}")]
pub struct FieldError {
    /// Name of the resource, cut to [`NAME_CHARS_MAX`] characters; `(unnamed)` when it has none.
    pub resource: String,
    /// Path of the field, such as `rules[0].clauses[1].matches[0].source_ips[2].length`.
    pub field: String,
    /// What is wrong, and what is expected.
    pub problem: String,
}

impl FieldError {
    /// Describes one problem.
    pub fn new(resource: &str, field: impl Into<String>, problem: impl ToString) -> Self {
        let resource = match resource {
            "" => "(unnamed)".to_owned(),
            name => name.chars().take(NAME_CHARS_MAX).collect(),
        };
        Self { resource, field: field.into(), problem: problem.to_string() }
    }
}

/// Longest resource name in an error, in characters, so that a hostile one cannot fill the log.
pub const NAME_CHARS_MAX: usize = 256;

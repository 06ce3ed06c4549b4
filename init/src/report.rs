//! Errors as one sentence each, where several are reported together.

use std::error::Error;

/// An error with its causes, from the outermost in.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

//! Errors as the CNI specification wants them: one JSON object on standard output.

use serde::Serialize;

/// What a command of the plugin failed with.
#[derive(Debug)]
pub struct CniError {
    /// Which of the kinds.
    pub code: Code,
    /// A few words.
    pub message: String,
    /// The whole story: what, where, and the way out.
    pub details: String,
}

/// The well-known codes (CNI specification 1.1.0, section 5, "Error") that this plugin uses, and its own from 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The runtime speaks a version that this plugin does not.
    IncompatibleVersion = 1,
    /// A key in the configuration that nobody knows.
    UnsupportedField = 2,
    /// A variable is missing or wrong.
    InvalidEnvironment = 4,
    /// Something cannot be read or written.
    Io = 5,
    /// Something is not JSON, or not of the type that it should be.
    Decoding = 6,
    /// The configuration, or an annotation that overrides it, says something that cannot be.
    InvalidConfiguration = 7,
    /// The network namespace is none, or not the pod's (libcni, `ErrInvalidNetNS`).
    InvalidNetns = 8,
    /// This node cannot capture.
    NotAvailable = 50,
    /// Capture could not be put in force, or undone.
    Capture = 100,
    /// `CHECK` found that capture is not in force.
    NotCaptured = 101,
}

impl CniError {
    /// An error of this kind.
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    /// What goes to standard output.
    pub fn json(&self, cni_version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            details: &'a str,
        }
        let wire = Wire { cni_version, code: self.code as u32, msg: &self.message, details: &self.details };
        serde_json::to_string(&wire).expect("strings and a number are JSON")
    }
}

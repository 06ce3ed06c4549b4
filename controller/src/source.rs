//! Where manifests come from: a folder, watched.

pub mod document;
pub mod folder;
pub mod watch;

//! The built `heddle-init` in network namespaces of its own, with exactly the rights that it has in a pod.
//!
//! Needs root, `ip`, `nft`, `setpriv` and `sysctl`. What is missing fails a test, it never skips one.

mod apply;
mod errors;
mod exclusions;
mod netns;
mod options;
mod pod;
mod refusal;
mod traffic;
mod verify;

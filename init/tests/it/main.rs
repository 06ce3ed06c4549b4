//! The built `heddle-init` in network namespaces of its own, with exactly the rights that it has in a pod.
//!
//! Needs root, `ip`, `nft`, `setpriv`, `nsenter`, `unshare` and `sysctl`; for CNI a mounted cgroup2 and Go, or what it built
//! before. What is missing fails a test, it never skips one.

mod agent;
mod apply;
mod cni;
mod ebpf;
mod errors;
mod exclusions;
mod install;
mod netns;
mod options;
mod pod;
mod refusal;
mod traffic;
mod verify;

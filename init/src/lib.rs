//! `heddle-init`: captures a pod's traffic for the proxy, proves it, and undoes it.
//!
//! The way of a command: options ([`config`]) and facts ([`kernel`]) become a [`plan`]; `show` prints it, [`apply`]
//! carries it out over [`netlink`] and back, [`verify`] compares it with what the kernel has and opens a connection.
//! [`capture`] is the same for a program that does it to many pods.
//!
//! Invariant: knows `init/abi` and nothing else of the mesh. Runs no other program and writes no sysctl.

pub mod agent;
pub mod apply;
pub mod capture;
pub mod cgroup;
pub mod cni;
pub mod cni_cache;
pub mod config;
pub mod durable;
pub mod ebpf;
pub mod install;
pub mod kernel;
pub mod netlink;
pub mod netns;
pub mod plan;
pub mod report;
pub mod rights;
pub mod socket;
pub mod tproxy;
pub mod verify;
pub mod wait;

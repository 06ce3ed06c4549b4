//! The end-to-end harness: pods as network namespaces, the real binaries in them, and a look at the wire.
//!
//! ```text
//!   client ── veth ──┐            ┌── veth ── web        each pod: heddle-init ran, heddle-proxy runs, an application
//!                    └── bridge ──┘                      the bridge's namespace ("the node"): the controller,
//!                       .1 = node                        tcpdump on the pods' veths, and whoever is outside the mesh
//! ```
//! [`TestMesh`] is the entry: it makes the node and the controller, and [`TestMesh::pod`] adds pods. Everything goes away
//! when it is dropped, after a panic too; what a failed test leaves is under `target/e2e/<test>/`.
//!
//! Invariant: knows the product by its command lines, ports, files and wire only. No crate of the product is linked.

pub mod app;
pub mod artifacts;
mod bpffs;
pub mod cgroup;
pub mod interrupt;
pub mod mesh;
pub mod netns;
pub mod pod;
pub mod process;
pub mod program;
pub mod tier;
pub mod traffic;
pub mod wait;
pub mod wire;

pub use app::App;
pub use mesh::{Family, Mode, TestMesh};
pub use pod::Pod;

//! `MeshPolicy`: mutual TLS and egress of workloads.

pub use super::crd::MtlsMode;

use super::{
    Problem,
    crd::{EgressMode, MeshPolicySpec},
};
use crate::yaml::join;
use heddle_mesh::workload::Egress;
use std::collections::BTreeMap;

/// What a `MeshPolicy` says, checked. What it leaves open is decided by a less specific policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshPolicy {
    /// When it was created, in seconds since 1970; absent sorts last.
    pub created_seconds: Option<i64>,
    /// Labels that a pod must have; `None` for all of the namespace.
    pub selector: Option<BTreeMap<String, String>>,
    /// What connections to these pods may be.
    pub mtls: Option<MtlsMode>,
    /// The same for single ports of the pods.
    pub port_mtls: BTreeMap<u16, MtlsMode>,
    /// Their connections to addresses outside of the mesh.
    pub egress: Option<Egress>,
}

impl MeshPolicy {
    /// Checks a spec.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub(crate) fn read(spec: MeshPolicySpec, created_seconds: Option<i64>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut port_mtls = BTreeMap::new();
        for (key, mtls) in spec.port_level_mtls {
            match key.parse::<u16>() {
                Ok(port) if port != 0 => {
                    port_mtls.insert(port, mtls.mode);
                }
                _ => problems.push(Problem::new(
                    join("spec.portLevelMtls", &key),
                    format!("{key:?} is no port"),
                    "write a number from 1 to 65535 in quotes, such as \"8080\"",
                )),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            created_seconds,
            selector: spec.selector.map(|selector| selector.match_labels).filter(|labels| !labels.is_empty()),
            mtls: spec.mtls.map(|mtls| mtls.mode),
            port_mtls,
            egress: spec.egress.map(|egress| match egress.mode {
                EgressMode::Allow => Egress::Allow,
                EgressMode::Deny => Egress::Deny,
            }),
        })
    }
}

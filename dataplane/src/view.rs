//! What one worker sees of the mesh: the newest snapshot and its own workload in it, kept without a lock.

use heddle_mesh::{Mesh, workload::Workload};
use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

/// The newest mesh of one worker.
#[derive(Debug, Default)]
pub struct View {
    mesh: RefCell<Arc<Mesh>>,
    workload: RefCell<Option<Arc<Workload>>>,
    policy_revision: Cell<u64>,
}

/// This proxy's own workload is not known yet.
#[derive(Debug, thiserror::Error)]
#[error(
    "the controller has not said yet which workload this pod is; look at the proxy's readiness and at the controller's log"
)]
pub struct NoWorkload;

impl View {
    /// Puts a newer mesh in place. Says whether policies may give other verdicts now.
    pub fn update(&self, mesh: Arc<Mesh>, workload: Option<Arc<Workload>>) -> bool {
        let egress = |workload: &Option<Arc<Workload>>| workload.as_ref().map(|workload| workload.egress);
        let changed = self.policy_revision.replace(mesh.policy_revision) != mesh.policy_revision
            || egress(&self.workload.borrow()) != egress(&workload);
        self.mesh.replace(mesh);
        self.workload.replace(workload);
        changed
    }

    /// The newest mesh. A connection takes it once and decides everything on that one.
    pub fn mesh(&self) -> Arc<Mesh> {
        self.mesh.borrow().clone()
    }

    /// The workload that this proxy serves.
    ///
    /// # Errors
    /// Before the controller has named it.
    pub fn workload(&self) -> Result<Arc<Workload>, NoWorkload> {
        self.workload.borrow().clone().ok_or(NoWorkload)
    }
}

//! `check`: every mistake in a folder of manifests, found by the same code that serves them.

use crate::{
    condition::{Condition, Severity},
    source::folder::Folder,
    translate::{Settings, translate},
};
use heddle_mesh::identity::TrustDomain;
use std::{collections::HashSet, path::Path};

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// Everything, ordered by file and line.
    pub conditions: Vec<Condition>,
    /// How many files were read.
    pub files: usize,
    /// How many objects they hold that the mesh uses.
    pub objects: usize,
}

impl Report {
    /// How many mistakes there are.
    pub fn mistakes(&self) -> usize {
        self.conditions.iter().filter(|condition| condition.severity == Severity::Mistake).count()
    }
}

/// Checks a folder.
pub fn check(folder: &Path) -> Report {
    let mut source = Folder::new(folder);
    source.refresh(&HashSet::new());
    let manifests = source.manifests();
    let settings = Settings { cluster_id: "Kubernetes".into(), trust_domain: TrustDomain::default() };
    let conditions = translate(&manifests, &settings).conditions;
    Report { conditions, files: manifests.files, objects: manifests.objects.len() }
}

//! Finds out where a pod's programs belong.

use super::Place;
use crate::{
    cgroup::{self, Cgroup},
    config::{Config, Guard, Mode},
    report::chain,
};
use std::path::Path;

impl Place {
    /// The place of this pod. Nothing is looked for that this configuration does not load, but a pod's UID alone tells where pins of
    /// another configuration would be.
    pub fn find(config: &Config) -> Self {
        let uid = config.pod_uid.as_deref();
        let cgroup = if config.mode == Mode::Tproxy && config.guard == Guard::Off {
            Err("this configuration loads no programs".to_owned())
        } else {
            cgroup::find(config.cgroup.as_deref(), uid).map_err(|error| chain(&error))
        };
        let name = match uid {
            Some(uid) => Ok(uid.to_owned()),
            None => cgroup.as_ref().map(name).map_err(Clone::clone),
        };
        Self { pins: name.map(|name| config.bpffs.join(FOLDER).join(name)), cgroup }
    }
}

/// The UID in the directory's name, as the kubelet writes it, else the cgroup's number.
fn name(cgroup: &Cgroup) -> String {
    uid(&cgroup.path).unwrap_or_else(|| format!("cgroup-{}", cgroup.id().unwrap_or_default()))
}

fn uid(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let uid = match name.strip_suffix(".slice") {
        Some(name) => name.rsplit_once("pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    crate::config::is_uid(&uid).then_some(uid)
}

/// In the bpffs, one folder a pod is in this one.
pub(super) const FOLDER: &str = "heddle";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_directories_name_the_pod() {
        let uid = |path| uid(Path::new(path));
        assert_eq!(uid("/c/kubepods/pod12-34").as_deref(), Some("12-34"));
        assert_eq!(uid("/c/k.slice/kubepods-besteffort-pod12_34.slice").as_deref(), Some("12-34"));
        assert_eq!(uid("/c/docker/4f5e"), None);
    }
}

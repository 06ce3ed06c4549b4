//! What a mesh and its pods share: addresses, names, the folder of manifests, and how programs are started.

use super::{Controller, Family, Mode, NAMESPACE, NODE_V4, NODE_V6, manifest};
use crate::{
    bpffs::{self, Bpffs},
    netns::Namespace,
    pod::{Pod, State},
    process::{Launch, Process, Rights},
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

/// What a mesh and its pods share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) prefix: String,
    pub(crate) folder: PathBuf,
    pub(crate) family: Family,
    pub(crate) mode: Mode,
    pub(crate) test: String,
    pub(crate) outlives_us: bool,
    pub(crate) node: Namespace,
    pub(crate) controller: Mutex<Option<Process>>,
    pub(crate) pods: Mutex<Vec<Arc<State>>>,
    pub(super) bpffs: Mutex<Option<Bpffs>>,
    pub(super) fixed_manifests: bool,
    pub(super) names: Mutex<BTreeMap<String, (Ipv4Addr, Ipv6Addr)>>,
    pub(super) failed: AtomicBool,
    pub(super) left: AtomicBool,
}

impl Shared {
    /// The node's address as the controller's.
    pub(crate) fn node_address(&self) -> IpAddr {
        self.family.pick(NODE_V4, NODE_V6)
    }

    /// The addresses of the pod that is added next, and the virtual ones that stand for it.
    pub(crate) fn addresses(index: u8) -> Addresses {
        let host = FIRST_POD + index;
        Addresses {
            v4: Ipv4Addr::new(10, 77, 0, host),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host.into()),
            service_v4: Ipv4Addr::new(10, 96, 0, host),
            service_v6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, host.into()),
        }
    }

    /// Names a service, and says which addresses it has: those of its first naming.
    pub(crate) fn name(&self, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
        lock(&self.names).entry(name.to_owned()).or_insert((v4, v6));
        self.write_hosts()
    }

    pub(crate) fn service_addresses(&self, name: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        lock(&self.names).get(name).copied()
    }

    /// Writes the hosts file in place, because pods have it mounted.
    pub(crate) fn write_hosts(&self) -> Result<()> {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (service, (v4, v6)) in lock(&self.names).iter() {
            // `web`, or `web.other` for one outside of the default namespace.
            let (short, namespace) = service.split_once('.').unwrap_or((service, NAMESPACE));
            let address = self.family.pick(*v4, *v6);
            text.push_str(&format!("{address} {service} {short}.{namespace} {short}.{namespace}.svc.cluster.local\n"));
        }
        for pod in lock(&self.pods).iter() {
            text.push_str(&format!("{} {}.pod\n", pod.address(), pod.name));
        }
        fs::write(self.folder.join("hosts"), text).context("writing the pods' hosts file")
    }

    /// Writes the manifests of a pod, unless the mesh has fixed ones.
    pub(crate) fn write_pod(&self, pod: &State) -> Result<()> {
        if self.fixed_manifests {
            return Ok(());
        }
        Controller::of(self).change(|| self.write_pod_now(pod))
    }

    fn write_pod_now(&self, pod: &State) -> Result<bool> {
        let namespace = format!("namespace-{}.yaml", pod.namespace);
        let changed = self.write_manifest(&namespace, &manifest::namespace(&pod.namespace))?;
        let service = pod.service.as_ref().and_then(|name| Some((name.as_str(), self.service_addresses(name)?)));
        Ok(self.write_manifest(&format!("pod-{}.yaml", pod.name), &manifest::pod(pod, service))? || changed)
    }

    /// Puts a file into the controller's folder in one step; whether it is not the same as before.
    pub(super) fn write_manifest(&self, file: &str, text: &str) -> Result<bool> {
        ensure!(!file.contains('/'), "`{file}` is not a file name");
        let path = self.folder.join("manifests").join(file);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(false);
        }
        let fresh = path.with_added_extension("new");
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)).with_context(|| path.display().to_string())?;
        Ok(true)
    }

    /// The mesh's own BPF file system, mounted when it is first asked for.
    pub(crate) fn bpffs(&self) -> Result<PathBuf> {
        let mut bpffs = lock(&self.bpffs);
        if let Some(bpffs) = &*bpffs {
            return Ok(bpffs.path().to_owned());
        }
        let made = Bpffs::mount(&self.folder.join(bpffs::FOLDER))?;
        Ok(bpffs.insert(made).path().to_owned())
    }

    /// An empty file where every user may look, for a binary to be mounted on.
    pub(crate) fn visible(&self, name: &str) -> Result<PathBuf> {
        let seen = self.folder.join("bin").join(name);
        if !seen.exists() {
            fs::write(&seen, "").with_context(|| seen.display().to_string())?;
        }
        Ok(seen)
    }

    /// A program in one of this mesh's namespaces, with its hosts file, and without what is pinned.
    pub(crate) fn launch<'a>(
        &self,
        namespace: &'a Namespace,
        program: impl Into<PathBuf>,
        rights: Rights,
    ) -> Launch<'a> {
        let launch = match &*lock(&self.bpffs) {
            Some(bpffs) => Launch::new(namespace, program, rights).hide(bpffs.path()),
            None => Launch::new(namespace, program, rights),
        };
        launch
            .mount(self.folder.join("hosts"), "/etc/hosts")
            .mount(self.folder.join("resolv.conf"), "/etc/resolv.conf")
            .outlives_us(self.outlives_us)
    }

    pub(crate) fn pod_handles(self: &Arc<Self>) -> Vec<Pod> {
        lock(&self.pods).iter().map(|state| Pod::new(self.clone(), state.clone())).collect()
    }
}

/// The addresses that a pod's place in the order of pods gives it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) service_v4: Ipv4Addr,
    pub(crate) service_v6: Ipv6Addr,
}

/// A poisoned lock is a panic that is being reported elsewhere; cleaning up still needs what it guards.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Host number of the first pod.
const FIRST_POD: u8 = 10;

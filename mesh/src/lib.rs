//! The mesh as data: everything the controller said, at one revision, and the decisions that follow from it.
//!
//! Invariant: no I/O, no clock, no runtime. A [`Mesh`] is a value; whoever holds one can decide everything about a
//! connection without asking anybody.
#![forbid(unsafe_code)]

pub mod identity;
pub mod policy;
pub mod service;
pub mod target;
pub mod workload;

use ipnet::IpNet;
use policy::{Policy, PolicyName, Scope};
use service::{Service, ServiceName};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};
use workload::Workload;

/// Everything the controller said, at one revision.
///
/// Cloning shares the objects. Whoever owns the current one clones it, changes the clone and publishes it.
#[derive(Debug, Clone, Default)]
pub struct Mesh {
    /// Grows with every published change.
    pub revision: u64,
    /// Grows when a policy, or a workload's list of policies, changed.
    pub policy_revision: u64,
    /// What is known to be absent, or that absence is known for all addresses.
    pub coverage: Coverage,
    workloads: HashMap<Arc<str>, Arc<Workload>>,
    workload_addresses: HashMap<(Arc<str>, IpAddr), Arc<str>>,
    services: HashMap<ServiceName, Arc<Service>>,
    service_addresses: HashMap<(Arc<str>, IpAddr), ServiceName>,
    service_blocks: Vec<(Arc<str>, IpNet, ServiceName)>,
    endpoints: HashMap<ServiceName, BTreeMap<Arc<str>, Arc<Workload>>>,
    policies: HashMap<PolicyName, Arc<Policy>>,
}

/// Whether an address that is not in the mesh is known to be outside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// The mesh holds all there is (a wildcard subscription).
    Complete,
    /// The mesh holds what was asked for; these addresses were asked for and do not exist.
    OnDemand {
        /// Addresses that the controller does not know.
        absent: HashSet<IpAddr>,
    },
}

impl Default for Coverage {
    fn default() -> Self {
        Self::OnDemand { absent: HashSet::new() }
    }
}

impl Mesh {
    /// The workload of this unique name.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that has this address in `network`.
    pub fn workload_by_address(&self, network: &Arc<str>, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.get(self.workload_addresses.get(&(network.clone(), address))?)
    }

    /// The service of this name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The service that has this virtual address in `network`; the longest block wins.
    pub fn service_by_address(&self, network: &Arc<str>, address: IpAddr) -> Option<&Arc<Service>> {
        let name = self.service_addresses.get(&(network.clone(), address)).or_else(|| {
            let blocks = self.service_blocks.iter().filter(|(of, block, _)| of == network && block.contains(&address));
            blocks.max_by_key(|(_, block, _)| block.prefix_len()).map(|(_, _, name)| name)
        })?;
        self.services.get(name)
    }

    /// The workloads that back a service, by unique name, whatever their health.
    pub fn endpoints(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// The policy of this name.
    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.get(name)
    }

    /// Every policy that applies to `workload`: global ones, its namespace's, and those that it lists.
    pub fn policies_of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Arc<Policy>> {
        self.policies.values().filter(move |policy| match policy.scope {
            Scope::Global => true,
            Scope::Namespace => policy.name.namespace == workload.namespace,
            Scope::WorkloadSelector => workload.policies.contains(&policy.name),
        })
    }

    /// Whether the controller has said all it knows about this address.
    pub fn discovered(&self, address: IpAddr) -> bool {
        match &self.coverage {
            Coverage::Complete => true,
            Coverage::OnDemand { absent } => absent.contains(&address),
        }
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// Adds or replaces a workload.
    pub fn insert_workload(&mut self, workload: Arc<Workload>) {
        let before = self.remove_workload_quietly(&workload.uid);
        if before.is_none_or(|before| before.policies != workload.policies || before.namespace != workload.namespace) {
            self.policy_revision += 1;
        }
        if !workload.host_network {
            for address in &workload.addresses {
                self.workload_addresses.insert((workload.network.clone(), *address), workload.uid.clone());
                self.forget_absence(*address);
            }
        }
        for service in workload.services.keys() {
            self.endpoints.entry(service.clone()).or_default().insert(workload.uid.clone(), workload.clone());
        }
        self.workloads.insert(workload.uid.clone(), workload);
    }

    /// Removes a workload; unknown ones are ignored. Says whether it was there.
    pub fn remove_workload(&mut self, uid: &str) -> bool {
        let removed = self.remove_workload_quietly(uid).is_some();
        self.policy_revision += u64::from(removed);
        removed
    }

    /// Adds or replaces a service.
    pub fn insert_service(&mut self, service: Arc<Service>) {
        self.remove_service(&service.name);
        for VirtualAddressKey { network, block } in virtual_addresses(&service) {
            if block.prefix_len() == block.max_prefix_len() {
                self.service_addresses.insert((network.clone(), block.addr()), service.name.clone());
                self.forget_absence(block.addr());
            } else {
                self.service_blocks.push((network.clone(), block, service.name.clone()));
            }
        }
        self.services.insert(service.name.clone(), service);
    }

    /// Removes a service; unknown ones are ignored. Says whether it was there.
    pub fn remove_service(&mut self, name: &ServiceName) -> bool {
        let Some(service) = self.services.remove(name) else { return false };
        for VirtualAddressKey { network, block } in virtual_addresses(&service) {
            let key = (network.clone(), block.addr());
            if self.service_addresses.get(&key) == Some(name) {
                self.service_addresses.remove(&key);
            }
        }
        self.service_blocks.retain(|(_, _, owner)| owner != name);
        true
    }

    /// Adds or replaces a policy.
    pub fn insert_policy(&mut self, policy: Arc<Policy>) {
        let before = self.policies.insert(policy.name.clone(), policy.clone());
        self.policy_revision += u64::from(before.is_none_or(|before| before != policy));
    }

    /// Removes a policy; unknown ones are ignored. Says whether it was there.
    pub fn remove_policy(&mut self, name: &PolicyName) -> bool {
        let removed = self.policies.remove(name).is_some();
        self.policy_revision += u64::from(removed);
        removed
    }

    /// Notes that the controller does not know this address. At most [`ABSENT_MAX`] are remembered; then all are
    /// forgotten and asked for again.
    pub fn insert_absent(&mut self, address: IpAddr) {
        if let Coverage::OnDemand { absent } = &mut self.coverage {
            if absent.len() >= ABSENT_MAX {
                absent.clear();
            }
            absent.insert(address);
        }
    }

    fn forget_absence(&mut self, address: IpAddr) {
        if let Coverage::OnDemand { absent } = &mut self.coverage {
            absent.remove(&address);
        }
    }

    fn remove_workload_quietly(&mut self, uid: &str) -> Option<Arc<Workload>> {
        let workload = self.workloads.remove(uid)?;
        for address in &workload.addresses {
            let key = (workload.network.clone(), *address);
            if self.workload_addresses.get(&key).is_some_and(|owner| **owner == *uid) {
                self.workload_addresses.remove(&key);
            }
        }
        for service in workload.services.keys() {
            if let Some(endpoints) = self.endpoints.get_mut(service) {
                endpoints.remove(uid);
                if endpoints.is_empty() {
                    self.endpoints.remove(service);
                }
            }
        }
        Some(workload)
    }
}

struct VirtualAddressKey<'a> {
    network: &'a Arc<str>,
    block: IpNet,
}

fn virtual_addresses(service: &Service) -> impl Iterator<Item = VirtualAddressKey<'_>> {
    service.addresses.iter().map(|address| VirtualAddressKey { network: &address.network, block: address.block })
}

/// How many addresses are remembered as unknown to the controller, so that a scan of the address space stays bounded.
pub const ABSENT_MAX: usize = 4096;

#[cfg(test)]
mod tests;

//! The mesh at one revision as resources that are encoded once, for every stream that sends them.

use crate::translate::Translation;
use bytes::Bytes;
use heddle_mesh::policy::{Policy, PolicyName, Scope};
use heddle_proto::{
    convert::{Address, encode_address, encode_policy, pack},
    names::{ADDRESS_TYPE, AUTHORIZATION_TYPE, service_aliases, workload_aliases},
    wire::envoy::service::discovery::v3 as discovery,
};
use prost::Message;
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

/// One resource, ready to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its primary name.
    pub name: String,
    /// A hash of what it says.
    pub version: String,
    /// The message `envoy.service.discovery.v3.Resource`, encoded.
    pub encoded: Bytes,
}

/// Everything that can be sent, at one revision.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows with every change of a manifest.
    pub revision: u64,
    addresses: BTreeMap<String, Held<Address>>,
    aliases: HashMap<String, String>,
    /// The workloads that back a service, by its name.
    backing: HashMap<String, Vec<String>>,
    policies: BTreeMap<PolicyName, Held<Arc<Policy>>>,
    /// The policies that a workload lists.
    listed: HashMap<Arc<str>, Vec<PolicyName>>,
}

#[derive(Debug, Clone)]
struct Held<T> {
    value: T,
    resource: Arc<Resource>,
}

impl Snapshot {
    /// The resources of a translation; those of `before` that say the same are taken over.
    pub fn new(before: &Self, translation: &Translation, revision: u64) -> Self {
        let mut next = Self { revision, ..Self::default() };
        for workload in &translation.workloads {
            for service in workload.services.keys() {
                next.backing.entry(service.to_string()).or_default().push(workload.uid.to_string());
            }
            next.listed.insert(workload.uid.clone(), workload.policies.clone());
            let aliases = workload_aliases(workload);
            next.insert_address(before, workload.uid.to_string(), Address::Workload(workload.clone()), aliases);
        }
        for service in &translation.services {
            let aliases = service_aliases(service);
            next.insert_address(before, service.name.to_string(), Address::Service(service.clone()), aliases);
        }
        for policy in &translation.policies {
            let known = before.policies.get(&policy.name).filter(|held| held.value == *policy).cloned();
            let held = known.unwrap_or_else(|| {
                let resource = pack(AUTHORIZATION_TYPE, &encode_policy(policy));
                let resource = Arc::new(encode(policy.name.to_string(), Vec::new(), resource));
                Held { value: policy.clone(), resource }
            });
            next.policies.insert(policy.name.clone(), held);
        }
        next
    }

    /// A service's address wins over a pod's, and the first of two alike.
    fn insert_address(&mut self, before: &Self, name: String, value: Address, aliases: Vec<String>) {
        let service = matches!(value, Address::Service(_));
        for alias in &aliases {
            if service || !self.aliases.contains_key(alias) {
                self.aliases.insert(alias.clone(), name.clone());
            }
        }
        let known = before.addresses.get(&name).filter(|held| held.value == value).cloned();
        let held = known.unwrap_or_else(|| {
            let resource = pack(ADDRESS_TYPE, &encode_address(&value));
            Held { value, resource: Arc::new(encode(name.clone(), aliases, resource)) }
        });
        self.addresses.insert(name, held);
    }

    /// All workloads and services.
    pub fn addresses(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.addresses.values().map(|held| &held.resource)
    }

    /// What a name or alias stands for: a workload, or a service with the workloads behind it. Empty when it stands for
    /// nothing.
    pub fn lookup<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
        let primary = self.aliases.get(name).map_or(name, String::as_str);
        let found = self.addresses.get_key_value(primary);
        let backing = found.and_then(|(primary, _)| self.backing.get(primary)).into_iter().flatten();
        let behind = backing.filter_map(|name| self.addresses.get(name));
        found.map(|(_, held)| held).into_iter().chain(behind).map(|held| &held.resource)
    }

    /// The policies that apply to a workload: global ones, its namespace's, and those that it lists. Of a workload that is
    /// not known (yet), the namespace is.
    pub fn policies_of(&self, uid: &str, namespace: &str) -> impl Iterator<Item = &Arc<Resource>> {
        let listed = self.listed.get(uid);
        let applying = self.policies.values().filter(move |held| match held.value.scope {
            Scope::Global => true,
            Scope::Namespace => *held.value.name.namespace == *namespace,
            Scope::WorkloadSelector => listed.is_some_and(|listed| listed.contains(&held.value.name)),
        });
        applying.map(|held| &held.resource)
    }

    /// All policies.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.policies.values().map(|held| &held.resource)
    }
}

fn encode(name: String, aliases: Vec<String>, resource: prost_types::Any) -> Resource {
    let mut hasher = DefaultHasher::new();
    hasher.write(&resource.value);
    let version = format!("{:016x}", hasher.finish());
    let message = discovery::Resource {
        name: name.clone(),
        aliases,
        version: version.clone(),
        resource: Some(resource),
        ..discovery::Resource::default()
    };
    Resource { name, version, encoded: message.encode_to_vec().into() }
}

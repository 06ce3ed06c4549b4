//! The single owner of the mesh: applies a response as a whole, publishes once, then answers who asked.
//!
//! Invariant: a resource that is refused changes nothing but this: a policy that has no earlier version is replaced by a
//! denial, because a policy that nobody understands must not open a workload.

use crate::{
    error::DiscoverError,
    settings::{Discovery, Node},
    snapshots::{Publisher, Shared, knows},
};
use heddle_mesh::{ABSENT_MAX, Coverage, Mesh, service::ServiceName};
use heddle_proto::{
    FieldError,
    convert::{Address, decode_address, decode_policy, stand_in, unpack},
    names::{ADDRESS_TYPE, AUTHORIZATION_TYPE, address_name, parse_address_name},
    wire::{
        envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource},
        istio::{security::Authorization, workload},
    },
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};
use tokio::time::Instant;

/// The two types of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Workloads and services.
    Addresses,
    /// Policies.
    Policies,
}

impl Kind {
    /// Both, in the order in which they are asked for.
    pub(crate) const ALL: [Self; 2] = [Self::Addresses, Self::Policies];

    pub(crate) fn type_url(self) -> &'static str {
        match self {
            Self::Addresses => ADDRESS_TYPE,
            Self::Policies => AUTHORIZATION_TYPE,
        }
    }

    pub(crate) fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

/// The mesh in the making, and what is known about each of its resources.
#[derive(Debug)]
pub(crate) struct Index {
    mesh: Mesh,
    addresses: Held,
    policies: Held,
    discovery: Discovery,
    publisher: Publisher,
}

/// What is held of one type.
#[derive(Debug, Default)]
struct Held {
    /// Version of each resource that was taken, by primary name.
    versions: BTreeMap<String, String>,
    /// A response was applied once.
    synced: bool,
}

/// What became of a response.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// The resources that were refused; the others are in force.
    pub(crate) refused: Vec<FieldError>,
    /// Names that are not worth following any more.
    pub(crate) unsubscribe: Vec<String>,
}

impl Index {
    pub(crate) fn new(discovery: Discovery, publisher: Publisher) -> Self {
        let (mesh, addresses, policies) = (Mesh::default(), Held::default(), Held::default());
        Self { mesh, addresses, policies, discovery, publisher }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.publisher.shared()
    }

    /// What a new stream is told that we hold: name and version, and an empty version for what does not exist so far.
    pub(crate) fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        let mut versions = self.held(kind).versions.clone();
        if let (Kind::Addresses, Discovery::OnDemand, Coverage::OnDemand { absent }) =
            (kind, self.discovery, &self.mesh.coverage)
        {
            let network = &self.shared().network;
            versions.extend(absent.iter().map(|address| (address_name(network, *address), String::new())));
        }
        versions
    }

    /// Applies a response, publishes the mesh when it changed, and answers the questions that it answers.
    pub(crate) fn apply(&mut self, kind: Kind, response: DeltaDiscoveryResponse) -> Applied {
        let mut change = Change::default();
        for name in &response.removed_resources {
            match kind {
                Kind::Addresses => self.remove_address(name, &mut change),
                Kind::Policies => change.note(name.parse().is_ok_and(|name| self.mesh.remove_policy(&name))),
            }
            self.held_mut(kind).versions.remove(name);
        }
        for resource in response.resources {
            let version = resource.version.clone();
            let taken = match kind {
                Kind::Addresses => self.insert_address(&resource, &mut change),
                Kind::Policies => self.insert_policy(&resource, &mut change),
            };
            match taken {
                Ok(()) => drop(self.held_mut(kind).versions.insert(resource.name, version)),
                Err(error) => change.refuse(&resource, error, &self.publisher.shared().network),
            }
        }
        change.note(!std::mem::replace(&mut self.held_mut(kind).synced, true));
        if self.discovery == Discovery::Wildcard && self.addresses.synced {
            self.mesh.coverage = Coverage::Complete;
        }
        self.note_absent(&mut change);
        self.publish(change)
    }

    /// An asked address that the controller answered and that is still not in the mesh does not exist for us.
    fn note_absent(&mut self, change: &mut Change) {
        let shared = self.publisher.shared().clone();
        for address in std::mem::take(&mut change.answered) {
            let absent =
                !knows(&self.mesh, &shared.network, address) && !change.refused_addresses.contains_key(&address);
            if !absent || !(change.removed.contains(&address) || shared.asks.is_open(address)) {
                continue;
            }
            if let Coverage::OnDemand { absent } = &self.mesh.coverage
                && absent.len() >= ABSENT_MAX
            {
                // The next insertion forgets them all, so we stop following them, too; but for our own.
                let others = absent.iter().filter(|address| !self.publisher.is_own(**address));
                change.unsubscribe.extend(others.map(|address| address_name(&shared.network, *address)));
            }
            self.mesh.insert_absent(address);
            change.changed = true;
        }
    }

    /// Publishes before anybody is woken: who asked must find the answer in the current mesh.
    fn publish(&mut self, change: Change) -> Applied {
        let shared = self.publisher.shared().clone();
        if change.changed {
            self.mesh.revision += 1;
            self.publisher.publish(self.mesh.clone(), self.missing());
        }
        {
            let mut state = shared.lock();
            state.updated = Some(Instant::now());
            if let Some(first) = change.refused.first() {
                state.nacks += 1;
                state.last_refusal = Some(first.to_string());
            }
        }
        shared.asks.resolve(|address| match change.refused_addresses.get(&address) {
            _ if knows(&self.mesh, &shared.network, address) => Some(Ok(())),
            Some(reason) => Some(Err(DiscoverError::Refused { address, reason: reason.clone() })),
            None => None,
        });
        Applied { refused: change.refused, unsubscribe: change.unsubscribe }
    }

    /// Which types have not arrived once. Addresses on demand need no first response: our own is what we wait for.
    fn missing(&self) -> Option<&'static str> {
        let addresses = self.addresses.synced || self.discovery == Discovery::OnDemand;
        match (addresses, self.policies.synced) {
            (true, true) => None,
            (false, true) => Some("workloads and services"),
            (true, false) => Some("policies"),
            (false, false) => Some("workloads, services and policies"),
        }
    }

    fn insert_address(&mut self, resource: &Resource, change: &mut Change) -> Result<(), FieldError> {
        let message: workload::Address = payload(resource, ADDRESS_TYPE)?;
        match decode_address(&resource.name, &message)? {
            Address::Workload(workload) => {
                check_name(resource, &workload.uid)?;
                if self.mesh.workload(&workload.uid) != Some(&workload) {
                    self.mesh.insert_workload(workload);
                    change.changed = true;
                }
            }
            Address::Service(service) => {
                check_name(resource, &service.name.to_string())?;
                if self.mesh.service(&service.name) != Some(&service) {
                    self.mesh.insert_service(service);
                    change.changed = true;
                }
            }
        }
        change.answered.extend(own_addresses(&resource.aliases, &self.publisher.shared().network));
        Ok(())
    }

    fn insert_policy(&mut self, resource: &Resource, change: &mut Change) -> Result<(), FieldError> {
        let message: Authorization = payload(resource, AUTHORIZATION_TYPE)?;
        let decoded = decode_policy(&message).and_then(|policy| {
            check_name(resource, &policy.name.to_string())?;
            Ok(policy)
        });
        let (policy, result) = match decoded {
            Ok(policy) => (Some(policy), Ok(())),
            // An earlier version that was good stays.
            Err(error) if self.policies.versions.contains_key(&resource.name) => (None, Err(error)),
            Err(error) => (stand_in(&message), Err(error)),
        };
        if let Some(policy) = policy
            && self.mesh.policy(&policy.name).is_none_or(|before| **before != policy)
        {
            self.mesh.insert_policy(Arc::new(policy));
            change.changed = true;
        }
        result
    }

    /// `name` is a primary name, or an address that somebody asked for; then it takes with it what we thought is there.
    fn remove_address(&mut self, name: &str, change: &mut Change) {
        let removed = self.mesh.remove_workload(name)
            || name.parse::<ServiceName>().is_ok_and(|name| self.mesh.remove_service(&name));
        change.note(removed);
        let Some(address) = own_address(name, &self.publisher.shared().network) else { return };
        change.answered.insert(address);
        change.removed.insert(address);
        let network = &self.publisher.shared().network;
        if let Some(uid) = self.mesh.workload_by_address(network, address).map(|workload| workload.uid.clone()) {
            self.addresses.versions.remove(&*uid);
            change.note(self.mesh.remove_workload(&uid));
        }
        let single = |service: &&Arc<heddle_mesh::service::Service>| {
            service.addresses.iter().any(|one| one.block == address.into() && one.network == *network)
        };
        if let Some(name) = self.mesh.service_by_address(network, address).filter(single).map(|one| one.name.clone()) {
            self.addresses.versions.remove(&name.to_string());
            change.note(self.mesh.remove_service(&name));
        }
    }

    fn held(&self, kind: Kind) -> &Held {
        match kind {
            Kind::Addresses => &self.addresses,
            Kind::Policies => &self.policies,
        }
    }

    fn held_mut(&mut self, kind: Kind) -> &mut Held {
        match kind {
            Kind::Addresses => &mut self.addresses,
            Kind::Policies => &mut self.policies,
        }
    }
}

/// What a response did so far.
#[derive(Debug, Default)]
struct Change {
    changed: bool,
    refused: Vec<FieldError>,
    refused_addresses: HashMap<IpAddr, FieldError>,
    /// Addresses that the response speaks of.
    answered: HashSet<IpAddr>,
    /// Those of them that it says do not exist.
    removed: HashSet<IpAddr>,
    unsubscribe: Vec<String>,
}

impl Change {
    fn note(&mut self, changed: bool) {
        self.changed |= changed;
    }

    fn refuse(&mut self, resource: &Resource, error: FieldError, network: &Arc<str>) {
        let addresses = own_addresses(&resource.aliases, network);
        self.refused_addresses.extend(addresses.map(|address| (address, error.clone())));
        self.refused.push(error);
    }
}

fn payload<M: prost::Message + Default>(resource: &Resource, type_url: &str) -> Result<M, FieldError> {
    match &resource.resource {
        Some(any) => unpack(any, type_url, &resource.name, "resource"),
        None => Err(FieldError::new(&resource.name, "resource", "absent")),
    }
}

/// Removal goes by the resource's name, so it must be the one that the content has.
fn check_name(resource: &Resource, primary: &str) -> Result<(), FieldError> {
    match resource.name == primary {
        true => Ok(()),
        false => Err(FieldError::new(&resource.name, "name", format!("the content is of {primary:?}"))),
    }
}

fn own_address(name: &str, network: &Arc<str>) -> Option<IpAddr> {
    parse_address_name(name).filter(|(of, _)| *of == &**network).map(|(_, address)| address)
}

fn own_addresses(names: &[String], network: &Arc<str>) -> impl Iterator<Item = IpAddr> {
    names.iter().filter_map(|name| own_address(name, network))
}

/// The names by which our own workload is asked for.
pub(crate) fn own_names(node: &Node) -> Vec<String> {
    node.ips.iter().map(|ip| address_name(&node.network, *ip)).collect()
}

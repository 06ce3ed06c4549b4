//! What happened with the endpoints of this worker: how many connections each one carries, and which to take next.

use heddle_mesh::target::Endpoint;
use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc};

/// The load of every endpoint that this worker has a connection to.
#[derive(Debug, Default)]
pub struct Upstreams {
    active: RefCell<HashMap<SocketAddr, u32>>,
}

/// One pick: counts as load until it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// Who was picked.
    pub endpoint: Endpoint,
    upstreams: Rc<Upstreams>,
}

impl Upstreams {
    /// Picks an endpoint that is not among `tried`: of two drawn by capacity, the one with fewer connections for its
    /// capacity. `None` when all were tried.
    pub fn pick(self: &Rc<Self>, endpoints: &[Endpoint], tried: &[SocketAddr]) -> Option<Lease> {
        let left: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| !tried.contains(&endpoint.address)).collect();
        let (first, second) = (draw(&left)?, draw(&left)?);
        let chosen = if self.load(second) < self.load(first) { second } else { first };
        Some(self.lease(chosen.clone()))
    }

    /// Takes this endpoint: there is nothing to choose.
    pub fn lease(self: &Rc<Self>, endpoint: Endpoint) -> Lease {
        *self.active.borrow_mut().entry(endpoint.address).or_default() += 1;
        Lease { endpoint, upstreams: self.clone() }
    }

    fn load(&self, endpoint: &Endpoint) -> u64 {
        let active = self.active.borrow().get(&endpoint.address).copied().unwrap_or_default();
        u64::from(active) * LOAD_SCALE / u64::from(endpoint.workload.capacity.max(1))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut active = self.upstreams.active.borrow_mut();
        if let Some(count) = active.get_mut(&self.endpoint.address) {
            *count -= 1;
            if *count == 0 {
                active.remove(&self.endpoint.address);
            }
        }
    }
}

fn draw<'a>(endpoints: &[&'a Endpoint]) -> Option<&'a Endpoint> {
    let total: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.workload.capacity)).sum();
    if total == 0 {
        return endpoints.first().copied();
    }
    let mut at = fastrand::u64(0..total);
    endpoints.iter().copied().find(|endpoint| {
        let capacity = u64::from(endpoint.workload.capacity);
        let hit = at < capacity;
        at = at.saturating_sub(capacity);
        hit
    })
}

/// Keeps fractions of a connection when load is divided by capacity.
const LOAD_SCALE: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_mesh::workload::{Egress, Health, Locality, Tunnel, Workload};
    use std::sync::Arc;

    fn endpoint(last: u8, capacity: u32) -> Endpoint {
        let address: SocketAddr = ([10, 0, 0, last], 80).into();
        let workload = Workload {
            uid: format!("c//Pod/shop/{last}").into(),
            name: "web".into(),
            namespace: "shop".into(),
            addresses: vec![address.ip()],
            network: "".into(),
            tunnel: Tunnel::None,
            identity: "spiffe://cluster.local/ns/shop/sa/web".parse().expect("an identity"),
            node: "".into(),
            locality: Locality::default(),
            health: Health::Healthy,
            policies: Vec::new(),
            services: std::collections::BTreeMap::default(),
            capacity,
            host_network: false,
            egress: Egress::Allow,
            canonical_name: "web".into(),
            workload_name: "web".into(),
            cluster: "c".into(),
        };
        Endpoint { workload: Arc::new(workload), address }
    }

    #[test]
    fn load_is_shared_by_capacity() {
        let (upstreams, endpoints) = (Rc::<Upstreams>::default(), [endpoint(1, 1), endpoint(2, 3)]);
        let leases: Vec<Lease> = (0..400).filter_map(|_| upstreams.pick(&endpoints, &[])).collect();
        let second = leases.iter().filter(|lease| lease.endpoint.address == endpoints[1].address).count();
        assert!((280..=320).contains(&second), "{second} of 400 went to three quarters of the capacity");
    }

    #[test]
    fn what_was_tried_is_not_picked_again() {
        let (upstreams, endpoints) = (Rc::<Upstreams>::default(), [endpoint(1, 1), endpoint(2, 1)]);
        for _ in 0..50 {
            let lease = upstreams.pick(&endpoints, &[endpoints[0].address]).expect("one is left");
            assert_eq!(lease.endpoint.address, endpoints[1].address);
        }
        assert!(upstreams.pick(&endpoints, &[endpoints[0].address, endpoints[1].address]).is_none());
    }

    #[test]
    fn a_dropped_lease_is_no_load() {
        let (upstreams, one) = (Rc::<Upstreams>::default(), endpoint(1, 1));
        drop(upstreams.lease(one.clone()));
        assert_eq!(upstreams.load(&one), 0);
        assert!(upstreams.active.borrow().is_empty());
    }
}

//! The verdicts in force: admits connections, and ends those that a later policy forbids.
//!
//! Each worker keeps a list of what it let in. When the policies change, the whole list is looked through once; a
//! connection itself only waits for one message, so a request pays nothing for it.

use heddle_mesh::{
    Mesh,
    policy::{self, Connection, Denial, PolicyName, Verdict},
    workload::{Egress, Workload},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
};
use tokio::sync::oneshot;

/// All connections of one worker that may be ended from outside.
#[derive(Debug, Default)]
pub struct Admissions {
    next: Cell<u64>,
    held: RefCell<HashMap<u64, Held>>,
}

#[derive(Debug)]
struct Held {
    subject: Subject,
    end: oneshot::Sender<End>,
}

/// What a connection's right to live depends on.
#[derive(Debug, Clone)]
pub enum Subject {
    /// To the application: on the policies of this workload.
    Inbound(Connection),
    /// To an address outside the mesh: on this workload's egress policy.
    External(SocketAddr),
    /// To another workload: its own proxy decides.
    Outbound,
}

/// Why a connection has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A later policy denies it.
    Revoked(Denial),
    /// Egress to this address is denied now.
    EgressDenied(SocketAddr),
    /// The drain is over.
    Drained,
}

/// A verdict that can end. Dropping it forgets the connection.
#[derive(Debug)]
pub struct Permit {
    admissions: Rc<Admissions>,
    key: u64,
    end: oneshot::Receiver<End>,
}

impl Permit {
    /// Resolves when the connection has to end; never, if it may live. Cancel safe.
    pub async fn ended(&mut self) -> End {
        match (&mut self.end).await {
            Ok(end) => end,
            // The sender goes only together with this permit or with the worker.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admissions.held.borrow_mut().remove(&self.key);
    }
}

/// What was allowed, and by which policy.
#[derive(Debug)]
pub struct Admitted {
    /// The right to live.
    pub permit: Permit,
    /// The ALLOW policy that matched; `None` when none applies.
    pub by: Option<PolicyName>,
    /// Dry-run policies that would have denied it.
    pub dry_run: Vec<PolicyName>,
}

impl Admissions {
    /// Lets a connection in to `workload`, or says why not. No await lies between the verdict and its entry in the list,
    /// so no change of policy falls between them.
    ///
    /// # Errors
    /// The denial with the policy that decided.
    pub fn admit(
        self: &Rc<Self>,
        mesh: &Mesh,
        workload: &Workload,
        connection: Connection,
    ) -> Result<Admitted, Denial> {
        match policy::authorize(mesh, workload, &connection) {
            Verdict::Allowed { by, dry_run } => {
                Ok(Admitted { permit: self.hold(Subject::Inbound(connection)), by, dry_run })
            }
            Verdict::Denied(denial) => Err(denial),
        }
    }

    /// Enters a connection that needs no verdict of ours, or whose verdict was just given by `mesh::target::resolve`.
    pub fn hold(self: &Rc<Self>, subject: Subject) -> Permit {
        let key = self.next.get();
        self.next.set(key + 1);
        let (sender, receiver) = oneshot::channel();
        self.held.borrow_mut().insert(key, Held { subject, end: sender });
        Permit { admissions: self.clone(), key, end: receiver }
    }

    /// Looks at every connection again and ends what is denied now. Says how many that were.
    pub fn recheck(&self, mesh: &Mesh, workload: &Workload) -> usize {
        self.end_where(|subject| match subject {
            Subject::Inbound(connection) => match policy::authorize(mesh, workload, connection) {
                Verdict::Allowed { .. } => None,
                Verdict::Denied(denial) => Some(End::Revoked(denial)),
            },
            Subject::External(address) => (workload.egress == Egress::Deny).then_some(End::EgressDenied(*address)),
            Subject::Outbound => None,
        })
    }

    /// Ends everything that is left: the drain is over.
    pub fn cut(&self) -> usize {
        self.end_where(|_| Some(End::Drained))
    }

    fn end_where(&self, verdict: impl Fn(&Subject) -> Option<End>) -> usize {
        let mut held = self.held.borrow_mut();
        let ended: Vec<_> = held.iter().filter_map(|(key, held)| Some((*key, verdict(&held.subject)?))).collect();
        for (key, end) in &ended {
            if let Some(held) = held.remove(key) {
                // The connection may have ended by itself in this very moment.
                let _ = held.end.send(end.clone());
            }
        }
        ended.len()
    }
}

#[cfg(test)]
mod tests;

//! The manifests that the controller understands, as checked values that know where they were written.

pub mod authorization;
pub mod crd;
pub mod mesh_policy;

pub use authorization::AuthorizationPolicy;
pub use mesh_policy::MeshPolicy;

use crate::{
    condition::{Condition, Place, Severity},
    yaml::Node,
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node as KubeNode, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use std::{path::Path, sync::Arc};

/// One object and where it was written.
#[derive(Debug)]
pub struct Manifest {
    /// Where and under which name.
    pub origin: Origin,
    /// What it says.
    pub object: Object,
}

/// What a manifest says.
#[derive(Debug)]
pub enum Object {
    /// `v1 Namespace`.
    Namespace(Box<Namespace>),
    /// `v1 Pod`.
    Pod(Box<Pod>),
    /// `v1 Service`.
    Service(Box<Service>),
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice(Box<EndpointSlice>),
    /// `v1 ServiceAccount`.
    ServiceAccount(Box<ServiceAccount>),
    /// `v1 Node`.
    Node(Box<KubeNode>),
    /// `heddle.dev/v1alpha1 MeshPolicy`.
    MeshPolicy(Box<MeshPolicy>),
    /// `heddle.dev/v1alpha1 AuthorizationPolicy`.
    AuthorizationPolicy(Box<AuthorizationPolicy>),
}

/// Where an object was written, and its name.
#[derive(Debug)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// Its `kind`.
    pub kind: Kind,
    /// `metadata.namespace`; empty for kinds without one.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The object as it was written, for the lines of its fields.
    pub tree: Node,
}

impl Origin {
    /// The line of a field, or of the nearest one above it.
    pub fn place(&self, field: &str) -> Place {
        Place { file: self.file.clone(), line: self.tree.line_of(field) }
    }

    /// A finding about a field.
    pub fn condition(&self, severity: Severity, field: &str, problem: String, remedy: &str) -> Condition {
        Condition {
            severity,
            place: self.place(field),
            object: self.title(),
            field: field.to_owned(),
            problem,
            remedy: remedy.to_owned(),
        }
    }

    /// `Pod shop/web`, or `Node n1`.
    pub fn title(&self) -> String {
        match self.namespace.is_empty() {
            true => format!("{} {}", self.kind.name(), self.name),
            false => format!("{} {}/{}", self.kind.name(), self.namespace, self.name),
        }
    }
}

/// The kinds that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Pod`.
    Pod,
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `v1 ServiceAccount`.
    ServiceAccount,
    /// `v1 Node`.
    Node,
    /// `heddle.dev/v1alpha1 MeshPolicy`.
    MeshPolicy,
    /// `heddle.dev/v1alpha1 AuthorizationPolicy`.
    AuthorizationPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::ServiceAccount,
        Self::Node,
        Self::MeshPolicy,
        Self::AuthorizationPolicy,
    ];

    /// What `kind:` says.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceAccount => "ServiceAccount",
            Self::Node => "Node",
            Self::MeshPolicy => "MeshPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }

    /// What `apiVersion:` says.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Pod | Self::Service | Self::ServiceAccount | Self::Node => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::MeshPolicy | Self::AuthorizationPolicy => API_VERSION,
        }
    }

    /// Whether its objects live in a namespace.
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Whether losing an object of it could open what was closed.
    pub fn restricts(self) -> bool {
        matches!(self, Self::MeshPolicy | Self::AuthorizationPolicy)
    }
}

/// What is wrong with one field, before it is known to which object it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl Problem {
    /// Describes one problem.
    pub fn new(field: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// Group and version of our own kinds.
pub const API_VERSION: &str = "heddle.dev/v1alpha1";

/// The namespace whose policies without a selector hold for the whole mesh.
pub const ROOT_NAMESPACE: &str = "heddle-system";

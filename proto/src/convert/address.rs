//! The resource `Address`: a workload or a service.

use super::{decode_service, decode_workload, encode_service, encode_workload};
use crate::{FieldError, wire::istio::workload as wire};
use heddle_mesh::{service::Service, workload::Workload};
use std::sync::Arc;

/// What an address may stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A pod or another endpoint.
    Workload(Arc<Workload>),
    /// A service.
    Service(Arc<Service>),
}

/// Reads a resource; `name` is its name on the wire, for errors.
///
/// # Errors
/// The field that cannot be taken, or that neither kind is set.
pub fn decode_address(name: &str, message: &wire::Address) -> Result<Address, FieldError> {
    match &message.r#type {
        Some(wire::address::Type::Workload(workload)) => Ok(Address::Workload(Arc::new(decode_workload(workload)?))),
        Some(wire::address::Type::Service(service)) => Ok(Address::Service(Arc::new(decode_service(service)?))),
        None => Err(FieldError::new(name, "type", "neither a workload nor a service that this proxy knows")),
    }
}

/// Writes a resource.
pub fn encode_address(address: &Address) -> wire::Address {
    let kind = match address {
        Address::Workload(workload) => wire::address::Type::Workload(encode_workload(workload)),
        Address::Service(service) => wire::address::Type::Service(encode_service(service)),
    };
    wire::Address { r#type: Some(kind) }
}

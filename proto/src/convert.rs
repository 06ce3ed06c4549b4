//! Messages to mesh values and back, one file a kind, both directions side by side.
//!
//! Decoding never panics, whatever the bytes; what cannot be taken is a [`FieldError`] that names the field. Encoding
//! cannot fail. `decode(encode(value)) == value` for every value whose addresses are canonical and whose ports are not 0.

mod address;
mod policy;
mod service;
mod workload;

pub use address::{Address, decode_address, encode_address};
pub use policy::{decode_policy, encode_policy, stand_in};
pub use service::{decode_service, encode_service};
pub use workload::{decode_workload, encode_workload};

use crate::error::FieldError;
use ipnet::IpNet;
use prost::Message;
use prost_types::Any;
use std::net::IpAddr;

/// Packs a message under its type URL.
pub fn pack(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

/// Unpacks a message that must have this type URL.
///
/// # Errors
/// Another type, or bytes that are no such message. `resource` and `field` say where it was found.
pub fn unpack<M: Message + Default>(any: &Any, type_url: &str, resource: &str, field: &str) -> Result<M, FieldError> {
    if any.type_url != type_url {
        let found: String = any.type_url.chars().take(128).collect();
        return Err(FieldError::new(resource, field, format!("type {found:?}, expected {type_url}")));
    }
    M::decode(any.value.as_slice())
        .map_err(|error| FieldError::new(resource, field, format!("not a message of {type_url}: {error}")))
}

/// 4 bytes as IPv4, 16 as IPv6, and IPv4-mapped ones as IPv4.
fn decode_ip(bytes: &[u8]) -> Result<IpAddr, String> {
    decode_octets(bytes).map(|address| address.to_canonical())
}

fn encode_ip(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A block; without `length` a single address. See [`canonical`] for its form.
fn decode_block(bytes: &[u8], length: Option<u32>) -> Result<IpNet, String> {
    let address = decode_octets(bytes)?;
    let Some(length) = length else { return Ok(IpNet::from(address.to_canonical())) };
    let block = u8::try_from(length).ok().and_then(|length| IpNet::new(address, length).ok());
    block.map(canonical).ok_or_else(|| format!("prefix length {length} does not fit the address {address}"))
}

/// The address and the prefix length of a block.
fn encode_block(block: IpNet) -> (Vec<u8>, u32) {
    let block = canonical(block);
    (encode_ip(block.addr()), block.prefix_len().into())
}

fn decode_octets(bytes: &[u8]) -> Result<IpAddr, String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| v6()).map_err(|_| format!("{} bytes, expected 4 (IPv4) or 16 (IPv6)", bytes.len()))
}

/// The one form of a block: bits behind the prefix cleared, and IPv4 where it is IPv4-mapped.
fn canonical(block: IpNet) -> IpNet {
    let block = block.trunc();
    // What is still mapped after clearing has a prefix of at least the 96 bits that say so.
    let mapped_length = block.prefix_len().saturating_sub(96);
    match (block.addr(), block.addr().to_canonical()) {
        (IpAddr::V6(_), v4 @ IpAddr::V4(_)) => IpNet::new(v4, mapped_length).unwrap_or(block),
        _ => block,
    }
}

/// A port; 0 is `None`.
fn decode_port(port: u32) -> Result<Option<u16>, String> {
    let port = u16::try_from(port).map_err(|_| format!("port {port}, expected 1 to 65535"))?;
    Ok(Some(port).filter(|port| *port != 0))
}

/// A port that must be there.
fn decode_port_required(port: u32) -> Result<u16, String> {
    decode_port(port)?.ok_or_else(|| "port 0, expected 1 to 65535".to_owned())
}

//! The addresses of this network namespace, by rtnetlink(7).

use super::message::{NetlinkError, dump};
use netlink_bindings::rt_addr;
use std::net::IpAddr;

/// All of them, of both families.
///
/// # Errors
/// When the kernel does not tell.
pub fn all() -> Result<Vec<IpAddr>, NetlinkError> {
    let mut addresses = Vec::new();
    let header = rt_addr::Ifaddrmsg::new();
    dump(&rt_addr::Request::new().op_getaddr_dump(&header), "the pod's addresses", |payload| {
        let (_, attributes) = rt_addr::OpGetaddrDump::decode_request(payload);
        // On a point-to-point interface IFA_ADDRESS is the other end's (linux/if_addr.h).
        addresses.extend(attributes.get_local().or_else(|_| attributes.get_address()).ok());
    })?;
    Ok(addresses)
}

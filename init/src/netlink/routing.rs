//! Policy rules and local routes, by rtnetlink(7). They are not part of the transaction, so they come before it.

use super::message::{Done, NetlinkError, dump, request};
use crate::plan::table::Family;
use heddle_init_abi::{CAPTURE_MARK, ROUTING_TABLE, RULE_PRIORITY};
use netlink_bindings::{rt_route, rt_rule, traits::NetlinkRequest};

/// Adds the rule that sends marked packets to our routing table.
///
/// # Errors
/// When the kernel refuses.
pub fn add_rule(family: Family) -> Result<Done, NetlinkError> {
    let mut operation = rt_rule::Request::new().set_create().set_excl().op_newrule_do(&rule_header(family));
    operation.encode().push_fwmark(CAPTURE_MARK).push_priority(RULE_PRIORITY);
    request(&operation, &[libc::EEXIST], &rule_name(family))
}

/// Removes that rule.
///
/// # Errors
/// When the kernel refuses; no error when it is not there.
pub fn remove_rule(family: Family) -> Result<Done, NetlinkError> {
    let mut operation = rt_rule::Request::new().op_delrule_do(&rule_header(family));
    operation.encode().push_fwmark(CAPTURE_MARK).push_priority(RULE_PRIORITY);
    request(&operation, &[libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP], &rule_name(family))
}

/// Adds the route that delivers everything in our table to this host. It never replaces a route of somebody else's.
///
/// # Errors
/// When the kernel refuses.
pub fn add_route(family: Family) -> Result<Done, NetlinkError> {
    let mut operation = rt_route::Request::new().set_create().set_excl().op_newroute_do(&route_header(family));
    operation.encode().push_oif(LOOPBACK_INDEX);
    request(&operation, &[libc::EEXIST], &route_name(family))
}

/// Removes that route.
///
/// # Errors
/// When the kernel refuses; no error when it is not there.
pub fn remove_route(family: Family) -> Result<Done, NetlinkError> {
    let mut operation = rt_route::Request::new().op_delroute_do(&route_header(family));
    operation.encode().push_oif(LOOPBACK_INDEX);
    request(&operation, &[libc::ESRCH, libc::EAFNOSUPPORT, libc::EOPNOTSUPP], &route_name(family))
}

/// How many policy rules are exactly ours.
///
/// # Errors
/// When the kernel does not tell.
pub fn count_rules(family: Family) -> Result<usize, NetlinkError> {
    let mut header = rt_rule::FibRuleHdr::new();
    header.family = address_family(family);
    let mut count = 0;
    dump(&rt_rule::Request::new().op_getrule_dump(&header), &rule_name(family), |payload| {
        let (header, attributes) = rt_rule::OpGetruleDump::decode_reply(payload);
        let is_ours = header.family == address_family(family)
            && header.table == ROUTING_TABLE
            && header.action == FR_ACT_TO_TBL
            && (header.src_len, header.dst_len, header.tos, header.flags) == (0, 0, 0, 0)
            && attributes.get_fwmark().ok() == Some(CAPTURE_MARK)
            && attributes.get_fwmask().ok().is_none_or(|mask| mask == u32::MAX)
            && attributes.get_priority().ok() == Some(RULE_PRIORITY)
            && attributes.get_iifname().is_err()
            && attributes.get_oifname().is_err();
        count += usize::from(is_ours);
    })?;
    Ok(count)
}

/// What our routing table holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Routes that are exactly ours.
    pub ours: usize,
    /// Any other.
    pub others: usize,
}

/// What our routing table holds for this family.
///
/// # Errors
/// When the kernel does not tell.
pub fn count_routes(family: Family) -> Result<Routes, NetlinkError> {
    let mut header = rt_route::Rtmsg::new();
    header.rtm_family = address_family(family);
    let mut routes = Routes::default();
    dump(&rt_route::Request::new().op_getroute_dump(&header), &route_name(family), |payload| {
        let (header, attributes) = rt_route::OpGetrouteDump::decode_reply(payload);
        if header.rtm_family != address_family(family) || header.rtm_table != ROUTING_TABLE {
            return;
        }
        let is_ours = header.rtm_type == RTN_LOCAL
            && header.rtm_dst_len == 0
            && header.rtm_tos == 0
            && attributes.get_oif().ok() == Some(LOOPBACK_INDEX);
        routes.ours += usize::from(is_ours);
        routes.others += usize::from(!is_ours);
    })?;
    Ok(routes)
}

fn rule_header(family: Family) -> rt_rule::FibRuleHdr {
    let mut header = rt_rule::FibRuleHdr::new();
    (header.family, header.table, header.action) = (address_family(family), ROUTING_TABLE, FR_ACT_TO_TBL);
    header
}

fn route_header(family: Family) -> rt_route::Rtmsg {
    let mut header = rt_route::Rtmsg::new();
    header.rtm_family = address_family(family);
    (header.rtm_table, header.rtm_protocol, header.rtm_type) = (ROUTING_TABLE, RTPROT_BOOT, RTN_LOCAL);
    header.rtm_scope = match family {
        Family::Ip4 => RT_SCOPE_HOST,
        // IPv6 knows no other scope.
        Family::Ip6 => RT_SCOPE_UNIVERSE,
    };
    header
}

fn address_family(family: Family) -> u8 {
    let number = match family {
        Family::Ip4 => libc::AF_INET,
        Family::Ip6 => libc::AF_INET6,
    };
    u8::try_from(number).expect("both numbers are small")
}

fn rule_name(family: Family) -> String {
    format!("the {} policy rule", family_name(family))
}

fn route_name(family: Family) -> String {
    format!("the {} route in table {ROUTING_TABLE}", family_name(family))
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ip4 => "IPv4",
        Family::Ip6 => "IPv6",
    }
}

/// `lo` has index 1 in every network namespace (the kernel's `LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: u32 = 1;
/// "Look up a table" (linux/fib_rules.h).
const FR_ACT_TO_TBL: u8 = 1;
// linux/rtnetlink.h
const RTN_LOCAL: u8 = 2;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_HOST: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;

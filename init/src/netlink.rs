//! Carries a plan to the kernel and reads back what is there, by netlink(7): no `nft`, no `ip`.
//!
//! Messages and dumps are those of `netlink-bindings`. Expressions of rules are encoded and compared here, by the numbers
//! of linux/netfilter/nf_tables.h: the bindings lack `socket` and `dynset`, and number the attributes of `lookup` wrongly.

pub mod addresses;
pub mod attribute;
pub mod batch;
pub mod elements;
pub mod expression;
pub mod message;
pub mod readback;
pub mod routing;

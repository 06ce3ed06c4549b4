//! The dataplane in-process on loopback: two proxies' carriers, hostile peers, no sleeps.

mod carrier;
mod certificates;
mod pool;
mod server;
mod sizes;
mod support;
mod transport;

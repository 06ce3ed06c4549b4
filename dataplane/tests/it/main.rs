//! The dataplane in-process on loopback: two proxies' carriers, hostile peers, no sleeps.

mod carrier;
mod certificates;
mod pool;
mod sensor;
mod server;
mod sizes;
mod support;
mod transport;

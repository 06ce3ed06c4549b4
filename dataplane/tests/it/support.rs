//! What the tests share: a CA, two proxies, and applications.

mod ca;
mod mesh;
mod pattern;

pub(crate) use ca::{Ca, Leaf};
pub(crate) use mesh::{CLIENT, Mesh, Options, SERVER, accept_one, echo, listen};
pub(crate) use pattern::Pattern;

use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};

/// Runs a test as a worker runs: one thread, and tasks that stay on it. It must be over in a minute of its clock.
pub(crate) fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime can be built");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs") })
}

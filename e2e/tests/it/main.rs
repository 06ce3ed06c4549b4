//! The end-to-end tests: one binary, every scenario once for each capture mode and address family.
//!
//! They need root, the packages that `cargo xtask ci` installs, and the product's binaries (see [`heddle_e2e::program`]).
//! What is missing fails a test; nothing is skipped. `HEDDLE_TIER=full` takes the counts of the full tier.

use anyhow::Result;
use heddle_e2e::{Family, Mode, TestMesh};

/// Makes a test of each scenario `fn(&TestMesh) -> anyhow::Result<()>`, for every capture mode and family:
/// `<file>::<mode>::<family>::<scenario>`. A new capture mode is one more row. `in ebpf Ebpf:` before the names makes tests
/// for this mode alone.
macro_rules! scenarios {
    (in $module:ident $mode:ident: $($name:ident),+ $(,)?) => {
        scenarios! { @mode $module $mode $($name)+ }
    };
    ($($name:ident),+ $(,)?) => {
        scenarios! { @mode tproxy Tproxy $($name)+ }
        scenarios! { @mode ebpf Ebpf $($name)+ }
    };
    (@mode $module:ident $mode:ident $($name:ident)+) => {
        mod $module {
            scenarios! { @family v4 V4 $mode $($name)+ }
            scenarios! { @family v6 V6 $mode $($name)+ }
        }
    };
    (@family $module:ident $family:ident $mode:ident $($name:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    let test = concat!(module_path!(), "::", stringify!($name));
                    crate::run(test, heddle_e2e::Mode::$mode, heddle_e2e::Family::$family, super::super::$name);
                }
            )+
        }
    };
}

mod bpf;
mod bypass;
mod capture;
mod client_address;
mod cni;
mod dns;
mod drain;
mod ebpf;
mod guard;
mod harness;
mod mtls;
mod peer;
mod policy;
mod restart;
mod sensor;
mod sockets;
mod support;
mod tampering;
mod tcp;

/// Runs one scenario on a mesh of its own.
fn run(test: &str, mode: Mode, family: Family, scenario: fn(&TestMesh) -> Result<()>) {
    // The path starts with the name of this binary's crate.
    let test = test.split_once("::").map_or(test, |(_, rest)| rest);
    match TestMesh::builder(family).mode(mode).test(test).build() {
        Ok(mesh) => mesh.conclude(scenario(&mesh)),
        Err(error) => panic!("{test}: making the mesh: {error:?}"),
    }
}

//! Generated messages, clients and servers, one module a protobuf package.
//!
//! `tests/it/generated.rs` writes the files in `src/gen` and fails when they are not what `proto/` says.
#![allow(
    missing_docs,
    unnameable_types,
    unused_qualifications,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated code; the .proto files are documented"
)]

/// Envoy's discovery protocol.
pub mod envoy {
    /// Package `envoy.config`.
    pub mod config {
        /// Package `envoy.config.core`.
        pub mod core {
            /// Package `envoy.config.core.v3`: who asks.
            pub mod v3 {
                include!("gen/envoy.config.core.v3.rs");
            }
        }
    }
    /// Package `envoy.service`.
    pub mod service {
        /// Package `envoy.service.discovery`.
        pub mod discovery {
            /// Package `envoy.service.discovery.v3`: the delta stream.
            pub mod v3 {
                include!("gen/envoy.service.discovery.v3.rs");
            }
        }
    }
}

/// Google's common messages.
pub mod google {
    /// Package `google.rpc`: errors.
    pub mod rpc {
        include!("gen/google.rpc.rs");
    }
}

/// Istio's protocols.
pub mod istio {
    /// Package `istio.security`: L4 policies.
    pub mod security {
        include!("gen/istio.security.rs");
    }
    /// Package `istio.v1`.
    pub mod v1 {
        /// Package `istio.v1.auth`: the certificate authority.
        pub mod auth {
            include!("gen/istio.v1.auth.rs");
        }
    }
    /// Package `istio.workload`: workloads and services.
    pub mod workload {
        include!("gen/istio.workload.rs");
    }
}

/// This mesh's own protocols.
pub mod heddle {
    /// Package `heddle.v1`: what we add to a workload.
    pub mod v1 {
        include!("gen/heddle.v1.rs");
    }
}

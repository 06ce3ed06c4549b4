//! The controller: manifests become a mesh, the mesh goes to the proxies, and workloads get their certificates.
//!
//! The way of a manifest: [`source`] reads it (files, lines, typed objects), [`translate`] makes mesh values and
//! [`condition`]s of it, [`state_of_mesh`] publishes them, [`serve`] sends what changed. [`ca`] and [`token`] say who is who.
//!
//! Invariant: knows neither the dataplane nor the proxies' client. What a proxy gets is decided by pure functions.
#![forbid(unsafe_code)]

pub mod app;
pub mod ca;
pub mod check;
pub mod condition;
pub mod config;
pub mod manifest;
pub mod metrics;
pub mod monitoring;
pub mod serve;
pub mod source;
pub mod state;
pub mod state_of_mesh;
pub mod token;
pub mod translate;
pub mod yaml;

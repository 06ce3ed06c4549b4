//! The client against a controller in this process that speaks the real protocol over real TLS, and does what a test says.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod certificate;
mod controller;
mod discovery;
mod failure;
mod on_demand;
mod relay;
mod values;

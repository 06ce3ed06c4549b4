//! The wire between controller and proxy: messages, and their conversion from and to the values of `heddle-mesh`.
//!
//! [`wire`] holds the generated messages and the clients and servers of their services, [`convert`] the two directions
//! of each kind side by side, [`names`] how resources are named and asked for.
//!
//! Invariant: decides nothing. What a message does not say gets the default that its protocol documents.
#![forbid(unsafe_code)]

pub mod convert;
pub mod error;
pub mod names;
pub mod wire;

pub use error::FieldError;

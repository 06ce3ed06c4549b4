//! Tests of the wire: the generated code is current, values survive the way over the wire, and what is malformed is
//! refused by name.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod arbitrary;
mod generated;
mod refusals;
mod roundtrip;

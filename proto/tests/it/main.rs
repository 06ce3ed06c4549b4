//! Tests of the wire: the generated code is current, and values survive the way over the wire.

mod generated;

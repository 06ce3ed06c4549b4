//! The controller in-process: manifests in a folder, a raw gRPC client at the other end.

mod certificates;
mod check;
mod command;
mod discovery;
mod folder;
mod support;

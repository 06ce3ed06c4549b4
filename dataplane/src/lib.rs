//! The sidecar: takes every connection of its pod, decides what it means in the mesh, and carries its bytes.
//!
//! # The way of a connection
//! From the application into the mesh: [`listener`] accepts, [`capture`] tells the original destination, [`outbound`] asks
//! the mesh what it means, [`tcp`] picks an endpoint of [`upstream`], [`connect`] reaches it, by a tunnel of [`hbone`] in
//! mutual TLS ([`tls`], [`identity`]), and [`relay`] carries the bytes.
//!
//! From the mesh to the application: a tunnel ([`inbound::tunnel`]) or a captured plaintext connection ([`inbound`]) is
//! admitted by [`authorize`] before the application is dialled, from the client's own address.
//!
//! # Floors
//! 4 `app config admin allocator`, 3 `outbound inbound tcp`, 2 `upstream connect hbone tls identity authorize view`,
//! 1 `listener capture stream relay socket drain scratch allocator`. A module uses its own floor and those below. [`telemetry`] and
//! [`error`] serve all.

pub mod admin;
pub mod allocator;
pub mod app;
pub mod authorize;
pub mod capture;
pub mod config;
pub mod connect;
pub mod drain;
pub mod error;
pub mod hbone;
pub mod identity;
pub mod inbound;
pub mod listener;
pub mod outbound;
pub mod relay;
pub mod scratch;
pub mod socket;
pub mod stream;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod view;

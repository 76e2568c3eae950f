//! The acceptance harness: starts the real `tlstunnel`, drives it with the real `tlstunnel-ctl`, and gives tests backends
//! and clients to put around it.
//!
//! It must not know the inside of the gateway: everything goes through programs, ports and files, so that the same tests
//! hold for the gateway in any form. Harness functions panic with what went wrong; they run in tests only.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod acme_dns;
pub mod backend;
pub mod browser;
pub mod client;
pub mod dns_hook;
pub mod gateway;
pub mod guest_options;
pub mod name_server;
pub mod pebble;
pub mod peer;
pub mod programs;
pub mod refused;
pub mod unikernel;
pub mod zone_signer;

pub use gateway::Gateway;

//! An edge TLS gateway: one address fronts many services by server name (SNI).
//!
//! # The way of a connection
//!
//! [`listen`] accepts → [`client_hello`] reads the ClientHello, bounded in size and time → [`route`] looks the name up in
//! the current [`gateway::Snapshot`] → [`tls`] terminates (or nothing does, in passthrough) → [`backend`] chooses,
//! connects, retries and writes the PROXY header → [`forward`] copies both ways → [`live`] and [`counters`] account.
//! The chain stands, link by link, in [`serve`]. Port 80 is [`redirect`].
//!
//! # The way of a change
//!
//! [`control`] authenticates a request → [`config`] validates it, writes a generation to the store, and publishes a new
//! snapshot, which the next connection sees. A live connection keeps what it started with.
//!
//! This room must not know where it runs: it uses tokio's sockets and one block device, and works on a single thread.
#![forbid(unsafe_code)]

pub mod backend;
pub mod client_hello;
pub mod config;
pub mod control;
pub mod counters;
pub mod demand;
pub mod forward;
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
pub mod limits;
pub mod listen;
pub mod live;
pub mod memory;
pub mod observe;
pub mod options;
pub mod redirect;
pub mod route;
pub mod run;
pub mod serve;
mod tcp;
pub mod tls;

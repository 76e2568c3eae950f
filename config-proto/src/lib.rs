//! The control protocol of tlstunnel: what is said ([`model`], [`message`]) and how it is kept honest on the wire.
//!
//! This room must not know sockets, clocks, stores or the gateway: bytes, time and randomness come in as arguments,
//! bytes and events go out. The gateway, `tlstunnel-ctl` and the tests drive it.
#![forbid(unsafe_code)]

pub mod message;
pub mod model;

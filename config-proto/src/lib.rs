//! The control protocol of tlstunnel: what is said ([`model`], [`message`]), who may say it ([`access`]), and how it is
//! kept honest on the wire ([`v1`], the original's protocol, and [`v2`], ours).
//!
//! # The way of a request
//!
//! The caller accepts a connection and reads its first bytes → [`mod@sniff`] tells v1 from v2 → the server of that version
//! takes bytes in any pieces and gives back requests, or the reason why it refuses to → [`access::permits`] → the caller
//! does what was asked → the server turns the result into bytes. A client goes the same way in the mirror.
//!
//! This room must not know sockets, clocks, stores or the gateway: bytes, time and randomness come in as arguments,
//! bytes and events go out. The gateway, `tlstunnel-ctl` and the tests drive it.
//!
//! What an unknown peer can make this room hold is bounded before anything is allocated: see the named constants of
//! [`v1`] and [`v2`].
#![forbid(unsafe_code)]

pub mod access;
mod buffer;
pub mod key;
mod mac;
pub mod message;
pub mod model;
pub mod site;
pub mod sniff;
mod text;
pub mod v1;
pub mod v2;

pub use sniff::sniff;

//! The real `tlstunnel-ctl` against a scripted gateway that speaks the real protocol over a real socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
mod exit_codes;
mod offline;
mod reading;
mod sites;
mod support;
mod top;
mod v1;

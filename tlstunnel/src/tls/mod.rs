//! TLS termination.

pub mod certificates;

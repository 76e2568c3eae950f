//! Backends of a route.

/// The backends of one route.
#[derive(Debug)]
pub struct Backends {}

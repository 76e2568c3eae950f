//! The list of live connections.

use crate::limits::Limits;

/// Every open connection.
#[derive(Debug)]
pub struct LiveConnections {}

impl LiveConnections {
    /// An empty list with the caps of `limits`.
    pub fn new(_limits: &Limits) -> Self {
        Self {}
    }
}

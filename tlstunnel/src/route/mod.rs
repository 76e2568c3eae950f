//! Routes: which connection goes where.
//!
//! A [`Route`] is what people configured; an [`ActiveRoute`] is the same, checked and made ready for connections. The
//! [`RoutingTable`] finds the active route for a server name.
//!
//! This room must not know sockets or the store.

mod active;
mod table;

pub use active::{ActiveRoute, InvalidRoute};
pub use table::{Match, Reason, RoutingTable};

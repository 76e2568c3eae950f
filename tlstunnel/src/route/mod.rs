//! Routes: which connection goes where.
//!
//! A [`config_proto::model::Route`] is what people configured; an [`ActiveRoute`] is the same, checked and made ready
//! for connections. The [`RoutingTable`] finds the active route for a server name.
//!
//! This room must not know sockets or the store.

mod active;
mod authorities;
mod cost;
mod invalid;
mod table;

pub use active::ActiveRoute;
pub use authorities::{InvalidAuthorities, MAX_AUTHORITIES_LEN};
pub use cost::cost;
pub use invalid::{InvalidRoute, MAX_ALPN_PROTOCOLS, MAX_DESCRIPTION_LEN};
pub use table::{Match, Reason, RoutingTable};

//! The backends of a route: which one a connection gets, and how it is opened.
//!
//! [`Backends`] orders its members for a client, tries one after the other within the connect limit, and remembers what
//! failed, so that the next client does not wait for a dead one. Active checks watch backends whether or not clients
//! come. DNS names go through the shared [`Resolver`].
//!
//! It must not know listeners, the gateway's own certificates or the store. Nothing here belongs to one thread: several
//! single-threaded runtimes share it.

mod connection;
mod health;
mod opener;
mod pool;
mod resolver;
mod state;
mod tls;

pub use connection::{
    Attempt, BackendConnection, BackendStream, ClientInfo, ConnectError, TlsInfo,
};
pub use pool::Backends;
pub use resolver::{MAX_ADDRESSES, ResolveError, Resolver, ResolverOptions};
pub use state::{Backend, BackendSummary, FIRST_BACK_OFF, LONGEST_BACK_OFF};
pub(crate) use tls::{TlsConnector, Trust};

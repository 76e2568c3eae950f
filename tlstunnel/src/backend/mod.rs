//! The backends of a route: which one a connection gets, and how it is opened.
//!
//! [`Backends`] orders its members for a client ([`balance`]), tries one after the other within the connect limit
//! ([`connect`]), and remembers what failed, so that the next client does not wait for a dead one. Active checks
//! ([`health`]) watch backends whether or not clients come. DNS names go through the shared [`Resolver`].
//!
//! It must not know listeners, certificates of the gateway or the store.

mod connection;
mod pool;
mod resolver;
mod state;
mod tls;

pub use connection::{Attempt, BackendConnection, BackendStream, ClientInfo, ConnectError, TlsInfo};
pub use pool::Backends;
pub use resolver::{MAX_ADDRESSES, ResolveError, Resolver, ResolverOptions};
pub use state::{Backend, BackendSummary};
pub(crate) use tls::TlsConnector;
pub use tls::InvalidBackendTls;

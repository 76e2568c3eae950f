//! DNS names of backends, resolved once for all routes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The most addresses of one name that are used.
pub const MAX_ADDRESSES: usize = 16;

/// Where a [`Resolver`] asks.
#[derive(Clone, Debug, Default)]
pub struct ResolverOptions {
    /// Name servers to ask. Empty: those of /etc/resolv.conf, where there is one.
    pub name_servers: Vec<SocketAddr>,
}

/// Why a name could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No name server is known.
    #[error("no name server is known: give one by option, or have /etc/resolv.conf")]
    NoNameServer,
}

/// Resolves the DNS names of backends: one cache for all routes and threads. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    shared: Arc<()>,
}

impl Resolver {
    /// A resolver that asks where `options` say.
    pub fn new(options: ResolverOptions) -> Self {
        let _ = options;
        todo!()
    }

    /// The addresses of `name`, 1 to [`MAX_ADDRESSES`].
    ///
    /// # Errors
    /// When the name does not exist or nobody answers, and no earlier answer is known.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let _ = (name, &self.shared);
        todo!()
    }
}

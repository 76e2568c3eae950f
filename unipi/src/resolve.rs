//! The addresses of named hosts, asked for over tokio's sockets: no `getaddrinfo`, no thread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// Why a host has no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Nobody can be asked.
    #[error("no name server to ask ({0}); name one by option")]
    NoServer(String),
    /// Whoever was asked knows none.
    #[error("{host} cannot be resolved: {error}")]
    Unknown {
        /// The host.
        host: String,
        /// What the name server says.
        error: String,
    },
}

/// The addresses of `host`, which may be one itself. Asks `name_servers`, or the system's when there are none. Limits of
/// time are the caller's.
///
/// # Errors
/// [`ResolveError`].
pub async fn addresses(
    name_servers: &[SocketAddr],
    host: &str,
) -> Result<Vec<IpAddr>, ResolveError> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    // RFC 6761, section 6.3.
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let found = resolver(name_servers)?.lookup_ip(host).await.map_err(|error| {
        ResolveError::Unknown { host: host.to_owned(), error: error.to_string() }
    })?;
    Ok(found.iter().collect())
}

/// The name that `name` is a CNAME for, if it is one. Asks whom [`addresses`] asks.
///
/// # Errors
/// [`ResolveError`].
pub async fn alias(
    name_servers: &[SocketAddr],
    name: &str,
) -> Result<Option<String>, ResolveError> {
    let found = certify::dns::alias(&resolver(name_servers)?, name).await;
    found.map_err(|error| ResolveError::Unknown { host: name.to_owned(), error })
}

fn resolver(name_servers: &[SocketAddr]) -> Result<TokioResolver, ResolveError> {
    let none = |error: &dyn std::fmt::Display| ResolveError::NoServer(error.to_string());
    let builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| none(&error))?
    } else {
        let servers = name_servers.iter().map(|server| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut config.connections {
                connection.port = server.port();
            }
            config
        });
        let config = ResolverConfig::from_parts(None, vec![], servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    builder.build().map_err(|error| none(&error))
}

//! TCP connections to named hosts, resolved over tokio's sockets: no `getaddrinfo`, no thread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::git::{FetchError, Limits, Remote};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// How long one address has to answer before the next is tried.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A connection to the first address of `host` that answers.
pub(super) async fn tcp(
    remote: &Remote,
    host: &str,
    port: u16,
    limits: &Limits,
) -> Result<TcpStream, FetchError> {
    let resolved = timeout(limits.idle_time, addresses(remote, host)).await;
    let addresses = resolved.map_err(|_| FetchError::Idle(limits.idle_time))??;
    let mut failure = format!("{host} has no address");
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        let address = SocketAddr::new(address, port);
        match timeout(ATTEMPT.min(limits.idle_time), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small requests must not wait for acknowledgements; without the option they are only slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failure = format!("{address}: {error}"),
            Err(_) => failure = format!("{address}: no answer"),
        }
    }
    Err(FetchError::Unreachable(failure))
}

async fn addresses(remote: &Remote, host: &str) -> Result<Vec<IpAddr>, FetchError> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    // RFC 6761, section 6.3.
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let found = resolver(remote)?
        .lookup_ip(host)
        .await
        .map_err(|error| FetchError::Unreachable(format!("{host} cannot be resolved: {error}")))?;
    Ok(found.iter().collect())
}

fn resolver(remote: &Remote) -> Result<TokioResolver, FetchError> {
    let none = |error: &dyn std::fmt::Display| {
        FetchError::Configuration(format!("no name server to ask ({error}); name one by option"))
    };
    let builder = if remote.name_servers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| none(&error))?
    } else {
        let servers = remote.name_servers.iter().map(|server| {
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

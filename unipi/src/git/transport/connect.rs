//! TCP connections to named hosts.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::git::{FetchError, Limits, Remote};
use crate::resolve::{self, ResolveError};

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
    let resolved = timeout(limits.idle_time, resolve::addresses(&remote.name_servers, host)).await;
    let addresses =
        resolved.map_err(|_| FetchError::Idle(limits.idle_time))?.map_err(|error| match error {
            ResolveError::NoServer(_) => FetchError::Configuration(error.to_string()),
            ResolveError::Unknown { .. } => FetchError::Unreachable(error.to_string()),
        })?;
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

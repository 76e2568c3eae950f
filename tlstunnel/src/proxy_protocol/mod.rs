//! PROXY protocol v1 and v2, parsing and writing.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncRead;

/// Addresses that a PROXY header gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

/// Reads one PROXY header and not one byte more; `None` for LOCAL and UNKNOWN.
///
/// # Errors
/// When the bytes are no PROXY header.
pub async fn read_header<S: AsyncRead + Unpin>(_stream: &mut S) -> io::Result<Option<Addresses>> {
    Err(io::ErrorKind::Unsupported.into())
}

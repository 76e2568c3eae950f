//! Port 80.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::gateway::Gateway;
use crate::live::Slot;

mod challenges;

pub use challenges::Challenges;

/// Serves one connection on port 80 to its end.
pub async fn connection(
    _gateway: Arc<Gateway>,
    _stream: TcpStream,
    _peer: SocketAddr,
    _slot: Slot,
    _https_port: u16,
) {
}

//! The chain of one TLS connection.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::net::TcpStream;

use crate::gateway::Gateway;
use crate::live::Slot;

/// Serves one accepted connection to its end.
pub async fn connection(
    _gateway: Arc<Gateway>,
    _stream: TcpStream,
    _peer: SocketAddr,
    _slot: Slot,
    _proxy_from: Arc<[IpNet]>,
) {
}

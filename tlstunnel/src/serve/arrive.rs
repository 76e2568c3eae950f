//! The first link: who the client is, and whether there is room for it.

use std::net::SocketAddr;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::gateway::Gateway;
use crate::live::{Admitted, Slot};

/// Why a connection was refused before it was admitted: in short, and details.
pub(super) type Unwelcome = (&'static str, Option<String>);

/// Finds out who the client is and counts it against the caps.
pub(super) async fn arrive(
    gateway: &Gateway,
    mut stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    proxy_from: &[IpNet],
    deadline: Instant,
) -> Result<(TcpStream, Admitted, SocketAddr), Unwelcome> {
    let mut client = peer;
    let mut local = stream.local_addr().map_err(|e| ("client error", Some(e.to_string())))?;
    if proxy_from.iter().any(|net| net.contains(&peer.ip().to_canonical())) {
        match timeout_at(deadline, proxy_protocol::read_header(&mut stream)).await {
            Err(_) => {
                gateway.counters.handshake_timeouts.add_one();
                return Err(("PROXY header too slow", None));
            }
            Ok(Err(error)) => {
                gateway.counters.hello_malformed.add_one();
                return Err(("bad PROXY header", Some(error.to_string())));
            }
            // LOCAL and UNKNOWN: the load balancer speaks for itself, as in a health check.
            Ok(Ok(None)) => {}
            Ok(Ok(Some(addresses))) => {
                client = addresses.source;
                local = addresses.destination;
            }
        }
    }
    match slot.admit(client) {
        Ok(live) => Ok((stream, live, local)),
        Err(over) => {
            gateway.counters.refused_over_cap.add_one();
            Err(("over cap", Some(over.to_string())))
        }
    }
}

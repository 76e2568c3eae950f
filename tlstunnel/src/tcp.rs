//! The TCP options of every connection, to clients and to backends: no delay, and an end for peers that have vanished.
//!
//! A peer that ends says so. One that lost its power or its network says nothing: whoever only reads from it waits for
//! ever, whoever writes to it waits until the system has sent the same bytes often enough, which is 15 minutes on Linux.
//! Two options bound both: keep-alive probes make an idle peer owe an answer ([`Limits::keepalive`]), and
//! [`Limits::peer_timeout`] is how long any answer may take (TCP_USER_TIMEOUT, RFC 5482).

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::limits::Limits;

/// Probes in the time of silence before the first one.
const PROBES: u32 = 4;
/// Systems count the times of probes in whole seconds and refuse zero.
const SECOND: Duration = Duration::from_secs(1);

/// Sets the options of an open connection. A connection works without them, too, so an option that the system does
/// not have or refuses is only logged.
pub(crate) fn tune(stream: &TcpStream, limits: &Limits) {
    let said = |option: &str, result: io::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(option, %error, "the system refuses a socket option");
        }
    };
    // TLS records are written whole anyway.
    said("TCP_NODELAY", stream.set_nodelay(true));
    let socket = SockRef::from(stream);
    if !limits.keepalive.is_zero() {
        said("SO_KEEPALIVE", socket.set_tcp_keepalive(&probes(limits)));
    }
    #[cfg(target_os = "linux")]
    if !limits.peer_timeout.is_zero() {
        said("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(limits.peer_timeout)));
    }
}

/// Where there is a limit for answers it also takes the place of a number of probes, so that one lost probe ends nothing
/// as long as the limit is longer than the silence before the first.
fn probes(limits: &Limits) -> TcpKeepalive {
    let interval = (limits.keepalive / PROBES).max(SECOND);
    TcpKeepalive::new().with_time(limits.keepalive.max(SECOND)).with_interval(interval)
}

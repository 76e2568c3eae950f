//! The options that set [`Limits`], one for each.

use std::time::Duration;

use clap::Args;
use config_proto::v2::{GATEWAY_FRAME_BYTES, MAX_FRAME_BYTES};

use super::values::{buffer_size, duration, size};
use crate::limits::Limits;
use crate::memory;

/// Every limit of [`Limits`]. Times are written `500ms`, `10s`, `5m`, `1h`; sizes `32KiB`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// From accept to the end of the TLS handshake
    #[arg(long, env = "TLSTUNNEL_HANDSHAKE_TIMEOUT", default_value = "10s", value_name = "TIME",
          value_parser = nonzero_duration)]
    pub handshake_timeout: Duration,

    /// For a connection to one backend to open
    #[arg(long, env = "TLSTUNNEL_CONNECT_TIMEOUT", default_value = "5s", value_name = "TIME",
          value_parser = nonzero_duration)]
    pub connect_timeout: Duration,

    /// Without a byte in either direction; 0: no limit
    #[arg(long, env = "TLSTUNNEL_IDLE_TIMEOUT", default_value = "1h", value_name = "TIME",
          value_parser = duration)]
    pub idle_timeout: Duration,

    /// Without a byte once one direction has ended; 0: no limit
    #[arg(long, env = "TLSTUNNEL_HALF_CLOSED_TIMEOUT", default_value = "5m", value_name = "TIME",
          value_parser = duration)]
    pub half_closed_timeout: Duration,

    /// For the head of a request on port 80 to arrive
    #[arg(long, env = "TLSTUNNEL_HTTP_HEAD_TIMEOUT", default_value = "10s", value_name = "TIME",
          value_parser = nonzero_duration)]
    pub http_head_timeout: Duration,

    /// For open connections to end after a signal to stop
    #[arg(long, env = "TLSTUNNEL_DRAIN_TIMEOUT", default_value = "30s", value_name = "TIME",
          value_parser = duration)]
    pub drain_timeout: Duration,

    /// Silence before TCP keep-alive probes; 0: no probes
    #[arg(long, env = "TLSTUNNEL_KEEPALIVE", default_value = "1m", value_name = "TIME",
          value_parser = duration)]
    pub keepalive: Duration,

    /// For a client or backend to acknowledge data and probes, before it counts as vanished; 0: as the system does
    #[arg(long, env = "TLSTUNNEL_PEER_TIMEOUT", default_value = "3m", value_name = "TIME",
          value_parser = peer_timeout)]
    pub peer_timeout: Duration,

    /// Connections at the same time
    #[arg(long, env = "TLSTUNNEL_MAX_CONNECTIONS", default_value_t = 20_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// Connections of one client (one /64 for IPv6) at the same time; 0: no limit
    #[arg(
        long,
        env = "TLSTUNNEL_MAX_CONNECTIONS_PER_CLIENT",
        default_value_t = 1_000,
        value_name = "N"
    )]
    pub max_connections_per_client: u32,

    /// Memory that all routes together may take; what would need more is refused [default: half of what the gateway can
    /// have, and 1GiB where the system does not say]
    #[arg(long, env = "TLSTUNNEL_ROUTE_MEMORY", value_name = "SIZE", value_parser = size)]
    pub route_memory: Option<u64>,

    /// Bytes of one request at the control port [default: 16MiB, or a 32nd part of the memory where that is less, but at
    /// least 1MiB]
    #[arg(long, env = "TLSTUNNEL_MAX_CONTROL_FRAME", value_name = "SIZE", value_parser = buffer_size)]
    pub max_control_frame: Option<usize>,

    /// Bytes of a ClientHello
    #[arg(long, env = "TLSTUNNEL_MAX_CLIENT_HELLO", default_value = "64KiB", value_name = "SIZE",
          value_parser = buffer_size)]
    pub max_client_hello: usize,

    /// Bytes of the head of one request on port 80
    #[arg(long, env = "TLSTUNNEL_MAX_HTTP_HEAD", default_value = "16KiB", value_name = "SIZE",
          value_parser = buffer_size)]
    pub max_http_head: usize,

    /// Bytes of each of the two copy buffers of a connection
    #[arg(long, env = "TLSTUNNEL_COPY_BUFFER", default_value = "32KiB", value_name = "SIZE",
          value_parser = buffer_size)]
    pub copy_buffer: usize,
}

/// The part of the memory that one frame of the control protocol may be.
const FRAME_SHARE: u64 = 32;
/// Memory for routes where the system does not say how much there is.
const ROUTE_MEMORY: u64 = 1 << 30;

impl LimitOptions {
    /// Bytes of memory that all routes together may take. The other half is for connections, and for a change while old
    /// and new routes are there.
    pub fn route_memory(&self) -> u64 {
        let half = || memory::available().map(|bytes| bytes / 2);
        self.route_memory.or_else(half).unwrap_or(ROUTE_MEMORY)
    }

    /// The longest frame of the control protocol that is taken. What is read from it takes some ten times as much memory.
    pub fn max_control_frame(&self) -> usize {
        let share = || {
            let share = memory::available().map_or(u64::MAX, |bytes| bytes / FRAME_SHARE);
            usize::try_from(share).unwrap_or(usize::MAX).clamp(MAX_FRAME_BYTES, GATEWAY_FRAME_BYTES)
        };
        self.max_control_frame.unwrap_or_else(share)
    }

    /// The limits that they set.
    pub fn limits(&self) -> Limits {
        // A u32 that does not fit a usize means "more than this machine can have".
        let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        Limits {
            handshake: self.handshake_timeout,
            connect: self.connect_timeout,
            idle: self.idle_timeout,
            half_closed: self.half_closed_timeout,
            http_head: self.http_head_timeout,
            drain: self.drain_timeout,
            client_hello_bytes: self.max_client_hello,
            http_head_bytes: self.max_http_head,
            connections: count(self.max_connections),
            connections_per_client: count(self.max_connections_per_client),
            copy_buffer_bytes: self.copy_buffer,
            keepalive: self.keepalive,
            peer_timeout: self.peer_timeout,
        }
    }
}

fn nonzero_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0".to_owned()),
        some => Ok(some),
    }
}

/// Sockets take a number of milliseconds with 31 bits.
fn peer_timeout(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    match i32::try_from(time.as_millis()) {
        Ok(_) => Ok(time),
        Err(_) => Err("must be 24 days or less".to_owned()),
    }
}

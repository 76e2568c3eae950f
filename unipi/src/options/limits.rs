//! What clients may cost.

use std::time::Duration;

use clap::Args;

use super::values::{buffer_size, duration};
use crate::serve::Limits;

/// What clients may cost.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Connections at the same time; more wait
    #[arg(long, env = "UNIPI_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Bytes that the head of a request may have
    #[arg(long, env = "UNIPI_MAX_HEAD", default_value = "16KiB", value_name = "SIZE", value_parser = buffer_size)]
    pub max_head: usize,

    /// Headers that a request may have
    #[arg(long, env = "UNIPI_MAX_HEADERS", default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u16).range(10..=1000))]
    pub max_headers: u16,

    /// Bytes that a request target may have
    #[arg(long, env = "UNIPI_MAX_TARGET", default_value = "8KiB", value_name = "SIZE", value_parser = buffer_size)]
    pub max_target: usize,

    /// Requests that an HTTP/2 connection may have open
    #[arg(long, env = "UNIPI_MAX_STREAMS", default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_streams: u32,

    /// Bytes that the body of a webhook may have
    #[arg(long, env = "UNIPI_MAX_HOOK", default_value = "16MiB", value_name = "SIZE", value_parser = buffer_size)]
    pub max_hook: usize,

    /// For the head of a request to arrive
    #[arg(long, env = "UNIPI_HEAD_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub head_timeout: Duration,

    /// For a connection on which nothing moves
    #[arg(long, env = "UNIPI_IDLE_TIMEOUT", default_value = "60s", value_name = "TIME", value_parser = duration)]
    pub idle_timeout: Duration,

    /// For the body of a webhook to arrive
    #[arg(long, env = "UNIPI_HOOK_TIMEOUT", default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub hook_timeout: Duration,

    /// For open connections to end when the server is told to stop
    #[arg(long, env = "UNIPI_DRAIN_TIMEOUT", default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub drain_timeout: Duration,

    /// For a fetch as a whole
    #[arg(long, env = "UNIPI_FETCH_TIMEOUT", default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub fetch_timeout: Duration,
}

impl LimitOptions {
    /// The server's limits.
    pub fn serving(&self, handshake_time: Duration) -> Limits {
        Limits {
            connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            head_bytes: self.max_head,
            headers: usize::from(self.max_headers),
            target_bytes: self.max_target,
            handshake_time,
            head_time: self.head_timeout,
            idle_time: self.idle_timeout,
            streams: self.max_streams,
            hook_bytes: self.max_hook,
            hook_time: self.hook_timeout,
            drain_time: self.drain_timeout,
        }
    }
}

//! What clients may cost.

use std::time::Duration;

/// Limits of the server, all of them options.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time; more wait in the kernel's queue.
    pub connections: usize,
    /// Bytes that the head of an HTTP/1 request may have.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Bytes of a request target; longer ones get 414.
    pub target_bytes: usize,
    /// For a TLS handshake, and the PROXY header before it.
    pub handshake_time: Duration,
    /// For the head of a request to arrive once its first byte has, and for the first request of a connection.
    pub head_time: Duration,
    /// A connection on which nothing moves for so long is closed, whether it waits for a request or for the client to
    /// read.
    pub idle_time: Duration,
    /// Requests that an HTTP/2 connection may have open.
    pub streams: u32,
    /// Bytes of a webhook's body; larger ones get 413.
    pub hook_bytes: usize,
    /// For a webhook's body to arrive.
    pub hook_time: Duration,
    /// For open connections to end once the server is told to stop.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_bytes: 16 << 10,
            headers: 100,
            target_bytes: 8 << 10,
            handshake_time: Duration::from_secs(10),
            head_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(60),
            streams: 100,
            hook_bytes: 16 << 20,
            hook_time: Duration::from_secs(10),
            drain_time: Duration::from_secs(30),
        }
    }
}

//! Every limit of the gateway, in one place and with a name. Options set them; the defaults suit one small server.

use std::time::Duration;

/// The gateway's limits. A duration of zero means "no limit" only where its field says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From accept to the end of the TLS handshake, ClientHello included.
    pub handshake: Duration,
    /// For a connection's whole search for a backend: looking names up, every attempt to connect, and in re-encrypt mode
    /// the TLS handshake. An attempt that others can follow gets half of what is left.
    pub connect: Duration,
    /// Without a byte in either direction. Zero: no limit.
    pub idle: Duration,
    /// Without a byte once one direction has ended. Zero: no limit.
    pub half_closed: Duration,
    /// For the head of a request on port 80 to arrive.
    pub http_head: Duration,
    /// For open connections to end after SIGTERM.
    pub drain: Duration,
    /// Bytes of a ClientHello, record headers included.
    pub client_hello_bytes: usize,
    /// Bytes of the head of one request on port 80.
    pub http_head_bytes: usize,
    /// Connections that are open at the same time, on all listeners together.
    pub connections: usize,
    /// Connections from one client address (one /64 for IPv6) at the same time. Zero: no limit.
    pub connections_per_client: usize,
    /// Bytes of each of the two copy buffers of a connection that is moving data. Twice the default saves about 5 % of the
    /// CPU time of bulk transfers (`tools/bench/gateway.py --only bulk`) for twice the memory of clients that read slowly.
    pub copy_buffer_bytes: usize,
    /// Silence of a client or backend before TCP keep-alive probes. Zero: no probes.
    pub keepalive: Duration,
    /// How long a client or backend may owe TCP an acknowledgement, of data or of a keep-alive probe, before its
    /// connection ends. On Linux that includes a peer that lives and takes nothing: its window stays closed for so long.
    /// Zero: as long as the system waits.
    pub peer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(3600),
            half_closed: Duration::from_secs(300),
            http_head: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            client_hello_bytes: 64 * 1024,
            http_head_bytes: 16 * 1024,
            connections: 20_000,
            connections_per_client: 1_000,
            copy_buffer_bytes: 32 * 1024,
            keepalive: Duration::from_secs(60),
            peer_timeout: Duration::from_secs(180),
        }
    }
}

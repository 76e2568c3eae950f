//! TLS termination: under which policy a handshake runs.
//!
//! Certificates come from [`certify`]: [`certificate`] loads and checks one with its key, [`certificates`] finds the one
//! for a server name, [`self_signed`] makes them for development. [`server_config`] makes the rustls configuration of a
//! connection from the route's policy.
//!
//! This room must not know routes, backends or sockets: names, certificates and policies come in, a
//! [`rustls::ServerConfig`] goes out.

pub(crate) mod failure;
pub mod server_config;

pub use certify::challenges::ALPN_ACME_TLS;
pub use certify::{certificate, certificates, provider, self_signed};

/// The ALPN protocol of HTTP/1.1 (RFC 7301, section 6).
pub const ALPN_HTTP_1_1: &[u8] = b"http/1.1";
/// The ALPN protocol of HTTP/2 over TLS (RFC 9113, section 3.2).
pub const ALPN_H2: &[u8] = b"h2";

/// What termination shares between all connections.
#[derive(Debug, Default)]
pub struct Termination {
    /// Handshake policies, with the keys of their session tickets.
    pub policies: server_config::Policies,
}

//! TLS termination: which certificate is shown, under which policy the handshake runs.
//!
//! [`certificate`] loads and checks one certificate with its key; [`certificates`] finds the one for a server name;
//! [`server_config`] makes the rustls configuration of a connection from the route's policy; [`challenge`] holds the
//! certificates of ACME's tls-alpn-01; [`self_signed`] makes certificates for development.
//!
//! This room must not know routes, backends or sockets: names, certificates and policies come in, a
//! [`rustls::ServerConfig`] goes out.

pub mod certificate;
pub mod certificates;
pub mod challenge;
pub(crate) mod failure;
pub mod self_signed;
pub mod server_config;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

/// The ALPN protocol of HTTP/1.1 (RFC 7301, section 6).
pub const ALPN_HTTP_1_1: &[u8] = b"http/1.1";
/// The ALPN protocol of HTTP/2 over TLS (RFC 9113, section 3.2).
pub const ALPN_H2: &[u8] = b"h2";
/// The ALPN protocol of ACME's tls-alpn-01 challenge (RFC 8737, section 4).
pub const ALPN_ACME_TLS: &[u8] = b"acme-tls/1";

/// What termination shares between all connections.
#[derive(Debug, Default)]
pub struct Termination {
    /// Handshake policies, with the keys of their session tickets.
    pub policies: server_config::Policies,
    /// Certificates that answer tls-alpn-01 challenges.
    pub challenges: challenge::ChallengeCertificates,
}

/// The one cryptographic provider of the gateway. X25519MLKEM768 is its first key-exchange group.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`): tells a backend, or learns from a load balancer,
//! who the client is.
//!
//! Bytes come in, [`Addresses`] go out, and the other way round. [`parse()`] needs no socket; [`read_header`] drives it
//! over a stream and never reads a byte beyond the header.
//!
//! This room must not know whom to trust: that is the decision of the program that accepted the connection.
#![forbid(unsafe_code)]

mod encode;
mod parse;
mod read;

use std::net::SocketAddr;

pub use encode::{Extras, TlsExtras, encode_v1, encode_v2};
pub use parse::{MalformedHeader, Parsed, parse};
pub use read::{ReadHeaderError, read_header};

/// The longest v1 header, line end included (section 2.1).
pub const MAX_V1_LEN: usize = 107;
/// The longest v2 header that is accepted, TLVs included. The format allows 65,551 bytes; real ones have a few hundred.
pub const MAX_V2_LEN: usize = 4096;

/// The first twelve bytes of every v2 header (section 2.2).
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest.
const V2_FIXED_LEN: usize = 16;

/// Values of the wire format of version 2 (section 2.2).
mod v2 {
    pub(super) const VERSION: u8 = 0x20;
    pub(super) const COMMAND_LOCAL: u8 = 0x0;
    pub(super) const COMMAND_PROXY: u8 = 0x1;
    pub(super) const TCP4: u8 = 0x11;
    pub(super) const TCP6: u8 = 0x21;
    pub(super) const TCP4_LEN: usize = 12;
    pub(super) const TCP6_LEN: usize = 36;
    pub(super) const TLV_ALPN: u8 = 0x01;
    pub(super) const TLV_AUTHORITY: u8 = 0x02;
    pub(super) const TLV_UNIQUE_ID: u8 = 0x05;
    pub(super) const TLV_SSL: u8 = 0x20;
    pub(super) const SUBTYPE_SSL_VERSION: u8 = 0x21;
    pub(super) const SUBTYPE_SSL_CIPHER: u8 = 0x23;
    pub(super) const CLIENT_SSL: u8 = 0x01;
    pub(super) const CLIENT_CERT_CONN: u8 = 0x02;
    pub(super) const CLIENT_CERT_SESS: u8 = 0x04;
}

/// Whom a connection was relayed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
    /// Whether the proxy says that the client speaks TLS to it (version 2, section 2.2.5).
    pub tls: bool,
}

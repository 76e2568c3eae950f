//! Writes PROXY headers.

use std::net::{IpAddr, SocketAddr};

use crate::{V2_SIGNATURE, v2};

/// What a v2 header says besides the addresses (section 2.2.1 onwards). Values over 65,535 bytes are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// The ALPN protocol negotiated with the client.
    pub alpn: Option<&'a [u8]>,
    /// The server name that the client asked for.
    pub authority: Option<&'a str>,
    /// An opaque identifier of the connection, at most 128 bytes.
    pub unique_id: Option<&'a [u8]>,
    /// What was negotiated with a client that speaks TLS to us.
    pub tls: Option<TlsExtras<'a>>,
}

/// The SSL part of a v2 header (section 2.2.5).
#[derive(Clone, Copy, Debug)]
pub struct TlsExtras<'a> {
    /// As `TLSv1.3`.
    pub version: &'a str,
    /// The cipher suite's name.
    pub cipher: &'a str,
    /// Whether the client showed a certificate, which was verified.
    pub client_certificate: bool,
}

/// The header of version 1, the text form.
pub fn encode_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source, destination, family) = match same_family(source, destination) {
        Pair::V4(source, destination) => (source, destination, "TCP4"),
        Pair::V6(source, destination) => (source, destination, "TCP6"),
    };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
    .into_bytes()
}

/// The header of version 2, the binary form.
pub fn encode_v2(source: SocketAddr, destination: SocketAddr, extras: &Extras<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    let (source, destination, family) = match same_family(source, destination) {
        Pair::V4(source, destination) => (source, destination, v2::TCP4),
        Pair::V6(source, destination) => (source, destination, v2::TCP6),
    };
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => body.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => body.extend_from_slice(&ip.octets()),
        }
    }
    body.extend_from_slice(&source.port().to_be_bytes());
    body.extend_from_slice(&destination.port().to_be_bytes());

    if let Some(alpn) = extras.alpn {
        push_tlv(&mut body, v2::TLV_ALPN, alpn);
    }
    if let Some(authority) = extras.authority {
        push_tlv(&mut body, v2::TLV_AUTHORITY, authority.as_bytes());
    }
    if let Some(id) = extras.unique_id.filter(|id| id.len() <= 128) {
        push_tlv(&mut body, v2::TLV_UNIQUE_ID, id);
    }
    if let Some(tls) = &extras.tls {
        push_tlv(&mut body, v2::TLV_SSL, &ssl_value(tls));
    }

    let mut header = Vec::with_capacity(crate::V2_FIXED_LEN + body.len());
    header.extend_from_slice(&V2_SIGNATURE);
    header.push(v2::VERSION | v2::COMMAND_PROXY);
    header.push(family);
    // `push_tlv` keeps the body below this bound.
    header.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend_from_slice(&body);
    header
}

/// `verify` is zero when the client showed a certificate that was verified, and anything else otherwise (section
/// 2.2.5).
fn ssl_value(tls: &TlsExtras<'_>) -> Vec<u8> {
    let (client, verify) = match tls.client_certificate {
        true => (v2::CLIENT_SSL | v2::CLIENT_CERT_CONN | v2::CLIENT_CERT_SESS, 0_u32),
        false => (v2::CLIENT_SSL, 1),
    };
    let mut value = vec![client];
    value.extend_from_slice(&verify.to_be_bytes());
    push_tlv(&mut value, v2::SUBTYPE_SSL_VERSION, tls.version.as_bytes());
    push_tlv(&mut value, v2::SUBTYPE_SSL_CIPHER, tls.cipher.as_bytes());
    value
}

/// Appends one type-length-value, or nothing if the whole would not fit the header's 16-bit length.
fn push_tlv(body: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let fits = body.len() + 3 + value.len() <= usize::from(u16::MAX);
    if let (true, Ok(len)) = (fits, u16::try_from(value.len())) {
        body.push(kind);
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(value);
    }
}

enum Pair {
    V4(SocketAddr, SocketAddr),
    V6(SocketAddr, SocketAddr),
}

/// Both addresses in one family: IPv4 where both are (also mapped ones), otherwise IPv6 with IPv4 mapped into it.
fn same_family(source: SocketAddr, destination: SocketAddr) -> Pair {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let with = |ip: IpAddr, port: u16| SocketAddr::new(ip, port);
    if from.is_ipv4() && to.is_ipv4() {
        return Pair::V4(with(from, source.port()), with(to, destination.port()));
    }
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        ip => ip,
    };
    Pair::V6(with(mapped(from), source.port()), with(mapped(to), destination.port()))
}

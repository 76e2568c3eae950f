//! Reads PROXY headers from bytes that arrive in any pieces.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{Addresses, MAX_V1_LEN, MAX_V2_LEN, V2_FIXED_LEN, V2_SIGNATURE, v2};

const V1_START: &[u8] = b"PROXY ";
/// `PROXY UNKNOWN\r\n`: no header of either version is shorter.
const SHORTEST_HEADER: usize = 15;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header, which ends after `len` bytes.
    Complete {
        /// Whom the connection was relayed for. `None`: it is the proxy's own (a health check), or the proxy does not
        /// tell (`LOCAL`, `UNKNOWN`, `AF_UNSPEC`, a transport that is not TCP); the socket's own addresses count.
        addresses: Option<Addresses>,
        /// Its length in bytes; what follows belongs to the stream.
        len: usize,
    },
    /// A header that goes on.
    Incomplete {
        /// The header has at least this many bytes more, at least 1: so many can be read without reading beyond it.
        missing: usize,
    },
}

/// Why bytes are not a PROXY header. The sender is to blame: it was configured as a proxy and does not speak the
/// protocol, or speaks it wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedHeader {
    /// The bytes begin like neither version.
    #[error("the connection does not begin with a PROXY protocol header")]
    NotProxy,
    /// A v1 line that does not end in time, or a v2 header above the limit.
    #[error("the PROXY protocol header is too long")]
    TooLong,
    /// A v1 line with wrong fields.
    #[error("the PROXY protocol v1 line is malformed")]
    BadLine,
    /// A v2 header with a version other than 2.
    #[error("the PROXY protocol version is not 2")]
    BadVersion,
    /// A v2 command that is neither LOCAL nor PROXY.
    #[error("the PROXY protocol v2 command is unknown")]
    BadCommand,
    /// A v2 header too short for its addresses.
    #[error("the PROXY protocol v2 header is too short for its addresses")]
    TooShort,
    /// A TLV that reaches beyond the header.
    #[error("a TLV reaches beyond the PROXY protocol v2 header")]
    BadTlv,
}

/// Looks at the beginning of a connection. Costs at most one look at each byte of `bytes` up to the limits.
///
/// # Errors
/// [`MalformedHeader`], as soon as it is certain.
pub fn parse(bytes: &[u8]) -> Result<Parsed, MalformedHeader> {
    let starts_like = |start: &[u8]| {
        let n = start.len().min(bytes.len());
        bytes[..n] == start[..n]
    };
    if bytes.is_empty() {
        Ok(Parsed::Incomplete { missing: SHORTEST_HEADER })
    } else if starts_like(&V2_SIGNATURE) {
        parse_v2(bytes)
    } else if starts_like(V1_START) {
        parse_v1(bytes)
    } else {
        Err(MalformedHeader::NotProxy)
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, MalformedHeader> {
    let Some(&[version_command, family, len_high, len_low]) =
        bytes.get(V2_SIGNATURE.len()..V2_FIXED_LEN)
    else {
        return Ok(Parsed::Incomplete { missing: V2_FIXED_LEN - bytes.len() });
    };
    if version_command & 0xf0 != v2::VERSION {
        return Err(MalformedHeader::BadVersion);
    }
    let command = version_command & 0x0f;
    if command != v2::COMMAND_LOCAL && command != v2::COMMAND_PROXY {
        return Err(MalformedHeader::BadCommand);
    }
    let len = V2_FIXED_LEN + usize::from(u16::from_be_bytes([len_high, len_low]));
    if len > MAX_V2_LEN {
        return Err(MalformedHeader::TooLong);
    }
    let Some(body) = bytes.get(V2_FIXED_LEN..len) else {
        return Ok(Parsed::Incomplete { missing: len - bytes.len() });
    };
    // LOCAL: the receiver must skip the whole body (section 2.2).
    let addresses = match (command, family) {
        (v2::COMMAND_PROXY, v2::TCP4) => {
            let (addresses, tlvs) =
                body.split_first_chunk::<{ v2::TCP4_LEN }>().ok_or(MalformedHeader::TooShort)?;
            Some(Addresses { tls: says_tls(tlvs)?, ..tcp4(addresses) })
        }
        (v2::COMMAND_PROXY, v2::TCP6) => {
            let (addresses, tlvs) =
                body.split_first_chunk::<{ v2::TCP6_LEN }>().ok_or(MalformedHeader::TooShort)?;
            Some(Addresses { tls: says_tls(tlvs)?, ..tcp6(addresses) })
        }
        _ => None,
    };
    Ok(Parsed::Complete { addresses, len })
}

fn tcp4(a: &[u8; v2::TCP4_LEN]) -> Addresses {
    let address = |ip: [u8; 4], port: [u8; 2]| {
        SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes(port)))
    };
    Addresses {
        source: address([a[0], a[1], a[2], a[3]], [a[8], a[9]]),
        destination: address([a[4], a[5], a[6], a[7]], [a[10], a[11]]),
        tls: false,
    }
}

fn tcp6(a: &[u8; v2::TCP6_LEN]) -> Addresses {
    let address = |at: usize, port: [u8; 2]| {
        let ip: [u8; 16] = std::array::from_fn(|i| a[at + i]);
        SocketAddr::from((Ipv6Addr::from(ip), u16::from_be_bytes(port)))
    };
    Addresses {
        source: address(0, [a[32], a[33]]),
        destination: address(16, [a[34], a[35]]),
        tls: false,
    }
}

/// Whether the TLVs say that the client speaks TLS. All of them must lie within the header.
fn says_tls(mut tlvs: &[u8]) -> Result<bool, MalformedHeader> {
    let mut tls = false;
    while !tlvs.is_empty() {
        let [kind, high, low, rest @ ..] = tlvs else {
            return Err(MalformedHeader::BadTlv);
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(len).ok_or(MalformedHeader::BadTlv)?;
        tls |= *kind == v2::TLV_SSL && value.first().is_some_and(|c| c & v2::CLIENT_SSL != 0);
        tlvs = rest;
    }
    Ok(tls)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, MalformedHeader> {
    let window = &bytes[..bytes.len().min(MAX_V1_LEN)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        if window.contains(&b'\n') {
            return Err(MalformedHeader::BadLine);
        }
        if window.len() == MAX_V1_LEN {
            return Err(MalformedHeader::TooLong);
        }
        // The line end itself is missing at least; a short line cannot end before the shortest header does.
        let line_end = if window.ends_with(b"\r") { 1 } else { 2 };
        let missing = line_end.max(SHORTEST_HEADER.saturating_sub(window.len()));
        return Ok(Parsed::Incomplete { missing });
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| MalformedHeader::BadLine)?;
    let addresses = parse_line(line).ok_or(MalformedHeader::BadLine)?;
    Ok(Parsed::Complete { addresses, len: end + 2 })
}

/// The outer `None` is a malformed line, the inner one a line without addresses.
fn parse_line(line: &str) -> Option<Option<Addresses>> {
    let mut fields = line.split(' ');
    if fields.next() != Some("PROXY") {
        return None;
    }
    let family = fields.next()?;
    if family == "UNKNOWN" {
        // The receiver must ignore anything before the line end (section 2.1).
        return Some(None);
    }
    let [source_ip, destination_ip, source_port, destination_port] =
        [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
    if fields.next().is_some() {
        return None;
    }
    let (source_port, destination_port) = (port(source_port)?, port(destination_port)?);
    let (source, destination) = match family {
        "TCP4" => (
            SocketAddr::from((source_ip.parse::<Ipv4Addr>().ok()?, source_port)),
            SocketAddr::from((destination_ip.parse::<Ipv4Addr>().ok()?, destination_port)),
        ),
        "TCP6" => (
            SocketAddr::from((source_ip.parse::<Ipv6Addr>().ok()?, source_port)),
            SocketAddr::from((destination_ip.parse::<Ipv6Addr>().ok()?, destination_port)),
        ),
        _ => return None,
    };
    Some(Some(Addresses { source, destination, tls: false }))
}

/// Digits only, without leading zeroes (section 2.1).
fn port(text: &str) -> Option<u16> {
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

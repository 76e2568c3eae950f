//! Socket addresses as C has them: `struct sockaddr_in` and `struct sockaddr_in6`.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::files::Errno;

/// Bytes of `struct sockaddr_in`.
const SIZE_V4: usize = 16;
/// Bytes of `struct sockaddr_in6`, and of the oldest form of it that programs may pass.
pub const SIZE_V6: usize = 28;
const SIZE_V6_MIN: usize = 24;

/// The families as `sa_family_t`.
const UNSPECIFIED: u16 = 0;
const V4: u16 = 2;
const V6: u16 = 10;

/// Reads an address; none is one of `AF_UNSPEC`, which undoes `connect`.
///
/// # Errors
/// [`Errno::INVALID`] for too few bytes, `EAFNOSUPPORT` for other families.
pub fn parse(bytes: &[u8]) -> Result<Option<SocketAddr>, Errno> {
    let family = u16::from_ne_bytes(*bytes.first_chunk().ok_or(Errno::INVALID)?);
    let field = |at: usize| bytes.get(at..).ok_or(Errno::INVALID);
    let port = || field(2)?.first_chunk().map(|b| u16::from_be_bytes(*b)).ok_or(Errno::INVALID);
    match family {
        UNSPECIFIED => Ok(None),
        V4 if bytes.len() >= SIZE_V4 => {
            let octets: [u8; 4] = *field(4)?.first_chunk().ok_or(Errno::INVALID)?;
            Ok(Some(SocketAddr::from((Ipv4Addr::from(octets), port()?))))
        }
        V6 if bytes.len() >= SIZE_V6_MIN => {
            let flow = field(4)?.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
            let octets: [u8; 16] = *field(8)?.first_chunk().ok_or(Errno::INVALID)?;
            let scope = field(24)?.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
            let address = Ipv6Addr::from(octets);
            Ok(Some(SocketAddrV6::new(address, port()?, flow, scope).into()))
        }
        V4 | V6 => Err(Errno::INVALID),
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// Writes an address: its bytes, and how many of them count.
#[must_use]
pub fn emit(address: SocketAddr) -> ([u8; SIZE_V6], usize) {
    let mut bytes = [0; SIZE_V6];
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            bytes[..2].copy_from_slice(&V4.to_ne_bytes());
            bytes[4..8].copy_from_slice(&v4.ip().octets());
            (bytes, SIZE_V4)
        }
        SocketAddr::V6(v6) => {
            bytes[..2].copy_from_slice(&V6.to_ne_bytes());
            bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            bytes[8..24].copy_from_slice(&v6.ip().octets());
            bytes[24..].copy_from_slice(&v6.scope_id().to_ne_bytes());
            (bytes, SIZE_V6)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in ["10.0.0.2:443", "[fd00::2]:1", "[fe80::1%3]:65535", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            let (bytes, len) = emit(address);
            assert_eq!(parse(&bytes[..len]), Ok(Some(address)), "{text}");
            assert_eq!(parse(&bytes[..len.min(SIZE_V6_MIN) - 1]), Err(Errno::INVALID), "{text}");
        }
        assert_eq!(emit("127.0.0.1:258".parse().unwrap()).0[..8], [2, 0, 1, 2, 127, 0, 0, 1]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert_eq!(parse(&[]), Err(Errno::INVALID));
        assert_eq!(parse(&[0, 0, 9]), Ok(None));
        assert_eq!(parse(&[1, 0, b'/']), Err(Errno(libc::EAFNOSUPPORT)));
    }
}

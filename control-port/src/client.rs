//! Who counts as one client where something is counted per client.

use std::net::IpAddr;

/// Which addresses count as one client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientKey {
    /// One IPv4 address; IPv4-mapped IPv6 addresses are IPv4.
    V4([u8; 4]),
    /// One IPv6 /64, which is what a single customer or host commonly has to itself (RFC 6177).
    V6([u8; 8]),
}

impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

//! What ICMP errors say about flows of this host (RFC 792, RFC 4443 §3): which packet did not
//! arrive, and why.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

use crate::error::SocketError;

/// An error about a packet that this host is said to have sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) protocol: IpProtocol,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// The TCP sequence number of the packet.
    pub(crate) sequence: u32,
    pub(crate) error: SocketError,
}

/// Reads a destination-unreachable message; none if it is another message or says too little.
pub(crate) fn complaint(v6: bool, message: &[u8]) -> Option<Complaint> {
    let (&kind, &code) = (message.first()?, message.get(1)?);
    let error = match (v6, kind, code) {
        (false, 3, 2 | 3) | (true, 1, 4) => SocketError::ConnectionRefused,
        (false, 3, 0 | 6 | 11) | (true, 1, 0) => SocketError::NetworkUnreachable,
        // Fragmentation needed is no end: it is for path MTU discovery.
        (false, 3, 4) => return None,
        (false, 3, _) | (true, 1, _) => SocketError::HostUnreachable,
        _ => return None,
    };
    let inner = message.get(8..)?;
    let (source, destination, protocol, start): (IpAddr, IpAddr, _, _) = if v6 {
        let ip = (inner.len() >= 40).then(|| Ipv6Packet::new_unchecked(inner))?;
        (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), 40)
    } else {
        let ip = (inner.len() >= 20).then(|| Ipv4Packet::new_unchecked(inner))?;
        let start = usize::from(ip.header_len());
        (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), start)
    };
    let ports: &[u8; 8] = inner.get(start..)?.first_chunk()?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(Complaint {
        protocol,
        local: SocketAddr::new(source, port(0)),
        remote: SocketAddr::new(destination, port(2)),
        sequence: u32::from_be_bytes([ports[4], ports[5], ports[6], ports[7]]),
        error,
    })
}

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
    pub(crate) verdict: Verdict,
}

/// What became of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It cannot be delivered.
    Unreachable(SocketError),
    /// It is larger than a link on its path, which carries this many octets; zero if the router
    /// does not say.
    TooBig(usize),
}

/// Reads an error message; none if it is another message or says too little.
pub(crate) fn complaint(v6: bool, message: &[u8]) -> Option<Complaint> {
    let (&kind, &code) = (message.first()?, message.get(1)?);
    let word = u32::from_be_bytes(*message.get(4..)?.first_chunk()?);
    let verdict = match (v6, kind, code) {
        // RFC 1191 §4: the MTU is the low half of the word.
        (false, 3, 4) => Verdict::TooBig(usize::try_from(word & 0xffff).ok()?),
        (true, 2, _) => Verdict::TooBig(usize::try_from(word).ok()?),
        (false, 3, 2 | 3) | (true, 1, 4) => Verdict::Unreachable(SocketError::ConnectionRefused),
        (false, 3, 0 | 6 | 11) | (true, 1, 0) => {
            Verdict::Unreachable(SocketError::NetworkUnreachable)
        }
        (false, 3, _) | (true, 1, _) => Verdict::Unreachable(SocketError::HostUnreachable),
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
        verdict,
    })
}

//! What ICMP errors say about flows of this host (RFC 792, RFC 4443 §3): which packet did not
//! arrive, and why. And the one error that this host sends itself.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv6Packet, IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet,
};

use crate::error::SocketError;
use crate::packet::HOP_LIMIT;

/// Octets of an error message before what it quotes.
const ERROR_HEADER: usize = 8;

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

/// Octets of a packet that an error about it quotes: so much that the error fits any path
/// (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
const QUOTED_V4: usize = 548;
const QUOTED_V6: usize = 1232;

/// The answer to a datagram for a port that nobody has (RFC 1122 §4.1.3.1, RFC 4443 §3.1): an IP
/// packet. `packet` is the IP packet that came.
pub(crate) fn port_unreachable(source: IpAddr, destination: IpAddr, packet: &[u8]) -> Vec<u8> {
    let (v6, most) = (source.is_ipv6(), if source.is_ipv6() { QUOTED_V6 } else { QUOTED_V4 });
    let quoted = &packet[..packet.len().min(most)];
    let mut message = vec![0; ERROR_HEADER];
    message[..2].copy_from_slice(if v6 { &[1, 4] } else { &[3, 3] });
    message.extend_from_slice(quoted);
    let protocol = if v6 { IpProtocol::Icmpv6 } else { IpProtocol::Icmp };
    let (from, to) = (IpAddress::from(destination), IpAddress::from(source));
    let ip = IpRepr::new(from, to, protocol, message.len(), HOP_LIMIT);
    let mut answer = vec![0; ip.buffer_len()];
    ip.emit(&mut answer, &ChecksumCapabilities::default());
    match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Icmpv6Packet::new_unchecked(&mut message).fill_checksum(&destination, &source);
        }
        _ => Icmpv4Packet::new_unchecked(&mut message).fill_checksum(),
    }
    answer[ip.header_len()..].copy_from_slice(&message);
    answer
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::packet::{TYPE_IPV4, TYPE_IPV6, parse_ip, udp_packet};

    #[test]
    fn the_own_error_is_read_as_a_refusal_of_what_was_sent() {
        for (local, remote, kind) in
            [("10.0.0.1:9", "10.0.0.2:7", TYPE_IPV4), ("[fd00::1]:9", "[fd00::2]:7", TYPE_IPV6)]
        {
            let (local, remote): (SocketAddr, SocketAddr) =
                (local.parse().unwrap(), remote.parse().unwrap());
            let sent = udp_packet(local, remote, &[7; 1300]);
            let answer = port_unreachable(local.ip(), remote.ip(), &sent);
            assert!(answer.len() <= 1280);
            let header = parse_ip(kind, &answer).unwrap();
            assert_eq!((header.source, header.destination), (remote.ip(), local.ip()));
            let told = complaint(local.is_ipv6(), &answer[header.payload]).unwrap();
            assert_eq!((told.local, told.remote), (local, remote));
            assert_eq!(told.verdict, Verdict::Unreachable(SocketError::ConnectionRefused));
        }
    }
}

//! Packets as the demultiplexer reads them, and the few that it writes itself.
//!
//! Parsing and emitting are smoltcp's; what is here decides what is acceptable at all: no
//! fragments, no extension headers, right checksums.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::ops::Range;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, IpVersion, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use crate::counters::DropReason;
use crate::flow::FlowKey;

/// Length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// EtherType of IPv4.
pub(crate) const TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub(crate) const TYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub(crate) const TYPE_IPV6: u16 = 0x86dd;
/// The hop limit of packets that the stack writes itself.
pub(crate) const HOP_LIMIT: u8 = 64;

/// A received IP packet's header.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: IpProtocol,
    /// Where the payload lies in the packet.
    pub(crate) payload: Range<usize>,
}

/// Reads the header of an IP packet of the given EtherType.
pub(crate) fn parse_ip(ether_type: u16, packet: &[u8]) -> Result<Header, DropReason> {
    if ether_type == TYPE_IPV4 {
        let ip = Ipv4Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
        if ip.version() != 4 || ip.header_len() < 20 {
            return Err(DropReason::Malformed);
        }
        if !ip.verify_checksum() {
            return Err(DropReason::Checksum);
        }
        if ip.more_frags() || ip.frag_offset() != 0 {
            return Err(DropReason::Fragment);
        }
        return Ok(Header {
            source: ip.src_addr().into(),
            destination: ip.dst_addr().into(),
            protocol: ip.next_header(),
            payload: usize::from(ip.header_len())..usize::from(ip.total_len()),
        });
    }
    let ip = Ipv6Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
    if ip.version() != 6 {
        return Err(DropReason::Malformed);
    }
    let protocol = ip.next_header();
    match protocol {
        IpProtocol::Tcp | IpProtocol::Udp | IpProtocol::Icmpv6 => {}
        IpProtocol::Ipv6Frag => return Err(DropReason::Fragment),
        _ => return Err(DropReason::Protocol),
    }
    Ok(Header {
        source: ip.src_addr().into(),
        destination: ip.dst_addr().into(),
        protocol,
        payload: ip.header_len()..ip.header_len() + usize::from(ip.payload_len()),
    })
}

/// Reads a TCP segment; `verify` says whether its checksum is to be checked.
pub(crate) fn parse_tcp<'a>(
    header: &Header,
    payload: &'a [u8],
    verify: bool,
) -> Result<TcpRepr<'a>, DropReason> {
    let (source, destination) = (header.source.into(), header.destination.into());
    let segment = TcpPacket::new_checked(payload).map_err(|_| DropReason::Malformed)?;
    if verify && !segment.verify_checksum(&source, &destination) {
        return Err(DropReason::Checksum);
    }
    TcpRepr::parse(&segment, &source, &destination, &ChecksumCapabilities::ignored())
        .map_err(|_| DropReason::Malformed)
}

/// Reads a UDP datagram's ports and where its data lies in `payload`.
pub(crate) fn parse_udp(
    header: &Header,
    payload: &[u8],
    verify: bool,
) -> Result<(u16, u16, Range<usize>), DropReason> {
    let datagram = UdpPacket::new_checked(payload).map_err(|_| DropReason::Malformed)?;
    if verify && !datagram.verify_checksum(&header.source.into(), &header.destination.into()) {
        return Err(DropReason::Checksum);
    }
    if datagram.dst_port() == 0 {
        return Err(DropReason::Malformed);
    }
    Ok((datagram.src_port(), datagram.dst_port(), 8..usize::from(datagram.len())))
}

/// A segment without data from this end of the flow.
pub(crate) fn bare_segment(
    key: &FlowKey,
    control: TcpControl,
    sequence: u32,
    acknowledgement: Option<u32>,
    window: u16,
) -> TcpRepr<'static> {
    TcpRepr {
        src_port: key.local.port(),
        dst_port: key.remote.port(),
        control,
        seq_number: sequence_number(sequence),
        ack_number: acknowledgement.map(sequence_number),
        window_len: window,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// The IP packet around a segment from `source` to `destination`.
pub(crate) fn tcp_packet(source: IpAddr, destination: IpAddr, segment: &TcpRepr<'_>) -> Vec<u8> {
    let mut packet = vec![0; ip_header(source) + segment.buffer_len()];
    let copy = |data: &mut [u8]| data.copy_from_slice(segment.payload);
    let header = TcpRepr { payload: &[], ..*segment };
    write_tcp(&mut packet, source, destination, &header, false, copy);
    packet
}

/// Writes the IP packet around a segment into `packet`, which is as long as it will be. `copy` fills
/// in the data. With `partial`, the checksum is left to the device.
pub(crate) fn write_tcp(
    packet: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    header: &TcpRepr<'_>,
    partial: bool,
    copy: impl FnOnce(&mut [u8]),
) {
    let (source, destination): (IpAddress, IpAddress) = (source.into(), destination.into());
    let start = packet.len().min(if source.version() == IpVersion::Ipv4 { 20 } else { 40 });
    let length = packet.len() - start;
    let ip = IpRepr::new(source, destination, IpProtocol::Tcp, length, HOP_LIMIT);
    ip.emit(&mut *packet, &ChecksumCapabilities::default());
    let segment = &mut packet[start..];
    let ignored = ChecksumCapabilities::ignored();
    let headers = header.header_len();
    header.emit(&mut TcpPacket::new_unchecked(&mut *segment), &source, &destination, &ignored);
    copy(&mut segment[headers..]);
    let mut view = TcpPacket::new_unchecked(segment);
    if partial {
        view.set_checksum(pseudo_header(source, destination, length));
    } else {
        view.fill_checksum(&source, &destination);
    }
}

/// The sum of the pseudo-header of a TCP segment (RFC 9293 §3.1), not complemented.
fn pseudo_header(source: IpAddress, destination: IpAddress, length: usize) -> u16 {
    let mut sum = u64::from(u8::from(IpProtocol::Tcp)) + length as u64;
    for address in [source, destination] {
        let (octets, count) = match address {
            IpAddress::Ipv4(address) => (u128::from(address.to_bits()), 2),
            IpAddress::Ipv6(address) => (address.to_bits(), 8),
        };
        sum += (0..count).map(|word| u64::from(low_word_of(octets >> (16 * word)))).sum::<u64>();
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

#[expect(clippy::cast_possible_truncation, reason = "the low sixteen bits are what is wanted")]
fn low_word_of(value: u128) -> u16 {
    value as u16
}

/// Length of the IP header in front of packets from an address.
pub(crate) fn ip_header(source: IpAddr) -> usize {
    if source.is_ipv4() { 20 } else { 40 }
}

/// The IP packet around a datagram.
pub(crate) fn udp_packet(local: SocketAddr, remote: SocketAddr, data: &[u8]) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    let (source, destination): (IpAddress, IpAddress) = (local.ip().into(), remote.ip().into());
    let udp = UdpRepr { src_port: local.port(), dst_port: remote.port() };
    let length = udp.header_len() + data.len();
    let ip = IpRepr::new(source, destination, IpProtocol::Udp, length, HOP_LIMIT);
    let mut packet = vec![0; ip.buffer_len()];
    let start = ip.header_len();
    ip.emit(&mut packet, &caps);
    let mut view = UdpPacket::new_unchecked(&mut packet[start..]);
    let fill = |payload: &mut [u8]| payload.copy_from_slice(data);
    udp.emit(&mut view, &source, &destination, data.len(), fill, &caps);
    packet
}

/// smoltcp's sequence number as the 32 bits of the wire.
pub(crate) fn number(sequence: TcpSeqNumber) -> u32 {
    sequence.0.cast_unsigned()
}

/// The 32 bits of the wire as smoltcp's sequence number.
pub(crate) fn sequence_number(number: u32) -> TcpSeqNumber {
    TcpSeqNumber(number.cast_signed())
}

/// How far `a` lies after `b` in sequence space; negative if before (RFC 9293 §3.4).
pub(crate) fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a device adds to a partial checksum makes it the one that is computed here.
    #[test]
    fn a_partial_checksum_becomes_the_full_one() {
        for (source, destination) in [("10.0.0.1", "192.168.7.9"), ("fd00::1", "2001:db8::ffff")] {
            let source: IpAddr = source.parse().unwrap();
            let key = FlowKey {
                local: SocketAddr::new(source, 80),
                remote: SocketAddr::new(destination.parse().unwrap(), 9),
            };
            let mut segment = bare_segment(&key, TcpControl::Psh, 77, Some(7), 100);
            segment.payload = &[0xff; 1001];
            let full = tcp_packet(source, key.remote.ip(), &segment);
            let mut partial = vec![0; full.len()];
            let header = TcpRepr { payload: &[], ..segment };
            let copy = |data: &mut [u8]| data.copy_from_slice(segment.payload);
            write_tcp(&mut partial, source, key.remote.ip(), &header, true, copy);
            let start = ip_header(source);
            let mut sum: u32 = partial[start..]
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
                .sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            let field = start + 16..start + 18;
            assert_eq!(
                !u16::try_from(sum).unwrap(),
                u16::from_be_bytes([full[field.start], full[field.start + 1]])
            );
            partial[field.clone()].copy_from_slice(&full[field]);
            assert_eq!(partial, full);
        }
    }
}

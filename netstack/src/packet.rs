//! Packets as the demultiplexer reads them, and the few that it writes itself.
//!
//! Parsing and emitting are smoltcp's; what is here decides what is acceptable at all: no
//! fragments, no extension headers, right checksums.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber, UdpPacket, UdpRepr,
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
const HOP_LIMIT: u8 = 64;

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
    let caps = ChecksumCapabilities::default();
    let (source, destination): (IpAddress, IpAddress) = (source.into(), destination.into());
    let length = segment.buffer_len();
    let ip = IpRepr::new(source, destination, IpProtocol::Tcp, length, HOP_LIMIT);
    let mut packet = vec![0; ip.buffer_len()];
    let start = ip.header_len();
    ip.emit(&mut packet, &caps);
    let mut view = TcpPacket::new_unchecked(&mut packet[start..]);
    segment.emit(&mut view, &source, &destination, &caps);
    packet
}

/// Cuts a TCP packet into packets of at most `mtu` octets; none if it is no TCP packet.
pub(crate) fn split_segment(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let ether_type = if packet.first()? >> 4 == 4 { TYPE_IPV4 } else { TYPE_IPV6 };
    let header = parse_ip(ether_type, packet).ok()?;
    if header.protocol != IpProtocol::Tcp {
        return None;
    }
    let segment = parse_tcp(&header, &packet[header.payload.clone()], false).ok()?;
    let room = mtu.checked_sub(header.payload.start + segment.header_len()).filter(|&n| n > 0)?;
    let count = segment.payload.chunks(room).count();
    let pieces = segment.payload.chunks(room).enumerate().map(|(index, payload)| {
        let mut piece = segment;
        piece.seq_number = segment.seq_number + index * room;
        piece.payload = payload;
        // What ends the segment belongs to its last octet.
        if index + 1 < count {
            piece.control = TcpControl::None;
        }
        tcp_packet(header.source, header.destination, &piece)
    });
    Some(pieces.collect())
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

/// Subtracts `shift` from a received segment's acknowledgement. Its checksum, verified before, is
/// not kept up: the stack behind does not look at it again.
pub(crate) fn shift_acknowledgement(segment: &mut [u8], shift: u32) {
    let mut view = TcpPacket::new_unchecked(segment);
    let acknowledgement = number(view.ack_number()).wrapping_sub(shift);
    view.set_ack_number(sequence_number(acknowledgement));
}

/// Puts another window field in a received segment; its checksum is not kept up either.
pub(crate) fn show_window(segment: &mut [u8], window: u16) {
    TcpPacket::new_unchecked(segment).set_window_len(window);
}

/// Adds `shift` to a sent segment's sequence number and mends the checksum (RFC 1624 §3).
pub(crate) fn shift_sequence(segment: &mut [u8], shift: u32) {
    let mut view = TcpPacket::new_unchecked(segment);
    let old = number(view.seq_number());
    let new = old.wrapping_add(shift);
    view.set_seq_number(sequence_number(new));
    let mut sum = u32::from(!view.checksum());
    for word in [!old >> 16, !old & 0xffff, new >> 16, new & 0xffff] {
        sum += word;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    view.set_checksum(!u16::try_from(sum).unwrap_or(0));
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

    #[test]
    fn a_shifted_segment_keeps_a_right_checksum() {
        let key = FlowKey {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.2:9".parse().unwrap(),
        };
        for sequence in [0, 1, 0xffff, 0x1_0000, 0x7fff_ffff, u32::MAX] {
            for shift in [0, 1, 0xffff_0000, 0x1234_5678, u32::MAX] {
                let segment = bare_segment(&key, TcpControl::None, sequence, Some(7), 100);
                let mut packet = tcp_packet(key.local.ip(), key.remote.ip(), &segment);
                shift_sequence(&mut packet[20..], shift);
                let header = parse_ip(TYPE_IPV4, &packet).unwrap();
                let read = parse_tcp(&header, &packet[20..], true).unwrap();
                assert_eq!(number(read.seq_number), sequence.wrapping_add(shift));
            }
        }
    }
}

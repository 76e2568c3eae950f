//! Who has an address: questions to neighbours, and what is learned from theirs (ARP, RFC 826;
//! neighbour discovery, RFC 4861).

use alloc::vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::{ChecksumCapabilities, Medium};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, HardwareAddress, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};

use super::{Port, Wire};
use crate::config::is_host;
use crate::device::Device;
use crate::packet::{TYPE_ARP, TYPE_IPV6};

impl<D: Device> Port<D> {
    /// Asks who has the address `neighbor`.
    pub(super) fn request(&mut self, neighbor: IpAddr, wire: &mut Wire<'_>) {
        let Some(source) = self.config.source_for(neighbor) else { return };
        match (source, neighbor) {
            (IpAddr::V4(source), IpAddr::V4(neighbor)) => {
                self.send_arp(ArpOperation::Request, source, neighbor, wire);
            }
            (IpAddr::V6(source), IpAddr::V6(neighbor)) => self.solicit(source, neighbor, wire),
            _ => {}
        }
    }

    /// Sends an ARP packet to everybody.
    pub(super) fn send_arp(
        &mut self,
        operation: ArpOperation,
        source: Ipv4Addr,
        target: Ipv4Addr,
        wire: &mut Wire<'_>,
    ) {
        let arp = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.capabilities.hardware_address),
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        let mut packet = vec![0; arp.buffer_len()];
        arp.emit(&mut ArpPacket::new_unchecked(&mut packet));
        self.send_whole([0xff; 6], TYPE_ARP, &packet, wire);
    }

    /// Asks who has an address of IPv6; from the unspecified one, whether anybody has.
    pub(super) fn solicit(&mut self, source: Ipv6Addr, target: Ipv6Addr, wire: &mut Wire<'_>) {
        let own = EthernetAddress(self.capabilities.hardware_address);
        // RFC 4291 §2.7.1.
        let low = target.octets();
        let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
        group[13..].copy_from_slice(&low[13..]);
        let lladdr = (!source.is_unspecified()).then(|| own.into());
        let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr };
        self.send_ndisc(source, group.into(), message, wire);
    }

    /// Sends a message of neighbour discovery to a group.
    pub(super) fn send_ndisc(
        &mut self,
        source: Ipv6Addr,
        group: Ipv6Addr,
        message: NdiscRepr<'_>,
        wire: &mut Wire<'_>,
    ) {
        let message = Icmpv6Repr::Ndisc(message);
        let ip = Ipv6Repr {
            src_addr: source,
            dst_addr: group,
            next_header: IpProtocol::Icmpv6,
            payload_len: message.buffer_len(),
            hop_limit: 255,
        };
        let mut packet = vec![0; ip.buffer_len() + message.buffer_len()];
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
        let mut view = Icmpv6Packet::new_unchecked(&mut packet[ip.buffer_len()..]);
        message.emit(&source, &group, &mut view, &Default::default());
        // RFC 2464 §7.
        let [.., a, b, c, d] = group.octets();
        self.send_whole([0x33, 0x33, a, b, c, d], TYPE_IPV6, &packet, wire);
    }

    /// Notes what an ARP packet or a neighbour message says of its sender.
    pub(crate) fn learn_from(&mut self, ether_type: u16, packet: &[u8], wire: &mut Wire<'_>) {
        let Some((neighbor, hardware, create)) = self.lesson(ether_type, packet) else { return };
        for waiting in self.neighbors.learn(neighbor, hardware, create, wire.now) {
            self.send_waiting(hardware, &waiting, wire);
        }
    }

    /// The sender's addresses, and whether it may enter the table unasked.
    fn lesson(&self, ether_type: u16, packet: &[u8]) -> Option<(IpAddr, [u8; 6], bool)> {
        let on_link = |address: IpAddr| {
            self.config.next_hop(address).is_some_and(|(hop, _)| hop == address) && is_host(address)
        };
        if ether_type == TYPE_ARP {
            let arp = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?;
            let ArpRepr::EthernetIpv4 {
                operation,
                source_hardware_addr,
                source_protocol_addr,
                target_protocol_addr,
                ..
            } = arp
            else {
                return None;
            };
            let neighbor = IpAddr::from(source_protocol_addr);
            let for_us = self.config.has(target_protocol_addr.into());
            let asks = operation == ArpOperation::Request;
            return (for_us && on_link(neighbor)).then_some((
                neighbor,
                source_hardware_addr.0,
                asks,
            ));
        }
        let ip = Ipv6Packet::new_checked(packet).ok()?;
        // RFC 4861 §7.1: only what no router has forwarded.
        if ip.hop_limit() != 255 || ip.next_header() != IpProtocol::Icmpv6 {
            return None;
        }
        let message = Icmpv6Packet::new_checked(ip.payload()).ok()?;
        let message = Icmpv6Repr::parse(
            &ip.src_addr(),
            &ip.dst_addr(),
            &message,
            &ChecksumCapabilities::default(),
        );
        let (neighbor, hardware, create) = match message.ok()? {
            Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { target_addr, lladdr, .. }) => {
                (target_addr, lladdr?, false)
            }
            Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr }) => {
                (ip.src_addr(), lladdr?, self.config.has(target_addr.into()))
            }
            _ => return None,
        };
        let HardwareAddress::Ethernet(hardware) = hardware.parse(Medium::Ethernet).ok()?;
        on_link(neighbor.into()).then_some((neighbor.into(), hardware.0, create))
    }
}

//! One network interface: its device, addresses, neighbours, and two smoltcp interfaces.
//!
//! `flows` speaks bare IP and is shared by the connections, each of which brings a socket set of
//! one. `control` speaks Ethernet and has no sockets: it answers ARP, neighbour solicitations and
//! pings. The Ethernet headers of flows, and the search for neighbours, are done here.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, HardwareAddress, Icmpv6Packet, Icmpv6Repr,
    IpCidr, IpProtocol, Ipv6Repr, NdiscRepr,
};

use crate::config::InterfaceConfig;
use crate::counters::{Counters, DropReason};
use crate::device::{Capabilities, Device};
use crate::flow::Secret;
use crate::neighbor::{Neighbors, Resolution};
use crate::packet::{ETHERNET, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, split_segment};
use crate::path_mtu::PathMtu;

/// Which way a captured frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device.
    Received,
    /// To the device.
    Sent,
}

/// Sees every frame: the interface's number, the direction, the frame and the time.
pub type Capture = Box<dyn FnMut(usize, Direction, &[u8], Duration)>;

/// What sending needs from the stack around the interface.
pub(crate) struct Wire<'a> {
    pub(crate) counters: &'a mut Counters,
    pub(crate) capture: &'a mut Option<Capture>,
    pub(crate) now: Duration,
}

/// One network interface.
pub(crate) struct Port<D> {
    pub(crate) number: usize,
    pub(crate) device: D,
    pub(crate) config: InterfaceConfig,
    pub(crate) capabilities: Capabilities,
    pub(crate) flows: Interface,
    control: Interface,
    control_sockets: SocketSet<'static>,
    neighbors: Neighbors,
    pub(crate) paths: PathMtu,
}

impl<D: Device> Port<D> {
    pub(crate) fn new(
        number: usize,
        device: D,
        config: InterfaceConfig,
        seed: u64,
        neighbors: Neighbors,
        paths: PathMtu,
    ) -> Self {
        let capabilities = device.capabilities();
        let mtu = capabilities.mtu;
        let hardware = EthernetAddress(capabilities.hardware_address);
        let make = |address: HardwareAddress, mut device: Splice<'_>| {
            let mut settings = Config::new(address);
            settings.random_seed = seed;
            let mut interface = Interface::new(settings, &mut device, Instant::ZERO);
            interface.update_ip_addrs(|addresses| {
                for &(address, prefix) in &config.addresses {
                    // Never full: `InterfaceConfig::validate` knows the limit.
                    let _ = addresses.push(IpCidr::new(address.into(), prefix));
                }
            });
            interface
        };
        let mut outbox = Outbox::default();
        let flows = make(HardwareAddress::Ip, Splice::flow(None, &mut outbox, mtu));
        let control =
            make(HardwareAddress::Ethernet(hardware), Splice::control(None, &mut outbox, mtu));
        Self {
            number,
            device,
            config,
            capabilities,
            flows,
            control,
            control_sockets: SocketSet::new(Vec::new()),
            neighbors,
            paths,
        }
    }

    /// Sends a connection's packet, cut to what its path carries.
    pub(crate) fn send_segment(&mut self, packet: &[u8], to: IpAddr, wire: &mut Wire<'_>) {
        let pieces = self
            .paths
            .get(to, wire.now)
            .filter(|&mtu| packet.len() > mtu)
            .and_then(|mtu| split_segment(packet, mtu));
        match pieces {
            None => self.send_ip(packet, wire),
            Some(pieces) => pieces.iter().for_each(|piece| self.send_ip(piece, wire)),
        }
    }

    /// Sends an IP packet to where its destination's route leads. The packet is lost, and counted,
    /// when there is no way.
    pub(crate) fn send_ip(&mut self, packet: &[u8], wire: &mut Wire<'_>) {
        let Some(destination) = destination_of(packet) else {
            return wire.counters.drop(DropReason::Malformed);
        };
        if self.config.is_loopback() {
            return self.send_to(self.capabilities.hardware_address, packet, wire);
        }
        let Some((hop, _)) = self.config.next_hop(destination) else {
            return wire.counters.drop(DropReason::NoRoute);
        };
        let request = match self.neighbors.resolve(hop, packet, wire.now) {
            Resolution::Known { hardware, refresh } => {
                self.send_to(hardware, packet, wire);
                refresh
            }
            Resolution::Waiting { request, lost } => {
                if lost {
                    wire.counters.drop(DropReason::Neighbor);
                }
                request
            }
        };
        if request {
            self.request(hop, wire);
        }
    }

    /// Sends an IP packet to a neighbour whose hardware address is known.
    pub(crate) fn send_to(&mut self, hardware: [u8; 6], packet: &[u8], wire: &mut Wire<'_>) {
        let ether_type = if packet[0] >> 4 == 4 { TYPE_IPV4 } else { TYPE_IPV6 };
        self.send_frame(hardware, ether_type, packet, wire);
    }

    fn send_frame(&mut self, to: [u8; 6], ether_type: u16, payload: &[u8], wire: &mut Wire<'_>) {
        let own = self.capabilities.hardware_address;
        self.transmit(ETHERNET + payload.len(), wire, |frame| {
            frame[..6].copy_from_slice(&to);
            frame[6..12].copy_from_slice(&own);
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            frame[ETHERNET..].copy_from_slice(payload);
        });
    }

    fn transmit(&mut self, length: usize, wire: &mut Wire<'_>, fill: impl FnOnce(&mut [u8])) {
        if !self.device.can_transmit() {
            return wire.counters.drop(DropReason::DeviceFull);
        }
        wire.counters.frames_sent += 1;
        let (number, now, capture) = (self.number, wire.now, &mut *wire.capture);
        self.device.transmit(length, |frame| {
            fill(frame);
            if let Some(capture) = capture {
                capture(number, Direction::Sent, frame, now);
            }
        });
    }

    /// Asks who has the address `neighbor`.
    fn request(&mut self, neighbor: IpAddr, wire: &mut Wire<'_>) {
        let Some(source) = self.config.source_for(neighbor) else { return };
        let own = EthernetAddress(self.capabilities.hardware_address);
        match (source, neighbor) {
            (IpAddr::V4(source), IpAddr::V4(neighbor)) => {
                let arp = ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Request,
                    source_hardware_addr: own,
                    source_protocol_addr: source,
                    target_hardware_addr: EthernetAddress([0; 6]),
                    target_protocol_addr: neighbor,
                };
                let mut packet = vec![0; arp.buffer_len()];
                arp.emit(&mut ArpPacket::new_unchecked(&mut packet));
                self.send_frame([0xff; 6], TYPE_ARP, &packet, wire);
            }
            (IpAddr::V6(source), IpAddr::V6(neighbor)) => {
                // RFC 4291 §2.7.1, RFC 2464 §7.
                let octets = neighbor.octets();
                let tail = [octets[13], octets[14], octets[15]];
                let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
                group[13..].copy_from_slice(&tail);
                let group = Ipv6Addr::from(group);
                let solicitation = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
                    target_addr: neighbor,
                    lladdr: Some(own.into()),
                });
                let ip = Ipv6Repr {
                    src_addr: source,
                    dst_addr: group,
                    next_header: IpProtocol::Icmpv6,
                    payload_len: solicitation.buffer_len(),
                    hop_limit: 255,
                };
                let mut packet = vec![0; ip.buffer_len() + solicitation.buffer_len()];
                ip.emit(&mut smoltcp::wire::Ipv6Packet::new_unchecked(&mut packet[..]));
                let mut view = Icmpv6Packet::new_unchecked(&mut packet[ip.buffer_len()..]);
                solicitation.emit(&source, &group, &mut view, &Default::default());
                let to = [0x33, 0x33, 0xff, tail[0], tail[1], tail[2]];
                self.send_frame(to, TYPE_IPV6, &packet, wire);
            }
            _ => {}
        }
    }

    /// Notes what an ARP packet or a neighbour message says of its sender.
    pub(crate) fn learn_from(&mut self, ether_type: u16, packet: &[u8], wire: &mut Wire<'_>) {
        let Some((neighbor, hardware, create)) = self.lesson(ether_type, packet) else { return };
        for waiting in self.neighbors.learn(neighbor, hardware, create, wire.now) {
            self.send_to(hardware, &waiting, wire);
        }
    }

    /// The sender's addresses, and whether it may enter the table unasked.
    fn lesson(&self, ether_type: u16, packet: &[u8]) -> Option<(IpAddr, [u8; 6], bool)> {
        let on_link = |address: IpAddr| {
            self.config.next_hop(address).is_some_and(|(hop, _)| hop == address)
                && crate::config::is_host(address)
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
        let ip = smoltcp::wire::Ipv6Packet::new_checked(packet).ok()?;
        // RFC 4861 §7.1: only what no router has forwarded.
        if ip.hop_limit() != 255 || ip.next_header() != IpProtocol::Icmpv6 {
            return None;
        }
        let message = Icmpv6Packet::new_checked(ip.payload()).ok()?;
        let message = Icmpv6Repr::parse(
            &ip.src_addr(),
            &ip.dst_addr(),
            &message,
            &smoltcp::phy::ChecksumCapabilities::default(),
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
        let HardwareAddress::Ethernet(hardware) = hardware.parse(Medium::Ethernet).ok()? else {
            return None;
        };
        on_link(neighbor.into()).then_some((neighbor.into(), hardware.0, create))
    }

    /// Lets the control interface answer a frame.
    pub(crate) fn control(&mut self, frame: &[u8], wire: &mut Wire<'_>) {
        let mut outbox = Outbox::default();
        let mut device = Splice::control(Some(frame), &mut outbox, self.capabilities.mtu);
        let now = instant(wire.now);
        self.control.poll_ingress_single(now, &mut device, &mut self.control_sockets);
        for answer in outbox.packets() {
            self.transmit(answer.len(), wire, |frame| frame.copy_from_slice(answer));
        }
    }
}

/// Makes the neighbour table of an interface.
pub(crate) fn neighbors(secret: Secret, limit: usize) -> Neighbors {
    Neighbors::new(secret, limit)
}

/// The time in smoltcp's measure.
pub(crate) fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

fn destination_of(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?)),
        _ => None,
    }
}

/// Packets that smoltcp wrote, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    octets: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    pub(crate) fn clear(&mut self) {
        self.octets.clear();
        self.ends.clear();
    }

    pub(crate) fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.octets[start..end])
    }

    pub(crate) fn packets_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = &mut self.octets[..];
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let (packet, tail) = std::mem::take(&mut rest).split_at_mut(end - start);
            start = end;
            rest = tail;
            packet
        })
    }
}

/// A smoltcp device of at most one received packet, which writes to an [`Outbox`].
pub(crate) struct Splice<'a> {
    input: Option<&'a [u8]>,
    output: &'a mut Outbox,
    capabilities: DeviceCapabilities,
}

impl<'a> Splice<'a> {
    /// For connections: bare IP, whose checksums were verified before.
    pub(crate) fn flow(input: Option<&'a [u8]>, output: &'a mut Outbox, mtu: usize) -> Self {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = mtu;
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        Self { input, output, capabilities }
    }

    /// For the control interface: Ethernet, all checksums verified.
    fn control(input: Option<&'a [u8]>, output: &'a mut Outbox, mtu: usize) -> Self {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = mtu + ETHERNET;
        Self { input, output, capabilities }
    }
}

impl smoltcp::phy::Device for Splice<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Sent<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sent<'_>)> {
        let input = self.input.take()?;
        Some((Received(input), Sent(self.output)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        Some(Sent(self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// The one received packet.
pub(crate) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one packet in the outbox.
pub(crate) struct Sent<'a>(&'a mut Outbox);

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let start = self.0.octets.len();
        self.0.octets.resize(start + length, 0);
        self.0.ends.push(start + length);
        f(&mut self.0.octets[start..])
    }
}

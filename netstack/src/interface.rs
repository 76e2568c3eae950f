//! One network interface: its device, addresses and where they come from, neighbours, and `control`,
//! which answers for it. The Ethernet headers of everything else, and the search for neighbours, are
//! done here.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use smoltcp::phy::Medium;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, HardwareAddress, Icmpv6Message,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Repr, NdiscRepr,
};

use crate::config::{ADDRESSES_MAX, InterfaceConfig, Route};
use crate::control::{Control, Lease, Outbox};
use crate::counters::{Counters, DropReason};
use crate::device::{
    Capabilities, Device, FrameOffload, MTU_MAX, Offload, PartialChecksum, Segmentation,
};
use crate::flow::{FlowKey, Secret};
use crate::neighbor::{Neighbors, Resolution, Waiting};
use crate::packet::{ETHERNET, Header, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, ip_header, write_tcp};
use crate::path_mtu::PathMtu;
use crate::slaac::{Question, Slaac};
use crate::tcp::{Outgoing, Tcp};

/// The begin of a datagram from a DHCP server to a client (RFC 2131 §4.1).
const DHCP_PORTS: [u8; 4] = [0, 67, 0, 68];
/// The longest headers in front of data: IPv6, and TCP with all options.
const HEADERS_MAX: usize = 40 + 60;

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

/// A packet that is written when its place is known.
struct Draft<F> {
    destination: IpAddr,
    length: usize,
    /// What the device has to do.
    rest: FrameOffload,
    fill: F,
}

/// One network interface.
pub(crate) struct Port<D> {
    pub(crate) number: usize,
    pub(crate) device: D,
    pub(crate) config: InterfaceConfig,
    pub(crate) capabilities: Capabilities,
    offload: Offload,
    control: Control,
    /// What was configured by hand, and what a DHCP server gave; with `slaac` they make `config`.
    given: InterfaceConfig,
    lease: Lease,
    slaac: Option<Slaac>,
    /// When [`Port::poll`] is due.
    pub(crate) due: Option<Duration>,
    /// The configuration changed since the caller looked.
    pub(crate) changed: bool,
    neighbors: Neighbors,
    pub(crate) paths: PathMtu,
}

impl<D: Device> Port<D> {
    pub(crate) fn new(
        number: usize,
        device: D,
        given: InterfaceConfig,
        seed: u64,
        neighbors: Neighbors,
        paths: PathMtu,
    ) -> Self {
        let capabilities = device.capabilities();
        let offload = device.offload();
        let mut port = Self {
            number,
            device,
            config: InterfaceConfig::default(),
            capabilities,
            offload,
            control: Control::new(capabilities.hardware_address, capabilities.mtu, seed),
            given,
            lease: Lease::default(),
            slaac: None,
            due: None,
            changed: false,
            neighbors,
            paths,
        };
        port.reconfigure();
        port.changed = false;
        port
    }

    /// Replaces what was configured by hand.
    pub(crate) fn give(&mut self, config: InterfaceConfig) {
        self.given = config;
        self.reconfigure();
    }

    /// Begins to ask a DHCP server.
    pub(crate) fn start_dhcp(&mut self) {
        self.control.start_dhcp();
        self.due = Some(Duration::ZERO);
    }

    /// Begins to configure itself for IPv6.
    pub(crate) fn start_slaac(&mut self, delay: Duration) {
        let hardware = self.capabilities.hardware_address;
        self.slaac.get_or_insert_with(|| Slaac::new(hardware, delay));
        self.due = Some(Duration::ZERO);
    }

    /// Name servers that the network named.
    pub(crate) fn name_servers(&self) -> Vec<IpAddr> {
        let own = self.slaac.iter().flat_map(Slaac::name_servers);
        self.lease.name_servers.iter().copied().chain(own).collect()
    }

    /// Brings together what is known of addresses and routes.
    fn reconfigure(&mut self) {
        let mut config = self.given.clone();
        config.addresses.extend(self.lease.address);
        let everywhere = |gateway| Route { network: [0; 4].into(), prefix: 0, gateway };
        // Of equal routes the last one wins: those given by hand.
        let mut routes: Vec<_> = self.lease.gateway.map(everywhere).into_iter().collect();
        if let Some(slaac) = &self.slaac {
            config.addresses.extend(slaac.addresses());
            routes.extend(slaac.route());
        }
        config.addresses.truncate(ADDRESSES_MAX);
        routes.append(&mut config.routes);
        config.routes = routes;
        self.control.set_addresses(&config.addresses, self.lease.gateway);
        self.changed |= config != self.config;
        self.config = config;
    }

    /// Does what is due for the configuration.
    pub(crate) fn poll(&mut self, wire: &mut Wire<'_>) {
        if self.control.speaks_dhcp() {
            let frames = self.control.poll(wire.now);
            self.transmit_all(&frames, wire);
        }
        let questions = self.slaac.as_mut().map(|slaac| slaac.poll(wire.now)).unwrap_or_default();
        for question in questions {
            self.ask(question, wire);
        }
        self.follow_changes(wire.now);
    }

    fn follow_changes(&mut self, now: Duration) {
        let lease = self.control.take_lease();
        let changed = self.slaac.as_mut().is_some_and(Slaac::take_change);
        if changed || lease.is_some() {
            self.lease = lease.unwrap_or_else(|| std::mem::take(&mut self.lease));
            self.reconfigure();
        }
        let slaac = self.slaac.as_ref().and_then(Slaac::deadline);
        self.due = [self.control.deadline(now), slaac].into_iter().flatten().min();
    }

    /// Whether a packet is the answer of a DHCP server that this interface asked.
    pub(crate) fn awaits(&self, header: &Header, payload: &[u8]) -> bool {
        self.control.speaks_dhcp() && header.source.is_ipv4() && payload.starts_with(&DHCP_PORTS)
    }

    /// Takes what a neighbour message says about this host's own configuration.
    pub(crate) fn hear(&mut self, header: &Header, packet: &[u8], now: Duration) {
        let (Some(slaac), IpAddr::V6(source), IpAddr::V6(destination)) =
            (&mut self.slaac, header.source, header.destination)
        else {
            return;
        };
        let message = &packet[header.payload.clone()];
        let Ok(view) = Icmpv6Packet::new_checked(message) else { return };
        let hop_limit = packet[7];
        if !view.verify_checksum(&source, &destination) || hop_limit != 255 {
            return;
        }
        let target = message.get(8..24).and_then(<[u8]>::first_chunk::<16>);
        match (view.msg_type(), target) {
            (Icmpv6Message::RouterAdvert, _) => {
                slaac.advertised(source, hop_limit, message, now);
            }
            (Icmpv6Message::NeighborSolicit, Some(target)) if source.is_unspecified() => {
                slaac.conflict((*target).into());
            }
            (Icmpv6Message::NeighborAdvert, Some(target)) => slaac.conflict((*target).into()),
            _ => return,
        }
        self.follow_changes(now);
    }

    /// Sends a question of the host's own configuration.
    fn ask(&mut self, question: Question, wire: &mut Wire<'_>) {
        let own = EthernetAddress(self.capabilities.hardware_address);
        match question {
            Question::Duplicate(address) => self.solicit(Ipv6Addr::UNSPECIFIED, address, wire),
            Question::Routers(source) => {
                let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
                let message = NdiscRepr::RouterSolicit { lladdr: Some(own.into()) };
                self.send_ndisc(source, routers, message, wire);
            }
        }
    }

    /// Asks who has an address of IPv6; from the unspecified one, whether anybody has.
    fn solicit(&mut self, source: Ipv6Addr, target: Ipv6Addr, wire: &mut Wire<'_>) {
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
    fn send_ndisc(
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
        ip.emit(&mut smoltcp::wire::Ipv6Packet::new_unchecked(&mut packet[..]));
        let mut view = Icmpv6Packet::new_unchecked(&mut packet[ip.buffer_len()..]);
        message.emit(&source, &group, &mut view, &Default::default());
        // RFC 2464 §7.
        let [.., a, b, c, d] = group.octets();
        self.send_whole([0x33, 0x33, a, b, c, d], TYPE_IPV6, &packet, wire);
    }

    /// Octets of data in the longest segment that the device cuts; zero if it cuts none.
    pub(crate) fn super_segment(&self) -> usize {
        let most = self.offload.segmentation.min(MTU_MAX);
        let able = self.offload.checksum && most > self.capabilities.mtu;
        if able { most.saturating_sub(HEADERS_MAX) } else { 0 }
    }

    /// The largest TCP segment for a destination, options included, by the link alone and by what
    /// is known of the path.
    pub(crate) fn segment_sizes(&self, to: IpAddr, now: Duration) -> (usize, usize) {
        let headers = ip_header(to) + 20;
        let link = self.capabilities.mtu;
        let advertised = self.slaac.as_ref().and_then(Slaac::mtu).filter(|_| to.is_ipv6());
        let mtu = advertised.map_or(link, |mtu| mtu.min(link));
        let path = self.paths.get(to, now).map_or(mtu, |path| path.min(mtu));
        (mtu - headers, path - headers)
    }

    /// Sends a segment of a connection.
    pub(crate) fn send_segment(
        &mut self,
        key: &FlowKey,
        tcp: &Tcp,
        segment: &Outgoing,
        wire: &mut Wire<'_>,
    ) {
        let (source, destination) = (key.local.ip(), key.remote.ip());
        let ip = ip_header(source);
        let headers = ip + segment.header.header_len();
        let partial = self.offload.checksum;
        let mut rest = FrameOffload::default();
        if partial {
            let start = u16::try_from(ETHERNET + ip).unwrap_or(0);
            rest.checksum = Some(PartialChecksum { start, offset: 16 });
        }
        if let Some(size) = segment.segment_size {
            rest.segmentation = Some(Segmentation {
                size: u16::try_from(size).unwrap_or(u16::MAX),
                headers: u16::try_from(ETHERNET + headers).unwrap_or(0),
                ipv6: source.is_ipv6(),
            });
        }
        let draft = Draft {
            destination,
            length: headers + segment.octets,
            rest,
            fill: |packet: &mut [u8]| {
                let copy = |data: &mut [u8]| tcp.copy_data(segment, data);
                write_tcp(packet, source, destination, &segment.header, partial, copy);
            },
        };
        self.route(draft, wire);
    }

    /// Sends an IP packet to where its destination's route leads.
    pub(crate) fn send_ip(&mut self, packet: &[u8], wire: &mut Wire<'_>) {
        let Some(destination) = destination_of(packet) else {
            return wire.counters.drop(DropReason::Malformed);
        };
        let fill = |target: &mut [u8]| target.copy_from_slice(packet);
        let rest = FrameOffload::default();
        self.route(Draft { destination, length: packet.len(), rest, fill }, wire);
    }

    /// Sends a packet to the next hop. It is lost, and counted, when there is no way.
    fn route<F: FnOnce(&mut [u8])>(&mut self, draft: Draft<F>, wire: &mut Wire<'_>) {
        let Some((hop, _)) = self.config.next_hop(draft.destination) else {
            return wire.counters.drop(DropReason::NoRoute);
        };
        let request = match self.neighbors.resolve(hop, wire.now) {
            Resolution::Known { hardware, refresh } => {
                self.frame(hardware, draft, wire);
                refresh
            }
            Resolution::Unknown => {
                let mut packet = vec![0; draft.length];
                (draft.fill)(&mut packet);
                let (request, lost) = self.neighbors.wait(hop, (packet, draft.rest), wire.now);
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
        self.send_waiting(hardware, &(packet.to_vec(), FrameOffload::default()), wire);
    }

    fn send_waiting(&mut self, hardware: [u8; 6], waiting: &Waiting, wire: &mut Wire<'_>) {
        let (packet, rest) = waiting;
        let Some(destination) = destination_of(packet) else { return };
        let fill = |target: &mut [u8]| target.copy_from_slice(packet);
        self.frame(hardware, Draft { destination, length: packet.len(), rest: *rest, fill }, wire);
    }

    fn frame<F: FnOnce(&mut [u8])>(&mut self, to: [u8; 6], draft: Draft<F>, wire: &mut Wire<'_>) {
        let ether_type = if draft.destination.is_ipv4() { TYPE_IPV4 } else { TYPE_IPV6 };
        self.send_frame(to, ether_type, draft.length, &draft.rest, wire, draft.fill);
    }

    fn send_frame(
        &mut self,
        to: [u8; 6],
        ether_type: u16,
        length: usize,
        rest: &FrameOffload,
        wire: &mut Wire<'_>,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let own = self.capabilities.hardware_address;
        self.transmit(ETHERNET + length, rest, wire, |frame| {
            frame[..6].copy_from_slice(&to);
            frame[6..12].copy_from_slice(&own);
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            fill(&mut frame[ETHERNET..]);
        });
    }

    fn transmit(
        &mut self,
        length: usize,
        rest: &FrameOffload,
        wire: &mut Wire<'_>,
        fill: impl FnOnce(&mut [u8]),
    ) {
        if !self.device.can_transmit() {
            return wire.counters.drop(DropReason::DeviceFull);
        }
        wire.counters.frames_sent += 1;
        let (number, now, capture) = (self.number, wire.now, &mut *wire.capture);
        let write = |frame: &mut [u8]| {
            fill(frame);
            if let Some(capture) = capture {
                capture(number, Direction::Sent, frame, now);
            }
        };
        if *rest == FrameOffload::default() {
            self.device.transmit(length, write);
        } else {
            self.device.transmit_offloaded(length, rest, write);
        }
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
                self.send_whole([0xff; 6], TYPE_ARP, &packet, wire);
            }
            (IpAddr::V6(source), IpAddr::V6(neighbor)) => self.solicit(source, neighbor, wire),
            _ => {}
        }
    }

    /// Sends a frame whose content is complete.
    fn send_whole(&mut self, to: [u8; 6], ether_type: u16, content: &[u8], wire: &mut Wire<'_>) {
        let fill = |target: &mut [u8]| target.copy_from_slice(content);
        self.send_frame(to, ether_type, content.len(), &FrameOffload::default(), wire, fill);
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
        let answers = self.control.input(frame, wire.now);
        self.transmit_all(&answers, wire);
        if self.control.speaks_dhcp() {
            self.follow_changes(wire.now);
        }
    }

    fn transmit_all(&mut self, frames: &Outbox, wire: &mut Wire<'_>) {
        for frame in frames.frames() {
            let copy = |target: &mut [u8]| target.copy_from_slice(frame);
            self.transmit(frame.len(), &FrameOffload::default(), wire, copy);
        }
    }
}

/// Makes the neighbour table of an interface.
pub(crate) fn neighbors(secret: Secret, limit: usize) -> Neighbors {
    Neighbors::new(secret, limit)
}

fn destination_of(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?)),
        _ => None,
    }
}

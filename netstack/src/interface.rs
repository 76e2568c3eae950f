//! One network interface: its device, addresses, neighbours, and an interface of smoltcp, `control`,
//! which has no sockets: it answers ARP, neighbour solicitations and pings. The Ethernet headers of
//! everything else, and the search for neighbours, are done here.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, HardwareAddress, Icmpv6Packet, Icmpv6Repr,
    IpCidr, IpProtocol, Ipv6Repr, NdiscRepr,
};

use crate::config::InterfaceConfig;
use crate::counters::{Counters, DropReason};
use crate::device::{
    Capabilities, Device, FrameOffload, MTU_MAX, Offload, PartialChecksum, Segmentation,
};
use crate::flow::{FlowKey, Secret};
use crate::neighbor::{Neighbors, Resolution, Waiting};
use crate::packet::{ETHERNET, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, ip_header, write_tcp};
use crate::path_mtu::PathMtu;
use crate::tcp::{Outgoing, Tcp};

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
        let hardware = EthernetAddress(capabilities.hardware_address);
        let mut outbox = Outbox::default();
        let mut splice = Splice::new(None, &mut outbox, capabilities.mtu);
        let mut settings = Config::new(HardwareAddress::Ethernet(hardware));
        settings.random_seed = seed;
        let mut control = Interface::new(settings, &mut splice, Instant::ZERO);
        control.update_ip_addrs(|addresses| {
            for &(address, prefix) in &config.addresses {
                // Never full: `InterfaceConfig::validate` knows the limit.
                let _ = addresses.push(IpCidr::new(address.into(), prefix));
            }
        });
        let offload = device.offload();
        Self {
            number,
            device,
            config,
            capabilities,
            offload,
            control,
            control_sockets: SocketSet::new(Vec::new()),
            neighbors,
            paths,
        }
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
        let mtu = self.capabilities.mtu;
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
                self.send_whole(to, TYPE_IPV6, &packet, wire);
            }
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
        let mut outbox = Outbox::default();
        let mut device = Splice::new(Some(frame), &mut outbox, self.capabilities.mtu);
        let now = instant(wire.now);
        self.control.poll_ingress_single(now, &mut device, &mut self.control_sockets);
        for answer in outbox.packets() {
            let copy = |frame: &mut [u8]| frame.copy_from_slice(answer);
            self.transmit(answer.len(), &FrameOffload::default(), wire, copy);
        }
    }
}

/// Makes the neighbour table of an interface.
pub(crate) fn neighbors(secret: Secret, limit: usize) -> Neighbors {
    Neighbors::new(secret, limit)
}

/// The time in smoltcp's measure.
fn instant(now: Duration) -> Instant {
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
struct Outbox {
    octets: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.octets[start..end])
    }
}

/// A smoltcp device of at most one received packet, which writes to an [`Outbox`].
struct Splice<'a> {
    input: Option<&'a [u8]>,
    output: &'a mut Outbox,
    capabilities: DeviceCapabilities,
}

impl<'a> Splice<'a> {
    fn new(input: Option<&'a [u8]>, output: &'a mut Outbox, mtu: usize) -> Self {
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
struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one packet in the outbox.
struct Sent<'a>(&'a mut Outbox);

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let start = self.0.octets.len();
        self.0.octets.resize(start + length, 0);
        self.0.ends.push(start + length);
        f(&mut self.0.octets[start..])
    }
}

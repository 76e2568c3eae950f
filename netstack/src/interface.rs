//! One network interface: its device, addresses, neighbours, and `control`, which answers for it. The
//! Ethernet headers of everything else are written here; `configure` is where addresses come from,
//! `discovery` the search for neighbours.

mod announce;
mod configure;
mod discovery;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use self::announce::Announcement;
use crate::config::InterfaceConfig;
use crate::control::{Control, Lease, Outbox};
use crate::counters::{Counters, DropReason};
use crate::device::{
    Capabilities, Device, FrameOffload, MTU_MAX, Offload, PartialChecksum, Segmentation,
};
use crate::flow::{FlowKey, Secret};
use crate::neighbor::{Neighbors, Resolution, Waiting};
use crate::packet::{ETHERNET, TYPE_IPV4, TYPE_IPV6, ip_header, write_tcp};
use crate::path_mtu::PathMtu;
use crate::slaac::Slaac;
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
    control: Control,
    /// What was configured by hand, and what a DHCP server gave; with `slaac` they make `config`.
    given: InterfaceConfig,
    lease: Lease,
    slaac: Option<Slaac>,
    /// Whether the link is told of `config`, and what is to be told.
    announces: bool,
    announcements: Vec<Announcement>,
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
            announces: false,
            announcements: Vec::new(),
            due: None,
            changed: false,
            neighbors,
            paths,
        };
        port.reconfigure();
        port.changed = false;
        port
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
        if self.config.is_loopback() {
            return self.frame(self.capabilities.hardware_address, draft, wire);
        }
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

    /// Sends a frame whose content is complete.
    fn send_whole(&mut self, to: [u8; 6], ether_type: u16, content: &[u8], wire: &mut Wire<'_>) {
        let fill = |target: &mut [u8]| target.copy_from_slice(content);
        self.send_frame(to, ether_type, content.len(), &FrameOffload::default(), wire, fill);
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

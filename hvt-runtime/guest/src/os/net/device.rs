//! The way of frames: from the stack to the tender and back, and from the stack to itself.
//!
//! Frames to send wait in a queue and received ones in a queue for each device. They cross to the tender in the best way
//! that it offers: [`super::exchange`], else Solo5's ring ([`super::ring`]), else one call for each ([`super::plain`]).
//! Buffers go round: they are taken from and given back to one pool.
//!
//! A device with offload leaves checksums to the host, and carries TCP segments as long as an IP packet can be, both ways.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use hvt_abi::exchange;
use hvt_abi::extension::FEATURE_EXCHANGE;
use hvt_abi::manifest::Entry;
use netstack::{Capabilities, Device, FrameOffload, MTU_MAX, Offload};

use super::super::console;
use super::super::single::Single;
use super::super::start;
use super::exchange::ByExchange;
use super::plain;
use super::ring::ByRing;

/// Most frames that wait to be sent; beyond, connections keep their data.
pub(super) const SEND_MAX: usize = 256;
/// What a frame has around its packet: an Ethernet header and a VLAN tag.
const AROUND: usize = 18;
/// The largest packet on the loopback interface.
const LOOPBACK_MTU: usize = 16 * 1024;
/// A buffer for it.
pub(super) const LOOPBACK_ROOM: usize = LOOPBACK_MTU + AROUND;
/// Most frames that wait on the loopback interface.
const LOOPBACK_MAX: usize = 256;

/// A device of the stack's.
#[derive(Debug)]
pub(super) enum Port {
    /// One of the tender's: its place among those, and its properties.
    Tender { index: usize, handle: u16, hardware_address: [u8; 6], mtu: usize, offload: bool },
    /// This host's own.
    Loopback,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Counters {
    /// Frames given to the tender.
    pub(in super::super) sent: u64,
    /// Frames that the tender would not take.
    pub(in super::super) refused: u64,
    /// Frames from the tender.
    pub(in super::super) received: u64,
    /// Calls for frames and for waiting.
    pub(in super::super) calls: u64,
}

/// A received frame; its buffer goes back to the pool.
#[derive(Debug)]
pub(super) struct Frame {
    buffer: Box<[u8]>,
    len: usize,
    /// The host answers for its checksums.
    verified: bool,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl AsMut<[u8]> for Frame {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let buffer = core::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            LINES.with(|lines| lines.queues.spare.push(buffer));
        }
    }
}

/// A frame in a queue.
pub(super) struct Queued {
    /// The tender's handle of the device that it goes to; of no meaning in other queues.
    pub(super) handle: u16,
    pub(super) buffer: Box<[u8]>,
    pub(super) len: usize,
    pub(super) offload: exchange::Offload,
}

/// Frames on both sides of the border, and the pool of their buffers.
pub(super) struct Queues {
    /// Handles of the devices.
    pub(super) handles: Vec<u16>,
    pub(super) to_send: VecDeque<Queued>,
    pub(super) received: Vec<VecDeque<Queued>>,
    pub(super) spare: Vec<Box<[u8]>>,
    /// Bytes of a buffer.
    pub(super) room: usize,
    pub(super) counters: Counters,
    loopback: VecDeque<Queued>,
}

impl Queues {
    pub(super) fn buffer(&mut self) -> Box<[u8]> {
        self.spare.pop().unwrap_or_else(|| vec![0; self.room].into_boxed_slice())
    }

    /// Bit `1 << handle` for each device.
    pub(super) fn devices(&self) -> u64 {
        self.handles.iter().fold(0, |set, handle| set | 1 << handle)
    }
}

/// How frames cross the border.
enum Way {
    Plain,
    Exchange(ByExchange),
    Ring(ByRing),
}

impl Way {
    /// The best that the tender offers.
    fn choose(handles: &[u16]) -> Self {
        let tender = start::tender();
        if tender.features & FEATURE_EXCHANGE != 0 {
            return Self::Exchange(ByExchange::default());
        }
        // SAFETY: the tender offers a ring there, and this is the only place that takes it.
        let ring = tender.ring.and_then(|address| unsafe { ByRing::new(address, handles) });
        ring.map_or(Self::Plain, Self::Ring)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Plain => "one call each",
            Self::Exchange(_) => "exchange",
            Self::Ring(_) => "ring",
        }
    }
}

struct Lines {
    queues: Queues,
    way: Way,
}

static LINES: Single<Lines> = Single::new(Lines {
    queues: Queues {
        handles: Vec::new(),
        to_send: VecDeque::new(),
        received: Vec::new(),
        spare: Vec::new(),
        room: 0,
        counters: Counters { sent: 0, refused: 0, received: 0, calls: 0 },
        loopback: VecDeque::new(),
    },
    way: Way::Plain,
});

/// Prepares the ways to these devices.
pub(super) fn start(devices: &[(u16, &Entry)]) {
    let largest = devices.iter().map(|&(handle, entry)| {
        if has_offload(handle) { MTU_MAX } else { usize::from(entry.net().mtu) }
    });
    let largest = largest.max();
    LINES.with(|Lines { queues, way }| {
        queues.handles = devices.iter().map(|&(handle, _)| handle).collect();
        queues.received = devices.iter().map(|_| VecDeque::new()).collect();
        queues.room = (largest.unwrap_or(0) + AROUND).max(LOOPBACK_ROOM);
        if !devices.is_empty() {
            *way = Way::choose(&queues.handles);
            console::debug(format_args!("frames cross by: {}", way.name()));
        }
    });
}

fn has_offload(handle: u16) -> bool {
    start::tender().net_offload & 1 << handle != 0
}

/// Whether there is a device of the tender's.
pub(super) fn has_any() -> bool {
    LINES.with(|lines| !lines.queues.handles.is_empty())
}

/// Whether frames wait to be sent that a device may take.
pub(super) fn has_frames_to_send() -> bool {
    LINES.with(|lines| !lines.queues.to_send.is_empty())
}

/// Whether this host has frames for itself.
pub(super) fn loops() -> bool {
    LINES.with(|lines| !lines.queues.loopback.is_empty())
}

/// What was counted.
pub(in super::super) fn counters() -> Counters {
    LINES.with(|lines| lines.queues.counters)
}

/// Carries frames both ways and waits up to `timeout` nanoseconds; the set of devices with events as a poll gives it.
pub(super) fn cross(timeout: u64) -> u64 {
    LINES.with(|Lines { queues, way }| match way {
        Way::Plain => plain::turn(queues, timeout),
        Way::Exchange(exchange) => exchange.turn(queues, timeout),
        Way::Ring(ring) => ring.turn(queues, timeout),
    })
}

/// Waits for frames that the tender has and has not sent: after the end of the program it sends nothing.
pub(super) fn finish() {
    LINES.with(|Lines { queues, way }| {
        if let Way::Ring(ring) = way {
            ring.finish(queues);
        }
    });
}

/// A length or count of the call.
pub(super) fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Port {
    pub(super) fn loopback() -> Self {
        Self::Loopback
    }

    pub(super) fn tender(index: usize, handle: u16, entry: &Entry) -> Self {
        let net = entry.net();
        let offload = has_offload(handle);
        Self::Tender { index, handle, hardware_address: net.mac, mtu: net.mtu.into(), offload }
    }

    fn queue(&self, length: usize, offload: exchange::Offload, fill: impl FnOnce(&mut [u8])) {
        LINES.with(|Lines { queues, .. }| {
            let (mut buffer, len) = (queues.buffer(), length.min(queues.room));
            fill(&mut buffer[..len]);
            match *self {
                Self::Tender { handle, .. } => {
                    queues.to_send.push_back(Queued { handle, buffer, len, offload });
                }
                Self::Loopback => {
                    queues.loopback.push_back(Queued { handle: 0, buffer, len, offload });
                }
            }
        });
    }
}

impl Device for Port {
    type Frame = Frame;

    fn receive(&mut self) -> Option<Frame> {
        let queued = LINES.with(|Lines { queues, .. }| match *self {
            Self::Tender { index, .. } => queues.received[index].pop_front(),
            Self::Loopback => queues.loopback.pop_front(),
        });
        queued.map(|Queued { buffer, len, offload, .. }| {
            let known = exchange::Offload::NEEDS_CSUM | exchange::Offload::DATA_VALID;
            Frame { buffer, len, verified: offload.flags & known != 0 }
        })
    }

    fn can_transmit(&self) -> bool {
        LINES.with(|Lines { queues, .. }| match self {
            Self::Tender { .. } => queues.to_send.len() < SEND_MAX,
            Self::Loopback => queues.loopback.len() < LOOPBACK_MAX,
        })
    }

    fn transmit<F: FnOnce(&mut [u8])>(&mut self, length: usize, fill: F) {
        self.queue(length, exchange::Offload::default(), fill);
    }

    fn offload(&self) -> Offload {
        match self {
            Self::Tender { offload: true, .. } => Offload { checksum: true, segmentation: MTU_MAX },
            _ => Offload::default(),
        }
    }

    fn transmit_offloaded<F: FnOnce(&mut [u8])>(
        &mut self,
        length: usize,
        rest: &FrameOffload,
        fill: F,
    ) {
        let mut offload = exchange::Offload::default();
        if let Some(checksum) = rest.checksum {
            offload.flags = exchange::Offload::NEEDS_CSUM;
            (offload.csum_start, offload.csum_offset) = (checksum.start, checksum.offset);
        }
        if let Some(cut) = rest.segmentation {
            offload.gso_type = match cut.ipv6 {
                true => exchange::Offload::GSO_TCPV6,
                false => exchange::Offload::GSO_TCPV4,
            };
            (offload.gso_size, offload.hdr_len) = (cut.size, cut.headers);
        }
        self.queue(length, offload, fill);
    }

    fn is_verified(&self, frame: &Frame) -> bool {
        frame.verified
    }

    fn capabilities(&self) -> Capabilities {
        match *self {
            Self::Tender { hardware_address, mtu, .. } => {
                Capabilities { hardware_address, mtu, trusted_checksums: false }
            }
            Self::Loopback => Capabilities {
                // Locally administered.
                hardware_address: [2, 0, 0, 0, 0, 1],
                mtu: LOOPBACK_MTU,
                trusted_checksums: true,
            },
        }
    }
}

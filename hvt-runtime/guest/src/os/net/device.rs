//! The way of frames: from the stack to the tender and back, and from the stack to itself.
//!
//! Frames to send wait in a queue and received ones in a queue for each device, so that one call to the tender carries
//! many of them. With [`FEATURE_EXCHANGE`] that is one exit of the machine; with the plain calls it is one for each frame.
//! Buffers go round: they are taken from and given back to one pool.
//!
//! A device with offload leaves checksums to the host, and carries TCP segments as long as an IP packet can be, both ways.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use hvt_abi::exchange::{self, Exchange};
use hvt_abi::extension::FEATURE_EXCHANGE;
use hvt_abi::hypercall::{RESULT_AGAIN, RESULT_OK};
use hvt_abi::manifest::Entry;
use netstack::{Capabilities, Device, FrameOffload, MTU_MAX, Offload};

use super::super::single::Single;
use super::super::{hypercall, start};

/// Most frames that wait to be sent; beyond, connections keep their data.
const SEND_MAX: usize = exchange::MAX_FRAMES as usize;
/// Rooms for received frames in one call.
const ROOMS: usize = 64;
/// The same after a call that filled them all, where frames are short: a stream of data then leaves the machine less often.
const ROOMS_MANY: usize = exchange::MAX_FRAMES as usize;
/// Most frames that are taken from one device in one turn where each takes a call.
const PLAIN_READS: usize = 64;
/// Result codes as a frame's status has them.
const SENT: u16 = 0;
const NOT_NOW: u16 = 1;
const _: () = assert!(RESULT_OK == 0 && RESULT_AGAIN == 1);
/// What a frame has around its packet: an Ethernet header and a VLAN tag.
const AROUND: usize = 18;
/// The largest packet on the loopback interface.
const LOOPBACK_MTU: usize = 16 * 1024;
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
            LINES.with(|lines| lines.spare.push(buffer));
        }
    }
}

/// A frame in a queue.
struct Queued {
    /// The tender's handle of the device that it goes to; of no meaning in other queues.
    handle: u16,
    buffer: Box<[u8]>,
    len: usize,
    offload: exchange::Offload,
}

struct Lines {
    exchange: bool,
    /// Handles of the devices.
    handles: Vec<u16>,
    to_send: VecDeque<Queued>,
    /// Devices that took no more at the last call.
    full: u64,
    received: Vec<VecDeque<Queued>>,
    loopback: VecDeque<Queued>,
    spare: Vec<Box<[u8]>>,
    /// Bytes of a buffer.
    room: usize,
    counters: Counters,
    send_list: Vec<exchange::Frame>,
    receive_list: Vec<exchange::Frame>,
    rooms: Vec<Box<[u8]>>,
    /// The last call filled all rooms.
    flooded: bool,
}

static LINES: Single<Lines> = Single::new(Lines {
    exchange: false,
    handles: Vec::new(),
    to_send: VecDeque::new(),
    full: 0,
    received: Vec::new(),
    loopback: VecDeque::new(),
    spare: Vec::new(),
    room: 0,
    counters: Counters { sent: 0, refused: 0, received: 0, calls: 0 },
    send_list: Vec::new(),
    receive_list: Vec::new(),
    rooms: Vec::new(),
    flooded: false,
});

/// Prepares the ways to these devices.
pub(super) fn start(devices: &[(u16, &Entry)]) {
    let largest = devices.iter().map(|&(handle, entry)| {
        if has_offload(handle) { MTU_MAX } else { usize::from(entry.net().mtu) }
    });
    let largest = largest.max();
    LINES.with(|lines| {
        lines.exchange = start::tender().features & FEATURE_EXCHANGE != 0;
        lines.handles = devices.iter().map(|&(handle, _)| handle).collect();
        lines.received = devices.iter().map(|_| VecDeque::new()).collect();
        lines.room = largest.unwrap_or(0).max(LOOPBACK_MTU) + AROUND;
    });
}

fn has_offload(handle: u16) -> bool {
    start::tender().net_offload & 1 << handle != 0
}

/// Whether there is a device of the tender's.
pub(super) fn has_any() -> bool {
    LINES.with(|lines| !lines.handles.is_empty())
}

/// Whether frames wait to be sent that a device may take.
pub(super) fn has_frames_to_send() -> bool {
    LINES.with(|lines| !lines.to_send.is_empty())
}

/// Whether this host has frames for itself.
pub(super) fn loops() -> bool {
    LINES.with(|lines| !lines.loopback.is_empty())
}

/// What was counted.
pub(in super::super) fn counters() -> Counters {
    LINES.with(|lines| lines.counters)
}

/// Carries frames both ways and waits up to `timeout` nanoseconds; the set of devices with events as a poll gives it.
pub(super) fn exchange(timeout: u64) -> u64 {
    LINES.with(|lines| if lines.exchange { lines.exchange(timeout) } else { lines.plain(timeout) })
}

impl Lines {
    fn buffer(&mut self) -> Box<[u8]> {
        self.spare.pop().unwrap_or_else(|| vec![0; self.room].into_boxed_slice())
    }

    fn devices(&self) -> u64 {
        self.handles.iter().fold(0, |set, handle| set | 1 << handle)
    }

    fn exchange(&mut self, timeout: u64) -> u64 {
        let wanted = if self.flooded { ROOMS_MANY } else { ROOMS };
        while self.rooms.len() < wanted {
            let room = self.buffer();
            self.rooms.push(room);
        }
        self.spare.extend(self.rooms.drain(wanted..));
        self.receive_list.clear();
        self.receive_list.extend(self.rooms.iter_mut().map(|room| exchange::Frame {
            data: room.as_mut_ptr() as u64,
            len: length(room.len()),
            ..exchange::Frame::default()
        }));
        self.send_list.clear();
        self.send_list.extend(self.to_send.iter().take(SEND_MAX).map(|queued| exchange::Frame {
            data: queued.buffer.as_ptr() as u64,
            len: length(queued.len),
            handle: queued.handle,
            offload: queued.offload,
            ..exchange::Frame::default()
        }));
        let mut call = Exchange {
            send: self.send_list.as_ptr() as u64,
            receive: self.receive_list.as_mut_ptr() as u64,
            timeout_nsecs: timeout,
            receive_set: self.devices(),
            writable_set: self.full,
            send_count: length(self.send_list.len()),
            receive_count: length(self.receive_list.len()),
            ..Exchange::default()
        };
        // SAFETY: both lists are as long as told, and name buffers that are the pool's own.
        unsafe { hypercall::exchange(&mut call) };
        self.counters.calls += 1;
        self.take_sent(call.sent);
        let received = call.received as usize;
        self.flooded = received == wanted && self.room <= LOOPBACK_MTU + AROUND;
        self.take_received(received);
        call.ready_set
    }

    fn take_sent(&mut self, sent: u32) {
        self.full = 0;
        self.counters.sent += u64::from(sent);
        let all = sent as usize == self.send_list.len();
        let mut kept = 0;
        for descriptor in &self.send_list {
            let Some(queued) = self.to_send.pop_front() else { break };
            if !all && descriptor.status == NOT_NOW {
                self.full |= 1 << queued.handle;
                self.to_send.push_back(queued);
                kept += 1;
                continue;
            }
            self.counters.refused += u64::from(!all && descriptor.status != SENT);
            self.spare.push(queued.buffer);
        }
        // Behind them stands what did not fit the call.
        self.to_send.rotate_right(kept);
    }

    fn take_received(&mut self, count: usize) {
        let rooms = self.rooms.drain(..count.min(self.rooms.len()));
        for (buffer, descriptor) in rooms.zip(&self.receive_list) {
            let len = (descriptor.len as usize).min(buffer.len());
            let index = self.handles.iter().position(|&handle| handle == descriptor.handle);
            let whole = descriptor.status == SENT;
            if let (Some(index), true) = (index, whole) {
                self.counters.received += 1;
                let (handle, offload) = (descriptor.handle, descriptor.offload);
                self.received[index].push_back(Queued { handle, buffer, len, offload });
            } else {
                self.spare.push(buffer);
            }
        }
    }

    fn plain(&mut self, timeout: u64) -> u64 {
        while let Some(Queued { handle, buffer, len, .. }) = self.to_send.pop_front() {
            self.counters.calls += 1;
            match hypercall::net_write(handle.into(), &buffer[..len]) {
                RESULT_OK => self.counters.sent += 1,
                _ => self.counters.refused += 1,
            }
            self.spare.push(buffer);
        }
        self.counters.calls += 1;
        let ready = hypercall::poll(timeout);
        for index in 0..self.handles.len() {
            let handle = self.handles[index];
            if ready & 1 << handle == 0 {
                continue;
            }
            for _ in 0..PLAIN_READS {
                let mut buffer = self.buffer();
                self.counters.calls += 1;
                let Some(len) = hypercall::net_read(handle.into(), &mut buffer) else {
                    self.spare.push(buffer);
                    break;
                };
                self.counters.received += 1;
                let offload = exchange::Offload::default();
                self.received[index].push_back(Queued { handle, buffer, len, offload });
            }
        }
        ready
    }
}

/// A length or count of the call.
fn length(length: usize) -> u32 {
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
        LINES.with(|lines| {
            let (mut buffer, len) = (lines.buffer(), length.min(lines.room));
            fill(&mut buffer[..len]);
            match *self {
                Self::Tender { handle, .. } => {
                    lines.to_send.push_back(Queued { handle, buffer, len, offload });
                }
                Self::Loopback => {
                    lines.loopback.push_back(Queued { handle: 0, buffer, len, offload });
                }
            }
        });
    }
}

impl Device for Port {
    type Frame = Frame;

    fn receive(&mut self) -> Option<Frame> {
        let queued = LINES.with(|lines| match *self {
            Self::Tender { index, .. } => lines.received[index].pop_front(),
            Self::Loopback => lines.loopback.pop_front(),
        });
        queued.map(|Queued { buffer, len, offload, .. }| {
            let known = exchange::Offload::NEEDS_CSUM | exchange::Offload::DATA_VALID;
            Frame { buffer, len, verified: offload.flags & known != 0 }
        })
    }

    fn can_transmit(&self) -> bool {
        LINES.with(|lines| match self {
            Self::Tender { .. } => lines.to_send.len() < SEND_MAX,
            Self::Loopback => lines.loopback.len() < LOOPBACK_MAX,
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

//! The guest library's side of Solo5's ring, on a thread of its own, against the tender's: with real memory between them
//! and a peer on the wire. Every frame that one side sends the other gets, once, in order and whole.
//!
//! `HVT_RING_FRAMES` sets how many frames go each way (default 10,000).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::VecDeque;
use std::mem::offset_of;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::thread;
use std::time::Duration;

use hvt_abi::manifest::NetProperties;
use hvt_abi::ring::{Commit, Entry, Ring};
use hvt_guest::ring::driver::{Buffer, Index, Shared};
use hvt_guest::ring::line::{Frames, Line, Tender};
use hvt_tender::device::net::{Framing, NetDevice};
use hvt_tender::device::ring::RingQueue;
use hvt_tender::device::{Device, Devices};
use hvt_tender::memory::{GuestSpace, Permission};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SIZE: u64 = 4 << 20;
const FIRST_BUFFER: u64 = 0x1000;
const ROOM: u64 = 2048;
const HANDLE: u16 = 1;
/// Frames that the socket takes before its reader has one: what is more would be lost, as on a wire.
const ON_THE_WIRE: u64 = 8;

/// What the threads tell each other beside the ring.
#[derive(Default)]
struct Count {
    /// Frames that the peer has sent and got.
    peer_sent: AtomicU64,
    peer_got: AtomicU64,
    guest_got: AtomicU64,
    kicks: AtomicU64,
    end: AtomicBool,
}

/// A frame whose bytes say which one it is.
fn frame(number: u64) -> Vec<u8> {
    let len = 60 + (number % 1400) as usize;
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

struct Window {
    memory: Arc<MmapRegion>,
    kick: EventFd,
    count: Arc<Count>,
}

fn field(index: Index) -> usize {
    match index {
        Index::Submitted => offset_of!(Ring, ent_tail),
        Index::Consumed => offset_of!(Ring, ent_head),
        Index::Answered => offset_of!(Ring, com_tail),
        Index::Taken => offset_of!(Ring, com_head),
        Index::NeedsKick => offset_of!(Ring, needs_kick),
    }
}

impl Shared for Window {
    fn load(&self, index: Index) -> u32 {
        let at = self.memory.get_atomic_ref::<AtomicU32>(field(index)).unwrap();
        at.load(Ordering::Acquire)
    }

    fn store(&mut self, index: Index, value: u32) {
        let at = self.memory.get_atomic_ref::<AtomicU32>(field(index)).unwrap();
        at.store(value, Ordering::Release);
    }

    fn put(&mut self, slot: usize, entry: Entry) {
        let at = offset_of!(Ring, entries) + slot * size_of::<Entry>();
        let Entry { operation, handle, data, len, id, reserved } = entry;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        for (i, word) in [pair(operation, handle), data, pair(len, id), reserved].iter().enumerate()
        {
            self.memory.as_volatile_slice().write_obj(*word, at + 8 * i).unwrap();
        }
    }

    fn answer(&self, slot: usize) -> Commit {
        let at = offset_of!(Ring, commits) + slot * size_of::<Commit>();
        let word = |i: usize| self.memory.as_volatile_slice().read_obj::<u32>(at + 4 * i).unwrap();
        Commit { id: word(0), ret: word(1).cast_signed(), len: word(2), reserved: word(3) }
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn kick(&mut self) {
        self.count.kicks.fetch_add(1, Ordering::Relaxed);
        self.kick.write(1).unwrap();
    }
}

impl Tender for Window {
    fn poll(&mut self, timeout: u64) -> u64 {
        // As a tender's poll: until a frame is on the wire, or the time is over.
        let mut left = timeout / 10_000;
        while self.count.peer_sent.load(Ordering::Acquire)
            <= self.count.guest_got.load(Ordering::Acquire)
        {
            if left == 0 {
                return 0;
            }
            left -= 1;
            thread::sleep(Duration::from_micros(10));
        }
        1 << HANDLE
    }

    fn pause(&mut self) {
        std::hint::spin_loop();
    }
}

#[derive(Debug)]
struct Room(u64);

impl Buffer for Room {
    fn address(&self) -> u64 {
        self.0
    }

    fn len(&self) -> u32 {
        ROOM as u32
    }
}

struct Queues {
    space: Arc<GuestSpace>,
    to_send: VecDeque<u64>,
    spare: Vec<Room>,
    expected: u64,
    count: Arc<Count>,
}

impl Frames<Room> for Queues {
    fn has_frame(&self) -> bool {
        !self.to_send.is_empty()
    }

    fn next_frame(&mut self) -> Option<(u32, Room, u32)> {
        let bytes = frame(self.to_send.pop_front()?);
        let room = self.room();
        self.space.writable(room.0, bytes.len() as u64).unwrap().copy_from(&bytes);
        Some((HANDLE.into(), room, bytes.len() as u32))
    }

    fn room(&mut self) -> Room {
        self.spare.pop().expect("the ring holds less than there is")
    }

    fn received(&mut self, device: usize, buffer: Room, len: u32) {
        assert_eq!(device, 0);
        let mut bytes = vec![0; len as usize];
        self.space.readable(buffer.0, len.into()).unwrap().copy_to(&mut bytes);
        assert!(bytes == frame(self.expected), "frame {} came as {len} bytes", self.expected);
        self.expected += 1;
        self.count.guest_got.store(self.expected, Ordering::Release);
        self.done(buffer);
    }

    fn done(&mut self, buffer: Room) {
        // A tender that still reads it would send this.
        self.space.writable(buffer.0, ROOM).unwrap().copy_from(&[0xee; ROOM as usize]);
        self.spare.push(buffer);
    }
}

/// The tender's thread, as [`hvt_tender::device::ring::start`] runs it.
fn serve(mut queue: RingQueue, kick: &EventFd, count: &Count) {
    while !count.end.load(Ordering::Acquire) {
        if queue.serve().unwrap() {
            continue;
        }
        if queue.before_sleep() {
            while kick.read().is_err() && !count.end.load(Ordering::Acquire) {
                thread::sleep(Duration::from_micros(10));
            }
        }
        queue.after_sleep();
    }
}

#[test]
fn frames_pass_once_in_order_and_whole() {
    let frames: u64 = std::env::var("HVT_RING_FRAMES").map_or(10_000, |n| n.parse().unwrap());
    let mut space = GuestSpace::new(MmapRegion::new(SIZE as usize).unwrap(), 0);
    space.permit(vec![Permission { addresses: FIRST_BUFFER..SIZE, write: true }]);
    let space = Arc::new(space);
    let (wire, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let properties = NetProperties { mac: [2; 6], mtu: 1500 };
    let net = NetDevice::new("lan", theirs.into(), properties, Framing::Packets, None);
    let devices = Arc::new(Devices::new(vec![None, Some(Device::Net(net))]));
    let memory = Arc::new(MmapRegion::new(2 << 20).unwrap());
    let queue = RingQueue::new(Arc::clone(&memory), Arc::clone(&space), devices);
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let count = Arc::new(Count::default());

    let window = Window { memory, kick: kick.try_clone().unwrap(), count: Arc::clone(&count) };
    let mut line = Line::new(window, &[HANDLE]);
    let spare = (FIRST_BUFFER..SIZE - ROOM).step_by(ROOM as usize).map(Room).collect();
    let mut queues =
        Queues { space, to_send: VecDeque::new(), spare, expected: 0, count: Arc::clone(&count) };
    let buffers = queues.spare.len();

    thread::scope(|scope| {
        scope.spawn(|| serve(queue, &kick, &count));
        scope.spawn(|| {
            for number in 0..frames {
                wire.send(&frame(number)).unwrap();
                count.peer_sent.store(number + 1, Ordering::Release);
                // Now and then a quiet moment, in which everybody falls asleep.
                if number % 1000 == 999 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        scope.spawn(|| {
            let mut bytes = [0; ROOM as usize];
            for number in 0..frames {
                let len = wire.recv(&mut bytes).unwrap();
                assert!(bytes[..len] == frame(number), "frame {number} left as {len} bytes");
                count.peer_got.store(number + 1, Ordering::Release);
            }
        });
        let mut next = 0;
        while queues.expected < frames || next < frames {
            let room = ON_THE_WIRE - (next - count.peer_got.load(Ordering::Acquire));
            let end = (next + room).min(frames);
            queues.to_send.extend(next..end);
            next = end;
            let timeout = if next % 3 == 0 || room == 0 { 200_000 } else { 0 };
            line.turn(&mut queues, timeout).unwrap();
        }
        line.finish(&mut queues).unwrap();
        count.end.store(true, Ordering::Release);
    });
    let counters = line.counters();
    println!("{counters:?}, {} kicks", count.kicks.load(Ordering::Relaxed));
    assert_eq!((counters.sent, counters.received, counters.refused), (frames, frames, 0));
    // What the ring still has is reads that were asked for at the end.
    assert!(queues.spare.len() + hvt_guest::ring::line::READS_MOST >= buffers);
}

//! A random guest plays against the border: any call, any address, any structure, in any order, without a machine.
//!
//! What must hold: no panic; every answer is an outcome or a misuse; memory that the guest may not write stays as it was;
//! the disk changes only inside its bounds. `HVT_FUZZ_CALLS` sets how many calls are made (default 200,000).
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use hvt_abi::exchange::{Exchange, Frame, Offload};
use hvt_abi::extension::{
    BLOCK_COMMIT, BLOCK_FLUSH, BlockCommit, BlockWrite, EXCHANGE, FEATURE_BLOCK_COMMIT,
    FEATURE_BLOCK_FLUSH, FEATURE_EXCHANGE, FEATURE_MEMORY_RELEASE, FEATURE_SHUTDOWN, SLOT_WAIT,
};
use hvt_abi::hypercall::POLL;
use hvt_abi::manifest::NetProperties;
use hvt_tender::border::slot::CallSlot;
use hvt_tender::border::{Border, Misuse, Outcome};
use hvt_tender::device::block::BlockDevice;
use hvt_tender::device::console::Console;
use hvt_tender::device::net::{Framing, NetDevice};
use hvt_tender::device::{Device, Devices};
use hvt_tender::memory::{GuestSpace, Permission, Wire};
use hvt_tender::shutdown::Shutdown;
use vm_memory::{Bytes, MmapRegion};

const SIZE: u64 = 1 << 20;
const DISK: u64 = 64 * 1024;
/// Readable and writable in turns, with a hole between.
const READ_ONLY: std::ops::Range<u64> = 0x1_0000..0x2_0000;
const WRITABLE: std::ops::Range<u64> = 0x2_0000..0x8_0000;
const HOLE: std::ops::Range<u64> = 0x8_0000..0x8_1000;
const WRITABLE_TOO: std::ops::Range<u64> = 0x8_1000..SIZE;
/// The slot for block calls, which no call may name.
const SLOT: u64 = SIZE;

/// xorshift64*: the same guest for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Numbers that find mistakes: small, near borders of memory and disk, near the ends of the number range.
    fn number(&mut self) -> u64 {
        let edges = [
            0,
            READ_ONLY.start,
            WRITABLE.start,
            HOLE.start,
            HOLE.end,
            SIZE,
            DISK,
            1 << 32,
            1 << 63,
            u64::MAX,
        ];
        let edge = edges[self.below(edges.len() as u64) as usize];
        match self.below(6) {
            0 => self.below(8),
            1 => self.below(128) * 512,
            2 => self.below(SIZE),
            3 => self.next(),
            _ => edge.wrapping_add(self.below(65)).wrapping_sub(32),
        }
    }
}

/// An exchange that often gets far: arrays where the guest may write, few frames, most of them good.
fn put_exchange(space: &GuestSpace, random: &mut Random, address: u64) {
    let array = |random: &mut Random| match random.below(8) {
        0 => random.number(),
        _ => WRITABLE.start + random.below(0x1000) * 8,
    };
    let set = |random: &mut Random| match random.below(4) {
        0 => random.next(),
        _ => random.below(16),
    };
    let count = |random: &mut Random| match random.below(16) {
        0 => random.number() as u32,
        1 => random.below(257) as u32,
        _ => random.below(6) as u32,
    };
    let call = Exchange {
        send: array(random),
        receive: array(random),
        timeout_nsecs: random.below(1000),
        receive_set: set(random),
        writable_set: set(random),
        send_count: count(random),
        receive_count: count(random),
        ready_set: random.next(),
        ..Exchange::default()
    };
    for (start, count) in [(call.send, call.send_count), (call.receive, call.receive_count)] {
        for i in 0..u64::from(count).min(8) {
            let good = random.below(32) != 0;
            let offload = match random.below(32) {
                0 => Offload {
                    flags: random.below(4) as u8,
                    gso_type: random.next() as u8,
                    hdr_len: random.number() as u16,
                    gso_size: random.number() as u16,
                    csum_start: random.number() as u16,
                    csum_offset: random.number() as u16,
                },
                _ => Offload::default(),
            };
            let frame = Frame {
                data: if good {
                    WRITABLE_TOO.start + random.below(0x1_0000)
                } else {
                    random.number()
                },
                len: if good { random.below(2000) as u32 } else { random.number() as u32 },
                handle: if good { 2 + random.below(2) as u16 } else { random.below(5) as u16 },
                status: 0,
                offload,
                pad: [7; 6],
            };
            _ = space.write(start.wrapping_add(i * size_of::<Frame>() as u64), frame);
        }
    }
    _ = space.write(address, call);
}

/// Where segments of one stream lie, one every 2 KiB, and how many.
const SEGMENTS: u64 = WRITABLE_TOO.start + 0x2_0000;
const SEGMENT_COUNT: u64 = 16;

/// Writes the segments of a stream, most of which follow each other, and an exchange that sends them.
fn put_segments(space: &GuestSpace, random: &mut Random, address: u64) {
    let array = WRITABLE.start + random.below(0x1000) * 8;
    let v6 = random.below(2) == 0;
    let data = random.below(1400) as u16;
    let mut sequence = random.next() as u32;
    for i in 0..SEGMENT_COUNT {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if v6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((20 + data).to_be_bytes());
            bytes.extend([6, 64]);
            bytes.extend([0xfd; 32]);
        } else {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend((40 + data).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
        }
        bytes.extend([0x1f, 0x90, 0, 80]);
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        let headers = bytes.len();
        bytes.resize(headers + usize::from(data), i as u8);
        let mut len = bytes.len() as u32;
        if random.below(8) == 0 {
            let at = random.below(headers as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        if random.below(16) == 0 {
            len = random.number() as u32;
        }
        let at = SEGMENTS + i * 2048;
        space.writable(at, bytes.len() as u64).unwrap().copy_from(&bytes);
        let handle = if random.below(32) == 0 { random.below(5) as u16 } else { 4 };
        let frame = Frame { data: at, len, handle, ..Frame::default() };
        _ = space.write(array + i * size_of::<Frame>() as u64, frame);
        sequence = sequence.wrapping_add(u32::from(data));
    }
    let send_count = SEGMENT_COUNT as u32;
    _ = space.write(address, Exchange { send: array, send_count, ..Exchange::default() });
}

/// A commit that often gets far.
fn put_commit(space: &GuestSpace, random: &mut Random, address: u64) {
    let writes = WRITABLE.start + random.below(0x1000) * 8;
    let commit = BlockCommit {
        handle: 1 + random.below(8) / 7,
        writes: if random.below(8) == 0 { random.number() } else { writes },
        count: if random.below(8) == 0 { random.number() as u32 } else { random.below(6) as u32 },
        // Stable storage costs time, and there is nothing in it for the fuzzer.
        flush: u32::from(random.below(256) == 0),
        ret: 99,
        pad: 99,
    };
    for i in 0..6 {
        let good = random.below(16) != 0;
        let write = BlockWrite {
            offset: if good { random.below(DISK) } else { random.number() },
            data: if good { WRITABLE_TOO.start + random.below(0x1_0000) } else { random.number() },
            len: if good { random.below(4096) } else { random.number() },
        };
        _ = space.write(commit.writes.wrapping_add(i * size_of::<BlockWrite>() as u64), write);
    }
    _ = space.write(address, commit);
}

fn border_of(space: &Arc<GuestSpace>, disk: File, [wire, stream, tap]: [OwnedFd; 3]) -> Border {
    let block = BlockDevice::new("disk", disk, 512).unwrap();
    let net = |name, fd, framing| {
        let properties = NetProperties { mac: [2; 6], mtu: 1500 };
        Some(Device::Net(NetDevice::new(name, fd, properties, framing, None)))
    };
    let lan = net("lan", wire, Framing::Packets);
    let passt = net("passt", stream, Framing::Stream);
    let tap = net("tap", tap, Framing::Headers { offload: false });
    let devices = Devices::new(vec![None, Some(Device::Block(block)), lan, passt, tap]);
    let null = File::options().write(true).open("/dev/null").unwrap();
    let features = FEATURE_BLOCK_FLUSH
        | FEATURE_SHUTDOWN
        | FEATURE_EXCHANGE
        | FEATURE_MEMORY_RELEASE
        | FEATURE_BLOCK_COMMIT;
    let (devices, console) = (Arc::new(devices), Console::new(null.into()));
    space.loader_slice(SLOT, 4096).unwrap().write_slice(&[0; 4096], 0).unwrap();
    let (shared, look) = (Arc::clone(&devices), Duration::from_micros(200));
    let slot = CallSlot::new(Arc::clone(space), shared, features, SLOT, look).unwrap();
    let shutdown = Shutdown::never().unwrap();
    let mut border = Border::new(Arc::clone(space), devices, console, shutdown, features);
    border.share(Arc::new(slot));
    border
}

/// Puts a call into the slot, mostly one that can be served.
fn put_slot(space: &GuestSpace, random: &mut Random, call: u16, address: u64) {
    let words = match random.below(16) {
        0 => [random.next(), random.number()],
        _ => [random.below(1 << 32) | u64::from(call) << 32, address],
    };
    let slice = space.loader_slice(SLOT, 16).unwrap();
    for (at, word) in [0, 8].into_iter().zip(words) {
        slice.write_obj(word, at).unwrap();
    }
}

#[test]
fn no_guest_gets_the_better_of_the_border() {
    let calls: u64 = std::env::var("HVT_FUZZ_CALLS").ok().map_or(200_000, |n| n.parse().unwrap());
    let seed = std::env::var("HVT_FUZZ_SEED").ok().map_or(0x5eed, |n| n.parse().unwrap());
    println!("HVT_FUZZ_CALLS={calls} HVT_FUZZ_SEED={seed}");
    let mut random = Random(seed);
    let mut space = GuestSpace::new(MmapRegion::new(SIZE as usize + 4096).unwrap(), 0);
    space.permit(vec![
        Permission { addresses: READ_ONLY, write: false },
        Permission { addresses: WRITABLE, write: true },
        Permission { addresses: WRITABLE_TOO, write: true },
    ]);
    let space = Arc::new(space);
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(DISK).unwrap();
    let datagrams = || {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, theirs)
    };
    let (ours, theirs) = datagrams();
    let (kernel, tap) = datagrams();
    // Both ends stay here, so that the other end's misbehaviour does not end the device for good.
    let streams = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, theirs)
    };
    let (mut peer, passt) = streams();
    let disk_of = || disk.try_clone().unwrap();
    let border_with = |passt: UnixStream| {
        let wires =
            [theirs.try_clone().unwrap().into(), passt.into(), tap.try_clone().unwrap().into()];
        border_of(&space, disk_of(), wires)
    };
    let mut border = border_with(passt);
    let mut frame = [0; 2048];
    let mut packet = vec![0; 100_000];
    let mut merged = 0_u64;
    let (mut resumed, mut halted, mut misused) = (0_u64, 0_u64, 0_u64);
    let (mut sent, mut received) = (0_u64, 0_u64);
    let mut by_slot_served = 0_u64;

    for i in 0..calls {
        if i % 10_000 == 9_999 {
            // A stream whose peer sent what is no frame is gone for good; the next guest has a new one.
            let (ours, theirs) = streams();
            peer = ours;
            border = border_with(theirs);
        }
        let mut address = random.number();
        let mut structure = [0; 5].map(|_: u64| random.number());
        let call = match random.below(16) as u16 {
            call @ 0..13 => call,
            _ => EXCHANGE,
        };
        if call == POLL {
            structure[0] = random.below(1000);
        }
        if call == BLOCK_FLUSH && random.below(64) != 0 {
            continue;
        }
        structure[0] = if random.below(2) == 0 { random.below(4) } else { structure[0] };
        for (i, word) in structure.into_iter().enumerate() {
            // The guest's own writes: only where it may.
            _ = space.write(address.wrapping_add(i as u64 * 8), word);
        }
        if call == BLOCK_COMMIT {
            if random.below(8) != 0 {
                address = WRITABLE.start + random.below(0x1000) * 8;
            }
            put_commit(&space, &mut random, address);
        }
        let exchange = call == EXCHANGE;
        if exchange {
            if random.below(8) != 0 {
                address = WRITABLE.start + random.below(0x1000) * 8;
            }
            match random.below(4) {
                0 => {
                    address = WRITABLE.start + random.below(0x1000) * 8;
                    put_segments(&space, &mut random, address);
                }
                _ => put_exchange(&space, &mut random, address),
            }
        }
        // Any call by the slot, of which most end the service; then there is a new guest.
        let by_slot = random.below(8) == 0 && call != BLOCK_FLUSH;
        if by_slot {
            put_slot(&space, &mut random, call, address);
        }
        let made = if by_slot { SLOT_WAIT } else { call };
        let exchange = exchange && !by_slot;
        let outcome = border.call(made, address);
        if by_slot {
            by_slot_served += u64::from(outcome.is_ok());
        }
        if by_slot && outcome.is_err() {
            let (ours, theirs) = streams();
            peer = ours;
            border = border_with(theirs);
        }
        match outcome {
            Ok(Outcome::Resume) => {
                resumed += 1;
                if let Some(done) = exchange.then(|| space.read::<Exchange>(address).ok()).flatten()
                {
                    sent += u64::from(done.sent);
                    received += u64::from(done.received);
                }
            }
            Ok(Outcome::Halt { .. }) => halted += 1,
            Err(Misuse::Pointer { .. } | Misuse::UnknownCall(_)) => misused += 1,
            Err(other) => panic!("{other:?}"),
        }
        if random.below(8) == 0 {
            _ = ours.send(&frame[..random.below(2048) as usize]);
        }
        while ours.recv(&mut frame).is_ok() {}
        while let Ok(len) = kernel.recv(&mut packet) {
            assert!((24..=10 + 14 + 65_535 + 4).contains(&len), "{len}");
            let size = usize::from(u16::from_le_bytes([packet[4], packet[5]]));
            assert_eq!(size > 0, packet[1] != 0);
            merged += u64::from(size > 0);
            assert!(
                size == 0 || usize::from(packet[2]) + size < len - 10,
                "one segment is no merging"
            );
        }
        if random.below(8) == 0 {
            // The host's kernel would not; the cutting must bear it anyway.
            let len = 10 + random.below(3000) as usize;
            packet[..len].iter_mut().for_each(|byte| *byte = random.next() as u8);
            packet[1] = random.below(6) as u8;
            packet[22..25].copy_from_slice(&[8, 0, 0x45]);
            packet[26..28].copy_from_slice(&((len as u16).wrapping_sub(24)).to_be_bytes());
            (packet[30], packet[31], packet[33]) = (0, 0, 6);
            _ = kernel.send(&packet[..len]);
        }
        let len = random.below(100) as usize;
        match random.below(16) {
            0 => {
                _ = peer.write(&(len.max(14) as u32).to_be_bytes());
                _ = peer.write(&frame[..len]);
            }
            1 => _ = peer.write(&frame[..len]),
            _ => {}
        }
        while peer.read(&mut frame).is_ok_and(|n| n > 0) {}
    }

    println!("{resumed} calls served, {misused} refused; {sent} frames sent, {received} received");
    println!("{by_slot_served} calls by the slot");
    assert!(by_slot_served > 0);
    assert!(sent > 0 && received > 0 && merged > 0);
    assert!(resumed > 0 && halted > 0 && misused > 0, "{resumed} {halted} {misused}");
    assert_eq!(disk.metadata().unwrap().len(), DISK);
    for range in [0..READ_ONLY.start, READ_ONLY, HOLE] {
        let len = range.end - range.start;
        let mut bytes = vec![1; len as usize];
        space.loader_slice(range.start, len).unwrap().read_slice(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|b| *b == 0), "{range:x?} was written");
    }
}

/// The fuzzer writes through the same check as the tender; this makes sure that the words are what it thinks.
#[test]
fn words_are_written_where_the_guest_may() {
    fn wire<T: Wire>() {}
    wire::<u64>();
    let mut space = GuestSpace::new(MmapRegion::new(SIZE as usize).unwrap(), 0);
    space.permit(vec![Permission { addresses: WRITABLE, write: true }]);
    space.write(WRITABLE.start, 7_u64).unwrap();
    assert_eq!(space.read::<u64>(WRITABLE.start), Ok(7));
    assert!(space.write(READ_ONLY.start, 7_u64).is_err());
}

//! Solo5's shared ring: a guest of instructions that uses it in a machine, and a random guest against the queue alone.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::mem::offset_of;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use hvt_abi::boot::FEATURE_RING_IO;
use hvt_abi::extension::FEATURE_EXCHANGE;
use hvt_abi::hypercall::{RESULT_AGAIN, RESULT_OK};
use hvt_abi::manifest::NetProperties;
use hvt_abi::ring::{Commit, ENTRIES, Entry, NET_READ, NET_WRITE, Ring};
use hvt_tender::border::{Misuse, RingMisuse};
use hvt_tender::device::net::{Framing, NetDevice};
use hvt_tender::device::ring::RingQueue;
use hvt_tender::device::{Device, Devices};
use hvt_tender::memory::{GuestSpace, Permission};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

const SIZE: u64 = 1 << 20;

struct Play {
    memory: Arc<MmapRegion>,
    queue: RingQueue,
    wire: UnixDatagram,
    tail: u32,
}

impl Play {
    fn new() -> Self {
        let mut space = GuestSpace::new(MmapRegion::new(SIZE as usize).unwrap(), 0);
        space.permit(vec![
            Permission { addresses: 0x1000..0x2000, write: false },
            Permission { addresses: 0x2000..SIZE, write: true },
        ]);
        let (wire, theirs) = UnixDatagram::pair().unwrap();
        wire.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let properties = NetProperties { mac: [2; 6], mtu: 1500 };
        let net = NetDevice::new("lan", theirs.into(), properties, Framing::Packets, None);
        let devices = Devices::new(vec![None, Some(Device::Net(net))]);
        let memory = Arc::new(MmapRegion::new(2 << 20).unwrap());
        let queue = RingQueue::new(Arc::clone(&memory), Arc::new(space), Arc::new(devices));
        Self { memory, queue, wire, tail: 0 }
    }

    fn get(&self, offset: usize) -> u32 {
        self.memory.as_volatile_slice().read_obj(offset).unwrap()
    }

    fn set(&self, offset: usize, value: u32) {
        self.memory.as_volatile_slice().write_obj(value, offset).unwrap();
    }

    fn submit(&mut self, operation: u32, handle: u32, data: u64, len: u32, id: u32) {
        let slot = self.tail as usize % ENTRIES as usize;
        let at = offset_of!(Ring, entries) + slot * size_of::<Entry>();
        for (i, word) in
            [operation, handle, data as u32, (data >> 32) as u32, len, id].iter().enumerate()
        {
            self.set(at + 4 * i, *word);
        }
        self.tail = self.tail.wrapping_add(1);
        self.set(offset_of!(Ring, ent_tail), self.tail);
    }

    fn commit(&self, index: u32) -> (u32, i32, u32) {
        let at = offset_of!(Ring, commits) + (index % ENTRIES) as usize * size_of::<Commit>();
        (self.get(at), self.get(at + 4).cast_signed(), self.get(at + 8))
    }
}

#[test]
fn frames_go_out_in_order_and_come_in_as_answers() {
    let mut play = Play::new();
    let mut buffer = [0; 2048];
    // Far more than the ring has slots: indices go round.
    for round in 0..3000_u32 {
        play.submit(NET_WRITE, 1, 0x3000, 60, round);
        play.submit(77, 99, u64::MAX, u32::MAX, 0);
        assert_eq!(play.queue.serve(), Ok(true));
        assert_eq!(play.wire.recv(&mut buffer).unwrap(), 60);
        if round % 2 == 0 {
            play.wire.send(&buffer[..100]).unwrap();
        }
        play.submit(NET_READ, 1, 0x4000, 1514, round);
        assert_eq!(play.queue.serve(), Ok(true));
        assert_eq!(play.get(offset_of!(Ring, ent_head)), play.tail);
        assert_eq!(play.get(offset_of!(Ring, com_tail)), round + 1);
        let expected =
            if round % 2 == 0 { (round, RESULT_OK, 100) } else { (round, RESULT_AGAIN, 0) };
        assert_eq!(play.commit(round), expected);
        play.set(offset_of!(Ring, com_head), round + 1);
    }
    assert_eq!(play.queue.serve(), Ok(false));
    assert!(play.queue.before_sleep());
    assert_eq!(play.get(offset_of!(Ring, needs_kick)), 1);
    play.submit(NET_WRITE, 1, 0x3000, 60, 0);
    assert!(!play.queue.before_sleep(), "an entry that came meanwhile is seen");
    play.queue.after_sleep();
    assert_eq!(play.get(offset_of!(Ring, needs_kick)), 0);
}

#[test]
fn indices_and_entries_that_make_no_sense_are_misuse() {
    let misuse = |submit: &dyn Fn(&mut Play)| {
        let mut play = Play::new();
        submit(&mut play);
        play.queue.serve().unwrap_err()
    };
    let too_many = misuse(&|p| p.set(offset_of!(Ring, ent_tail), 1025));
    assert_eq!(too_many, Misuse::Ring(RingMisuse::TooManyEntries(1025)));
    let back = misuse(&|p| p.set(offset_of!(Ring, ent_tail), u32::MAX));
    assert!(matches!(back, Misuse::Ring(RingMisuse::TooManyEntries(_))));
    let reserved = misuse(&|p| p.submit(NET_WRITE, 0, 0x3000, 60, 0));
    assert_eq!(reserved, Misuse::Ring(RingMisuse::NoDevice(0)));
    assert!(matches!(misuse(&|p| p.submit(NET_WRITE, 1, 0, 60, 0)), Misuse::Pointer { .. }));
    assert!(matches!(misuse(&|p| p.submit(NET_READ, 1, 0x1000, 60, 0)), Misuse::Pointer { .. }));
    assert!(matches!(misuse(&|p| p.submit(NET_READ, 1, SIZE - 10, 60, 0)), Misuse::Pointer { .. }));
    let unread = misuse(&|p| {
        for i in 0..ENTRIES {
            p.submit(NET_READ, 1, 0x3000, 60, i);
        }
        p.queue.serve().unwrap();
        p.submit(NET_READ, 1, 0x3000, 60, 0);
    });
    assert_eq!(unread, Misuse::Ring(RingMisuse::TooManyAnswers));
}

#[test]
fn a_random_guest_never_gets_out_of_the_ring() {
    let rounds: u64 =
        std::env::var("HVT_FUZZ_CALLS").ok().map_or(200_000, |n| n.parse().unwrap()) / 100;
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let ring = size_of::<Ring>() as u64;
    for _ in 0..rounds {
        let mut play = Play::new();
        for _ in 0..next() % 20 {
            for _ in 0..next() % 200 {
                let at = match next() % 3 {
                    0 => next() % 76 / 4 * 4,
                    _ => next() % (ring / 4) * 4,
                };
                let value = match next() % 4 {
                    0 => next() as u32,
                    1 => (next() % 3) as u32,
                    2 => (next() % 2048) as u32,
                    _ => (next() % SIZE) as u32,
                };
                play.set(at as usize, value);
            }
            _ = play.wire.send(&[7; 64]);
            _ = play.queue.serve();
            let mut frame = [0; 2048];
            while play.wire.recv(&mut frame).is_ok() {}
        }
    }
}

/// In a machine: submits a frame, kicks, waits until it is consumed, and halts.
#[test]
fn a_guest_sends_by_the_ring_with_and_without_the_note() {
    use hvt_abi::manifest::NET_BASIC;
    use support::*;
    if !kvm() {
        return;
    }
    let ring = STACK_END as u32;
    let bytes = |n: u32| n.to_le_bytes();
    let store = |guest: Guest, at: usize, value: u32| {
        // mov dword [address], value
        guest.raw(&[0xc7, 0x04, 0x25]).raw(&bytes(ring + at as u32)).raw(&bytes(value))
    };
    let with_note = ALL & !FEATURE_EXCHANGE | FEATURE_RING_IO;
    for features in [None, Some(with_note)] {
        let guest = Guest { features, ..Guest::new() }.device("lan", NET_BASIC);
        let mut guest = guest
            .put(DATA + 0x1000, b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x88\xb5by the ring");
        let entries = offset_of!(Ring, entries);
        for (at, value) in [
            (entries, NET_WRITE),
            (entries + 4, 1),
            (entries + 8, DATA as u32 + 0x1000),
            (entries + 12, 0),
            (entries + 16, 25),
            (offset_of!(Ring, ent_tail), 1),
        ] {
            guest = store(guest, at, value);
        }
        // out 0x600; then: cmp dword [ent_head], 1; jne back
        let guest = guest
            .out(0x600, 0)
            .raw(&[0x83, 0x3c, 0x25])
            .raw(&bytes(ring + offset_of!(Ring, ent_head) as u32))
            .raw(&[1, 0x75, 0xf6])
            .halt(9);
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let file = guest.file();
        let ended = run_with_descriptor(&guest, &file, &theirs.into());
        ended.is(9);
        ours.set_nonblocking(true).unwrap();
        let mut frame = [0; 64];
        assert_eq!(ours.recv(&mut frame).unwrap(), 25);
        assert!(frame[14..].starts_with(b"by the ring"));
    }
    // A wild index ends it from the ring's thread.
    let guest = Guest { features: Some(with_note), ..Guest::new() }.device("lan", NET_BASIC);
    let guest = store(guest, offset_of!(Ring, ent_tail), 5000).out(0x600, 0).raw(&[0xeb, 0xfe]);
    let (_ours, theirs) = UnixDatagram::pair().unwrap();
    let file = guest.file();
    run_with_descriptor(&guest, &file, &theirs.into()).is(81).says("ring: 5000 entries");
}

/// Who can exchange frames has no ring, unless exchanging is withheld. A guest tells by its features and the address.
#[test]
fn the_ring_is_for_guests_that_do_not_exchange() {
    use hvt_abi::boot::{BOOT_INFO_ADDRESS, BootInfo};
    use hvt_abi::manifest::NET_BASIC;
    use support::*;
    if !kvm() {
        return;
    }
    // The address in units of 16 MiB, and the lowest features.
    let address = BOOT_INFO_ADDRESS + offset_of!(BootInfo, net_ring) as u64 + 3;
    let features = BOOT_INFO_ADDRESS + offset_of!(BootInfo, host_features) as u64;
    let ring = (STACK_END >> 24) as i32;
    let all = Some(ALL | FEATURE_RING_IO);
    for (note, options, expected) in [
        (all, &[][..], (0, 0)),
        (all, &["--without=exchange"], (ring, 1)),
        (all, &["--without=exchange,ring"], (0, 0)),
        (all, &["--without=extensions"], (ring, 1)),
        (Some(ALL & !FEATURE_EXCHANGE), &[], (0, 0)),
        (None, &[], (ring, 1)),
        (None, &["--without=ring"], (0, 0)),
    ] {
        let (_ours, theirs) = UnixDatagram::pair().unwrap();
        let theirs = theirs.into();
        for (place, expected) in [(address, expected.0), (features, expected.1)] {
            let guest = Guest { features: note, ..Guest::new() }.device("lan", NET_BASIC);
            let guest = guest.copy32(place, DATA).halt_with(DATA);
            run_with_descriptor_and(&guest, &guest.file(), &theirs, options).is(expected);
        }
    }
}

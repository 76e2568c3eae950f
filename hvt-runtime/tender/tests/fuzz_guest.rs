//! A random guest plays against the border: any call, any address, any structure, in any order, without a machine.
//!
//! What must hold: no panic; every answer is an outcome or a misuse; memory that the guest may not write stays as it was;
//! the disk changes only inside its bounds. `HVT_FUZZ_CALLS` sets how many calls are made (default 200,000).
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use hvt_abi::extension::{
    BLOCK_FLUSH, FEATURE_BLOCK_FLUSH, FEATURE_MEMORY_RELEASE, FEATURE_SHUTDOWN,
};
use hvt_abi::hypercall::POLL;
use hvt_abi::manifest::NetProperties;
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

fn border(space: &Arc<GuestSpace>, disk: File, wire: OwnedFd) -> Border {
    let block = BlockDevice::new("disk", disk, 512).unwrap();
    let net = NetDevice::new(
        "lan",
        wire,
        NetProperties { mac: [2; 6], mtu: 1500 },
        Framing::Packets,
        None,
    );
    let devices = Devices::new(vec![None, Some(Device::Block(block)), Some(Device::Net(net))]);
    let null = File::options().write(true).open("/dev/null").unwrap();
    Border::new(
        Arc::clone(space),
        Arc::new(devices),
        Console::new(null.into()),
        Shutdown::never().unwrap(),
        FEATURE_BLOCK_FLUSH | FEATURE_SHUTDOWN | FEATURE_MEMORY_RELEASE,
    )
}

#[test]
fn no_guest_gets_the_better_of_the_border() {
    let calls: u64 = std::env::var("HVT_FUZZ_CALLS").ok().map_or(200_000, |n| n.parse().unwrap());
    let seed = std::env::var("HVT_FUZZ_SEED").ok().map_or(0x5eed, |n| n.parse().unwrap());
    println!("HVT_FUZZ_CALLS={calls} HVT_FUZZ_SEED={seed}");
    let mut random = Random(seed);
    let mut space = GuestSpace::new(MmapRegion::new(SIZE as usize).unwrap(), 0);
    space.permit(vec![
        Permission { addresses: READ_ONLY, write: false },
        Permission { addresses: WRITABLE, write: true },
        Permission { addresses: WRITABLE_TOO, write: true },
    ]);
    let space = Arc::new(space);
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(DISK).unwrap();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut border = border(&space, disk.try_clone().unwrap(), theirs.into());
    let mut frame = [0; 2048];
    let (mut resumed, mut halted, mut misused) = (0_u64, 0_u64, 0_u64);

    for _ in 0..calls {
        let address = random.number();
        let mut structure = [0; 5].map(|_: u64| random.number());
        let call = random.below(13) as u16;
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
        match border.call(call, address) {
            Ok(Outcome::Resume) => resumed += 1,
            Ok(Outcome::Halt { .. }) => halted += 1,
            Err(Misuse::Pointer { .. } | Misuse::UnknownCall(_)) => misused += 1,
            Err(other) => panic!("{other:?}"),
        }
        if random.below(8) == 0 {
            _ = ours.send(&frame[..random.below(2048) as usize]);
        }
        _ = ours.recv(&mut frame);
    }

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

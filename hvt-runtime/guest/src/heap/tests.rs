#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

const MIB: usize = 1 << 20;

/// A region of host memory, zeroed and provided as it is touched, with a heap over it.
struct Region {
    start: *mut u8,
    len: usize,
    heap: Heap,
}

impl Region {
    fn new(len: usize) -> Self {
        let (rights, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), len, rights, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // Pages are counted one by one.
        // SAFETY: the mapping is this value's, and the advice changes no content.
        unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        let start = start.cast();
        // SAFETY: fresh, zeroed, and owned by this value until it is dropped.
        let heap = unsafe { Heap::new(start, len) };
        Self { start, len, heap }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with the same length.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// A block that knows what it was filled with.
struct Block {
    at: NonNull<u8>,
    len: usize,
    mark: u8,
}

impl Block {
    fn fill(at: NonNull<u8>, len: usize, mark: u8) -> Self {
        // SAFETY: the heap gave `len` bytes.
        unsafe { at.as_ptr().write_bytes(mark, len) };
        Self { at, len, mark }
    }

    fn check(&self, len: usize) {
        // SAFETY: the block is live and has `len` initialised bytes.
        let bytes = unsafe { core::slice::from_raw_parts(self.at.as_ptr(), len) };
        assert!(bytes.iter().all(|&byte| byte == self.mark), "a neighbour wrote into a block");
    }
}

/// A small reproducible source of numbers (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    /// Mostly small, sometimes large: the mix of a server with connection buffers.
    fn size(&mut self) -> usize {
        match self.next() % 100 {
            0..70 => self.next() % 512,
            70..92 => self.next() % 8192,
            92..99 => self.next() % 70_000,
            _ => self.next() % 600_000,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    Aligned(usize, u32),
    Zeroed(usize),
    Resize(usize, usize),
    Free(usize),
    Return,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0_usize..600, 0_usize..40_000, 0_usize..300_000];
    prop_oneof![
        4 => size.clone().prop_map(Step::Allocate),
        1 => (size.clone(), 0_u32..17).prop_map(|(size, shift)| Step::Aligned(size, shift)),
        1 => size.clone().prop_map(Step::Zeroed),
        2 => (any::<usize>(), size).prop_map(|(which, size)| Step::Resize(which, size)),
        4 => any::<usize>().prop_map(Step::Free),
        1 => Just(Step::Return),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn blocks_never_overlap_and_keep_their_content(steps in proptest::collection::vec(step(), 1..400)) {
        let mut region = Region::new(4 * MIB);
        let heap = &mut region.heap;
        let mut live: Vec<Block> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let mark = (number % 251 + 1) as u8;
            match step {
                Step::Allocate(len) => {
                    live.extend(heap.allocate(len).map(|at| Block::fill(at, len, mark)));
                }
                Step::Aligned(len, shift) => {
                    if let Some(at) = heap.allocate_aligned(len, 1 << shift) {
                        prop_assert!((at.as_ptr() as usize).is_multiple_of(1 << shift));
                        live.push(Block::fill(at, len, mark));
                    }
                }
                Step::Zeroed(len) => {
                    if let Some(at) = heap.allocate_zeroed(len) {
                        Block { at, len, mark: 0 }.check(len);
                        live.push(Block::fill(at, len, mark));
                    }
                }
                Step::Resize(which, len) if !live.is_empty() => {
                    let index = which % live.len();
                    let block = &mut live[index];
                    // SAFETY: the block is live, and replaced when it moved.
                    if let Some(at) = unsafe { heap.resize(block.at, len) }.unwrap() {
                        block.at = at;
                        block.check(block.len.min(len));
                        *block = Block::fill(at, len, mark);
                    }
                }
                Step::Free(which) if !live.is_empty() => {
                    let block = live.swap_remove(which % live.len());
                    block.check(block.len);
                    // SAFETY: the block is live and forgotten here.
                    unsafe { heap.free(block.at) }.unwrap();
                }
                Step::Return => {
                    heap.return_idle(|at, len| {
                        // What the host has is zero when it comes back, and was nobody's.
                        // SAFETY: the heap gives pages of its region that are in no block.
                        unsafe { at.write_bytes(0, len) };
                        len % 3 != 0
                    });
                }
                _ => {}
            }
            for block in &live {
                prop_assert!(heap.usable(block.at).unwrap() >= block.len);
                prop_assert!((block.at.as_ptr() as usize).is_multiple_of(MIN_ALIGN));
            }
        }
        for block in live {
            block.check(block.len);
            // SAFETY: the block is live and forgotten here.
            unsafe { heap.free(block.at) }.unwrap();
        }
        let usage = heap.usage();
        prop_assert!(usage.held <= usage.touched && usage.touched <= usage.capacity);
        // What is left is at most one empty slab per class, and one large block fits again.
        prop_assert!(heap.usage().held <= size_class::COUNT * 16 * 4096);
    }
}

/// A long random life at a constant load: what the heap holds must stay near to what is in use, and a large block must
/// still find room. `HVT_CHURN` multiplies the length.
#[test]
fn churn_does_not_fragment() {
    let rounds: usize = std::env::var("HVT_CHURN").map_or(1, |text| text.parse().unwrap());
    let mut region = Region::new(96 * MIB);
    let heap = &mut region.heap;
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut live: Vec<(NonNull<u8>, usize)> = Vec::new();
    let mut in_use = 0;
    // By phase: at the high load, at the low load after it.
    let mut worst = [0.0_f64; 2];
    for step in 0..1_000_000 * rounds {
        // The load swings between 16 and 40 MiB, so that slabs of all classes fill and empty.
        let phase = (step / 100_000) % 2;
        let target = [40 * MIB, 16 * MIB][phase];
        if in_use < target && !numbers.next().is_multiple_of(8) {
            let len = numbers.size();
            live.push((heap.allocate(len).expect("40 of 96 MiB are in use"), len));
            in_use += len;
        } else if !live.is_empty() {
            let (at, len) = live.swap_remove(numbers.next() % live.len());
            // SAFETY: the block is live and forgotten here.
            unsafe { heap.free(at) }.unwrap();
            in_use -= len;
        }
        if step % 1000 == 999 && in_use > 14 * MIB {
            worst[phase] = worst[phase].max(heap.usage().held as f64 / in_use as f64);
        }
    }
    let usage = heap.usage();
    println!(
        "held at worst {worst:.3?} times what was in use; touched {} MiB, peak {} MiB, largest free {} MiB",
        usage.touched / MIB,
        usage.held_peak / MIB,
        usage.largest_free / MIB
    );
    assert!(worst[0] < 1.25 && worst[1] < 1.5, "held {worst:.3?} times what was in use");
    assert!(usage.touched < usage.held_peak * 4 / 3);
    for (at, _) in live {
        // SAFETY: the block is live and forgotten here.
        unsafe { heap.free(at) }.unwrap();
    }
    let usage = heap.usage();
    assert!(usage.held <= size_class::COUNT * 16 * 4096, "{usage:?}");
    // The slabs that are kept lie scattered, but they go when the room is needed.
    assert!(heap.allocate(95 * MIB).is_some(), "{usage:?}");
}

/// How many pages of a region the host provides.
fn resident(region: &Region) -> usize {
    let mut pages = vec![0_u8; region.len / 4096];
    // SAFETY: the region is mapped whole, and the vector has a byte for each of its pages.
    let result = unsafe { libc::mincore(region.start.cast(), region.len, pages.as_mut_ptr()) };
    assert_eq!(result, 0);
    pages.iter().filter(|&&page| page & 1 == 1).count()
}

/// After a high load the host gets its memory back, and a steady load keeps what it uses.
#[test]
fn memory_that_nobody_wants_goes_back_to_the_host() {
    let mut region = Region::new(96 * MIB);
    let give = |at: *mut u8, len: usize| {
        // SAFETY: whole pages of the region, which is plain private memory, in no block.
        unsafe { libc::madvise(at.cast(), len, libc::MADV_DONTNEED) == 0 }
    };
    let mut numbers = Numbers(7);
    let mut live: Vec<Block> = Vec::new();
    let mut high_load = |heap: &mut Heap, live: &mut Vec<Block>| {
        let mut in_use = 0;
        while in_use < 64 * MIB {
            let len = numbers.size();
            live.push(Block::fill(heap.allocate(len).unwrap(), len, 7));
            in_use += len;
        }
    };
    high_load(&mut region.heap, &mut live);
    assert!(resident(&region) > 64 * MIB / 4096);
    assert_eq!(region.heap.return_idle(give), 0, "nothing was idle");
    // Nine of ten go; what stays lies everywhere between them.
    for (number, block) in std::mem::take(&mut live).into_iter().enumerate() {
        if number % 10 == 0 {
            live.push(block);
        } else {
            // SAFETY: live, and forgotten here.
            unsafe { region.heap.free(block.at) }.unwrap();
        }
    }
    assert_eq!(region.heap.return_idle(give), 0, "free for too short a time");
    let held = region.heap.usage().held;
    while region.heap.has_idle() {
        region.heap.return_idle(give);
    }
    let usage = region.heap.usage();
    let table = region.len - usage.capacity;
    let kept = resident(&region) * 4096;
    println!("held {} KiB, kept {} KiB", held / 1024, kept / 1024);
    assert!(kept <= usage.touched + table && usage.touched < held * 2, "{kept} {usage:?}");
    for block in &live {
        block.check(block.len);
    }
    // It comes back as needed, zeroed where that is asked for.
    high_load(&mut region.heap, &mut live);
    for block in std::mem::take(&mut live) {
        block.check(block.len);
        // SAFETY: live, and forgotten here.
        unsafe { region.heap.free(block.at) }.unwrap();
    }
    let zeroed = region.heap.allocate_zeroed(10 * MIB).unwrap();
    Block { at: zeroed, len: 10 * MIB, mark: 0 }.check(10 * MIB);
    // SAFETY: live, and not used afterwards.
    unsafe { region.heap.free(zeroed) }.unwrap();
    while region.heap.has_idle() {
        region.heap.return_idle(give);
    }
    // What is left: the table, and the slabs that are kept.
    let kept = resident(&region) * 4096;
    assert!(kept < 2 * MIB + table, "{kept} {:?}", region.heap.usage());
}

#[test]
fn foreign_and_doubly_freed_runs_are_refused() {
    let mut region = Region::new(MIB);
    let heap = &mut region.heap;
    let mut local = 0_u64;
    // SAFETY: the heap recognises what is not its own and touches nothing.
    assert_eq!(unsafe { heap.free(NonNull::from(&mut local).cast()) }, Err(NotAllocated));
    let run = heap.allocate(100_000).unwrap();
    // SAFETY: inside of a run: recognised, nothing is touched.
    assert_eq!(unsafe { heap.free(run.add(4096)) }, Err(NotAllocated));
    // SAFETY: live, and not used afterwards.
    assert_eq!(unsafe { heap.free(run) }, Ok(()));
    // SAFETY: recognised as free, nothing is touched.
    assert_eq!(unsafe { heap.free(run) }, Err(NotAllocated));
}

#[test]
fn a_full_heap_says_so_and_recovers() {
    let mut region = Region::new(MIB);
    let heap = &mut region.heap;
    assert_eq!(heap.allocate(2 * MIB), None);
    assert_eq!(heap.allocate(usize::MAX), None);
    let mut live = Vec::new();
    while let Some(at) = heap.allocate(1000) {
        live.push(at);
    }
    assert!(live.len() > 900, "{}", live.len());
    for at in live {
        // SAFETY: live, and not used afterwards.
        unsafe { heap.free(at) }.unwrap();
    }
    assert!(heap.allocate(900_000).is_some());
}

#[test]
fn a_growing_block_at_the_end_stays_where_it_is() {
    let mut region = Region::new(4 * MIB);
    let heap = &mut region.heap;
    let block = heap.allocate(20_000).unwrap();
    // SAFETY: the block is live and replaced by the answer.
    let grown = unsafe { heap.resize(block, 2 * MIB) }.unwrap();
    assert_eq!(grown, Some(block));
    // SAFETY: as above.
    assert_eq!(unsafe { heap.resize(block, 30_000) }.unwrap(), Some(block));
    assert_eq!(heap.usage().held, 32_768);
}

/// A vector that grows is copied while it is small, and once into pages of its own; then it stays where it is, also when
/// there are free runs that it would fit into for a moment.
#[test]
fn a_growing_block_is_not_copied_again_and_again() {
    let mut region = Region::new(16 * MIB);
    let heap = &mut region.heap;
    let blocks: Vec<_> = (0..64).map(|_| heap.allocate(40_000).unwrap()).collect();
    for block in blocks.iter().step_by(2) {
        // SAFETY: live, and not used afterwards.
        unsafe { heap.free(*block) }.unwrap();
    }
    for _ in 0..10 {
        let mut block = heap.allocate(16).unwrap();
        let mut moves = 0;
        for size in (5..=19).map(|shift| 1_usize << shift) {
            // SAFETY: the block is live and replaced by the answer.
            let grown = unsafe { heap.resize(block, size) }.unwrap().unwrap();
            moves += usize::from(size > size_class::LARGEST && grown != block);
            block = grown;
        }
        assert_eq!(moves, 1);
        // SAFETY: live, and not used afterwards.
        unsafe { heap.free(block) }.unwrap();
    }
    assert!(heap.usage().touched < 4 * MIB, "the place is used again");
}

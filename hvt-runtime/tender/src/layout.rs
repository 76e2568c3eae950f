//! Where everything lies in a guest's memory, and what the guest may do there.
//!
//! One list of areas is the source for the page tables, for the checks of pointers and for the words of a crash report,
//! so that they can't disagree. What is in no area is not mapped (ring 3) and may not be named in a call.

use std::fmt;
use std::ops::Range;

use hvt_abi::boot::{BOOT_INFO_ADDRESS, GUEST_MIN_BASE};
use hvt_abi::extension::DEFAULT_STACK_SIZE;
use hvt_abi::note::GuestNote;
use hvt_abi::{PAGE_SIZE, ring};

use crate::image::{Image, Rights};
use crate::memory::Permission;

/// The most thread stacks that an image may ask for.
pub const MAX_THREAD_STACKS: u32 = 4096;
/// The least heap that a guest with a layout of ours gets: less is more likely a mistake than a wish.
pub const MIN_HEAP: u64 = 64 * 1024;
/// What is set aside above the guest's memory for the ring: whole pages of 2 MiB, as Solo5 does it.
pub const RING_RESERVE: u64 = (size_of::<ring::Ring>() as u64).next_multiple_of(2 << 20);

/// What an area is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Boot information, manifest, arguments.
    BootInfo,
    /// A segment of the image.
    Segment,
    /// Free for the guest's allocator.
    Heap,
    /// The stack of a thread, counted from zero.
    ThreadStack(u64),
    /// The stack that the guest starts on.
    Stack,
    /// The ring that is shared with the I/O thread.
    Ring,
    /// The slot for block calls, shared with the thread that serves it.
    Slot,
}

/// Pages of one use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Addresses, whole pages.
    pub pages: Range<u64>,
    /// What the guest may do there.
    pub rights: Rights,
    /// What it is for.
    pub what: What,
}

/// The guarded stacks that a guest asked for; see [`hvt_abi::boot::BootExtension::thread_stacks`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadStacks {
    /// Address of the first guard page.
    pub base: u64,
    /// Bytes from one to the next.
    pub stride: u64,
    /// How many.
    pub count: u64,
}

/// The layout of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// All areas, ascending, without overlap.
    pub areas: Vec<Area>,
    /// The end of the guest's own memory.
    pub memory: u64,
    /// The end of the heap.
    pub heap_end: u64,
    /// The stack that the guest starts on.
    pub stack: Range<u64>,
    /// Stacks for threads.
    pub thread_stacks: ThreadStacks,
    /// Address of the ring, when there is one.
    pub ring: Option<u64>,
    /// Address of the slot for block calls, when there is one.
    pub slot: Option<u64>,
}

/// The guest does not fit into its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Image, stacks and the least heap are more than there is.
    #[error("the image with its stacks needs {need_mib} MiB of memory, --mem gives {have_mib}")]
    TooSmall {
        /// What it needs.
        need_mib: u64,
        /// What it has.
        have_mib: u64,
    },
    /// More stacks than [`MAX_THREAD_STACKS`].
    #[error("the image asks for {0} thread stacks; at most 4096 are possible")]
    TooManyStacks(u32),
}

impl Layout {
    /// The layout of a stock guest: everything from 1 MiB up may be written, except segments that say otherwise, and the
    /// stack starts at the top with nothing below it but the heap.
    ///
    /// # Errors
    /// When the image does not fit.
    pub fn stock(image: &Image, memory: u64, ring: bool) -> Result<Self, LayoutError> {
        if image.end > memory {
            let (need_mib, have_mib) = (image.end.div_ceil(1 << 20), memory >> 20);
            return Err(LayoutError::TooSmall { need_mib, have_mib });
        }
        let mut areas = vec![Area {
            pages: BOOT_INFO_ADDRESS..GUEST_MIN_BASE,
            rights: Rights::Read,
            what: What::BootInfo,
        }];
        let mut at = GUEST_MIN_BASE;
        for segment in image.segments.iter().filter(|s| s.file_len > 0) {
            push_heap(&mut areas, at..segment.pages.start);
            at = segment.pages.end;
            let (pages, rights) = (segment.pages.clone(), segment.rights);
            areas.push(Area { pages, rights, what: What::Segment });
        }
        push_heap(&mut areas, at..memory);
        let stack = image.end..memory;
        let thread_stacks = ThreadStacks::default();
        let (ring_at, slot) = (None, None);
        let layout =
            Self { areas, memory, heap_end: memory, stack, thread_stacks, ring: ring_at, slot };
        Ok(layout.with_ring(ring))
    }

    /// The layout of a guest of ours: from the bottom the image, the heap, thread stacks, the first stack, each stack
    /// above a guard page. `info_end` is the end of what [`crate::boot`] writes; the slot's page, if there is to be one,
    /// follows it.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn guarded(
        image: &Image,
        note: &GuestNote,
        info_end: u64,
        memory: u64,
        ring: bool,
        slot: bool,
    ) -> Result<Self, LayoutError> {
        let pages = |bytes: u32| u64::from(bytes).next_multiple_of(PAGE_SIZE);
        if note.thread_stack_count > MAX_THREAD_STACKS {
            return Err(LayoutError::TooManyStacks(note.thread_stack_count));
        }
        let stack_len =
            if note.stack_size == 0 { DEFAULT_STACK_SIZE } else { pages(note.stack_size) };
        let count = if note.thread_stack_size == 0 { 0 } else { note.thread_stack_count.into() };
        let stride = PAGE_SIZE + pages(note.thread_stack_size);
        let heap_start = image.end;
        let need = heap_start + MIN_HEAP + count * stride + PAGE_SIZE + stack_len;
        if need > memory {
            let have_mib = memory >> 20;
            return Err(LayoutError::TooSmall { need_mib: need.div_ceil(1 << 20), have_mib });
        }
        let stack = memory - stack_len..memory;
        let base = stack.start - PAGE_SIZE - count * stride;
        // Without thread stacks this is the first stack's guard page, otherwise the guard page of thread stack 0.
        let heap_end = base;
        let thread_stacks = match count {
            0 => ThreadStacks::default(),
            _ => ThreadStacks { base, stride, count },
        };

        let info = BOOT_INFO_ADDRESS..info_end.next_multiple_of(PAGE_SIZE);
        let slot = slot.then_some(info.end);
        let mut areas = vec![Area { pages: info, rights: Rights::Read, what: What::BootInfo }];
        if let Some(at) = slot {
            let pages = at..at + PAGE_SIZE;
            areas.push(Area { pages, rights: Rights::Write, what: What::Slot });
        }
        for segment in &image.segments {
            let (pages, rights) = (segment.pages.clone(), segment.rights);
            areas.push(Area { pages, rights, what: What::Segment });
        }
        push_heap(&mut areas, heap_start..heap_end);
        for i in 0..count {
            let start = base + i * stride + PAGE_SIZE;
            let pages = start..start + stride - PAGE_SIZE;
            areas.push(Area { pages, rights: Rights::Write, what: What::ThreadStack(i) });
        }
        areas.push(Area { pages: stack.clone(), rights: Rights::Write, what: What::Stack });
        let layout = Self { areas, memory, heap_end, stack, thread_stacks, ring: None, slot };
        Ok(layout.with_ring(ring))
    }

    fn with_ring(mut self, ring: bool) -> Self {
        if ring {
            self.ring = Some(self.memory);
            let pages = self.memory..self.memory + RING_RESERVE;
            self.areas.push(Area { pages, rights: Rights::Write, what: What::Ring });
        }
        self
    }

    /// What a guest may name in its calls. The ring and the slot are not among it.
    #[must_use]
    pub fn permissions(&self) -> Vec<Permission> {
        let shared = |area: &Area| matches!(area.what, What::Ring | What::Slot);
        let named = |area: &&Area| area.rights != Rights::None && !shared(area);
        let permission = |area: &Area| Permission {
            addresses: area.pages.clone(),
            write: area.rights == Rights::Write,
        };
        self.areas.iter().filter(named).map(permission).collect()
    }

    /// The area that an address is in.
    #[must_use]
    pub fn area(&self, address: u64) -> Option<&Area> {
        self.areas.iter().find(|area| area.pages.contains(&address))
    }

    /// The stack whose guard page an address is in.
    #[must_use]
    pub fn guarded_by(&self, address: u64) -> Option<&Area> {
        self.areas.iter().find(|area| {
            let below = area.pages.start.saturating_sub(PAGE_SIZE)..area.pages.start;
            matches!(area.what, What::Stack | What::ThreadStack(_)) && below.contains(&address)
        })
    }

    /// What an address is, in words.
    #[must_use]
    pub fn describe(&self, address: u64) -> String {
        if let Some(area) = self.area(address) {
            return area.to_string();
        }
        match self.guarded_by(address) {
            Some(area) => format!("the guard page below {area}"),
            None if address < BOOT_INFO_ADDRESS => "the unmapped pages around address zero".into(),
            None if address < self.memory => "memory that is not mapped".into(),
            None => "outside the guest's memory".into(),
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.what, self.rights) {
            (What::BootInfo, _) => f.write_str("the read-only boot information"),
            (What::Segment, Rights::Execute) => f.write_str("the image's code"),
            (What::Segment, Rights::Read) => f.write_str("the image's read-only data"),
            (What::Segment, Rights::Write) => f.write_str("the image's data"),
            (What::Segment, Rights::None) => f.write_str("a segment of the image without access"),
            (What::Heap, _) => f.write_str("the heap"),
            (What::ThreadStack(i), _) => write!(f, "the stack of thread {i}"),
            (What::Stack, _) => f.write_str("the first stack"),
            (What::Ring, _) => f.write_str("the ring"),
            (What::Slot, _) => f.write_str("the slot for block calls"),
        }
    }
}

fn push_heap(areas: &mut Vec<Area>, pages: Range<u64>) {
    if !pages.is_empty() {
        areas.push(Area { pages, rights: Rights::Write, what: What::Heap });
    }
}

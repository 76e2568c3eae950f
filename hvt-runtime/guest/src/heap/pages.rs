//! Runs of pages: which are free, which are slabs, which are large blocks.
//!
//! A side table has one [`Page`] for each page of the region. Free runs hang in lists by length; a run's first and last
//! page know its length, so that a released run finds its free neighbours. Pages above `top` were never handed out or
//! have all come back: they are in no list.
//!
//! Long free runs can go back to the host ([`PageMap::return_idle`]). They stay where they are in the lists; the host
//! provides zeroed pages when they are touched again. That costs more than keeping them, so only a run that nobody has
//! wanted for a while goes.

use core::ops::{Index, IndexMut};

use super::Usage;

/// Bytes in a page.
pub(super) const PAGE: usize = 4096;

/// No page, at the end of lists.
pub(super) const NONE: u32 = u32::MAX;

/// Lists for runs of 1 to 63 pages, each its own length; above, four lists per doubling up to 2²⁰ pages (4 GiB).
const EXACT: usize = 64;
const BINS: usize = EXACT + 4 * 15;

/// Free runs below so many pages stay with us: returning them would cost a call each and bring little.
pub(super) const RETURNED_LEAST: u32 = 16;

/// A growing block goes behind all others only while so many times its size is left there.
const ROOM_TO_GROW: u32 = 8;

/// The most runs that one call of [`PageMap::return_idle`] returns, to bound its time.
const RETURNED_MOST: usize = 16;

/// What a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Nothing that starts here: the inside of a run, or never used. Zero, as the table starts.
    Inside = 0,
    /// First or last page of a free run; `link` is the run's length.
    Free,
    /// First page of a large block; `link` is its length in pages.
    Run,
    /// A page of a slab; `link` is the slab's first page.
    Slab,
}

/// What is known about one page.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Page {
    /// What it belongs to; the other fields' meaning depends on it.
    pub(super) kind: Kind,
    /// Slab: the class of its objects. First page of a free run: 1 when the host has its pages.
    pub(super) class: u8,
    /// Slab: objects in use. First page of a free run: the age of the map when it became free.
    pub(super) used: u16,
    /// Slab: objects it has room for.
    pub(super) capacity: u16,
    /// Slab: objects that were ever handed out.
    pub(super) fresh: u16,
    /// Slab: the first object that came back, which holds the address of the next.
    pub(super) free: *mut u8,
    /// Next in the list of slabs with room or of free runs.
    pub(super) next: u32,
    /// Previous in that list.
    pub(super) prev: u32,
    /// See [`Kind`].
    pub(super) link: u32,
    pages: u32,
}

const _: () = assert!(size_of::<Page>() == 32);

/// The pages of a region and their table.
#[derive(Debug)]
pub(super) struct PageMap {
    base: *mut u8,
    table: *mut Page,
    count: u32,
    /// Pages from here on are free and in no list.
    top: u32,
    /// Pages from here on were never handed out, and are zero.
    touched: u32,
    held: u32,
    held_peak: u32,
    /// Pages of listed runs that the host has.
    returned: u32,
    /// There may be something to return.
    idle: bool,
    /// How often [`PageMap::return_idle`] was called.
    age: u16,
    /// The age when `top` last came down, or a run there was taken.
    top_age: u16,
    bins: [u32; BINS],
    occupied: u128,
}

impl PageMap {
    /// # Safety
    /// As for [`super::Heap::new`].
    pub(super) unsafe fn new(start: *mut u8, len: usize) -> Self {
        let skip = start.align_offset(PAGE);
        let available = len.saturating_sub(skip) / PAGE;
        let table_pages = (available * size_of::<Page>()).div_ceil(PAGE).min(available);
        let count = u32::try_from(available - table_pages).unwrap_or(u32::MAX - 1);
        let table = start.wrapping_add(skip);
        Self {
            base: table.wrapping_add(table_pages * PAGE),
            table: table.cast(),
            count,
            top: 0,
            touched: 0,
            held: 0,
            held_peak: 0,
            returned: 0,
            idle: false,
            age: 0,
            top_age: 0,
            bins: [NONE; BINS],
            occupied: 0,
        }
    }

    /// The page an address lies in; `None` outside of the pages ever handed out.
    #[inline]
    pub(super) fn page_of(&self, address: *mut u8) -> Option<u32> {
        let page = (address as usize).wrapping_sub(self.base as usize) / PAGE;
        if page < self.touched as usize { u32::try_from(page).ok() } else { None }
    }

    /// The first byte of a page.
    #[inline]
    pub(super) fn address(&self, page: u32) -> *mut u8 {
        self.base.wrapping_add(page as usize * PAGE)
    }

    /// The first address that was never handed out: from there on everything is zero.
    pub(super) fn touched_end(&self) -> usize {
        self.address(self.touched) as usize
    }

    /// A run of `count` pages at a multiple of `align` pages (in addresses), marked as [`Kind::Run`].
    pub(super) fn take(&mut self, count: usize, align: usize) -> Option<u32> {
        let wanted = u32::try_from(count).ok()?;
        let slack = u32::try_from(align).ok()?.checked_sub(1)?;
        let padded = wanted.checked_add(slack)?;
        let run = match self.find_free(padded) {
            Some(run) => {
                self.unlist(run);
                run
            }
            None => self.take_top(padded)?,
        };
        let length = self[run].link;
        let misaligned = (self.address(run) as usize / PAGE) & slack as usize;
        let skip = if misaligned == 0 { 0 } else { slack + 1 - u32::try_from(misaligned).ok()? };
        let first = run + skip;
        self[first].kind = Kind::Run;
        self[first].link = wanted;
        self.held += wanted;
        self.held_peak = self.held_peak.max(self.held);
        if skip > 0 {
            self.give_back(run, skip);
        }
        if length - skip > wanted {
            self.give_back(first + wanted, length - skip - wanted);
        }
        Some(first)
    }

    /// A run of `count` pages behind all others; `None` when there is not [`ROOM_TO_GROW`] times as much.
    pub(super) fn take_last(&mut self, count: usize) -> Option<u32> {
        let wanted = u32::try_from(count).ok()?;
        if wanted.checked_mul(ROOM_TO_GROW)? > self.count - self.top {
            return None;
        }
        let run = self.take_top(wanted)?;
        self[run].kind = Kind::Run;
        self.held += wanted;
        self.held_peak = self.held_peak.max(self.held);
        Some(run)
    }

    /// Turns a run just taken into a slab.
    pub(super) fn make_slab(&mut self, first: u32, class: usize, capacity: usize) {
        let count = self[first].link;
        for page in first..first + count {
            self[page].kind = Kind::Slab;
            self[page].link = first;
        }
        let page = &mut self[first];
        page.class = u8::try_from(class).unwrap_or(u8::MAX);
        page.capacity = u16::try_from(capacity).unwrap_or(u16::MAX);
        page.used = 0;
        page.fresh = 0;
        page.free = core::ptr::null_mut();
        page.next = NONE;
        page.prev = NONE;
        page.pages = count;
    }

    /// Takes a run or a slab back.
    pub(super) fn release(&mut self, first: u32) {
        let count = match self[first].kind {
            Kind::Slab => {
                let count = self[first].pages;
                for page in first..first + count {
                    self[page].kind = Kind::Inside;
                }
                count
            }
            _ => self[first].link,
        };
        self.held -= count;
        self.give_back(first, count);
    }

    /// Makes the run at `first` `wanted` pages long without moving it; false when the pages behind it are taken.
    pub(super) fn resize(&mut self, first: u32, wanted: usize) -> bool {
        let Ok(wanted) = u32::try_from(wanted) else { return false };
        let old = self[first].link;
        if wanted <= old {
            if wanted < old {
                self[first].link = wanted;
                self.held -= old - wanted;
                self.give_back(first + wanted, old - wanted);
            }
            return true;
        }
        let behind = first + old;
        let missing = wanted - old;
        if behind == self.top {
            if self.take_top(missing).is_none() {
                return false;
            }
            self[behind].kind = Kind::Inside;
        } else if self[behind].kind == Kind::Free && self[behind].link >= missing {
            let length = self[behind].link;
            self.unlist(behind);
            if length > missing {
                self.give_back(behind + missing, length - missing);
            }
        } else {
            return false;
        }
        self[first].link = wanted;
        self.held += missing;
        self.held_peak = self.held_peak.max(self.held);
        true
    }

    /// Whether [`PageMap::return_idle`] has something to do, now or the next time.
    pub(super) fn has_idle(&self) -> bool {
        self.idle
    }

    /// Gives the host the pages of long free runs that were free at the last call already. `give` gets an address and a
    /// length in bytes and says whether the host took them. How many bytes it took.
    pub(super) fn return_idle(&mut self, mut give: impl FnMut(*mut u8, usize) -> bool) -> usize {
        let mut taken = 0;
        let mut calls = 0;
        self.idle = false;
        if self.touched - self.top >= RETURNED_LEAST {
            let bytes = (self.touched - self.top) as usize * PAGE;
            if self.top_age == self.age {
                self.idle = true;
            } else if give(self.address(self.top), bytes) {
                self.touched = self.top;
                taken += bytes;
            }
        }
        for bin in bin_of(RETURNED_LEAST)..BINS {
            let mut run = self.bins[bin];
            while run != NONE {
                let page = &self[run];
                let (count, next) = (page.link, page.next);
                if page.class == 0 && (page.used == self.age || calls == RETURNED_MOST) {
                    self.idle = true;
                } else if page.class == 0 {
                    calls += 1;
                    if give(self.address(run), count as usize * PAGE) {
                        self[run].class = 1;
                        self.returned += count;
                        taken += count as usize * PAGE;
                    }
                }
                run = next;
            }
        }
        self.age = self.age.wrapping_add(1);
        taken
    }

    /// Puts a slab in front of `next` in the list of slabs with room.
    #[inline]
    pub(super) fn link_before(&mut self, page: u32, next: u32) {
        self[page].next = next;
        self[page].prev = NONE;
        if next != NONE {
            self[next].prev = page;
        }
    }

    /// Takes a page out of its list; the caller moves the list's head.
    #[inline]
    pub(super) fn unlink(&mut self, page: u32) {
        let (next, prev) = (self[page].next, self[page].prev);
        if next != NONE {
            self[next].prev = prev;
        }
        if prev != NONE {
            self[prev].next = next;
        }
        self[page].next = NONE;
        self[page].prev = NONE;
    }

    pub(super) fn usage(&self) -> Usage {
        let mut largest = self.count - self.top;
        if let Some(bin) = 127_u32.checked_sub(self.occupied.leading_zeros()) {
            let mut run = self.bins[bin as usize];
            while run != NONE {
                largest = largest.max(self[run].link);
                run = self[run].next;
            }
        }
        Usage {
            capacity: self.count as usize * PAGE,
            held: self.held as usize * PAGE,
            held_peak: self.held_peak as usize * PAGE,
            touched: (self.touched - self.returned) as usize * PAGE,
            largest_free: largest as usize * PAGE,
        }
    }

    /// A listed run of at least `count` pages, the best fitting list first.
    fn find_free(&self, count: u32) -> Option<u32> {
        let bin = bin_of(count);
        // In a list of many lengths not every run is long enough; look at a few before the next list, which always fits.
        let mut run = self.bins[bin];
        let mut looks = 0;
        while run != NONE && looks < 8 {
            if self[run].link >= count {
                return Some(run);
            }
            run = self[run].next;
            looks += 1;
        }
        let above = self.occupied.checked_shr(u32::try_from(bin).ok()? + 1)?;
        if above != 0 {
            return Some(self.bins[bin + 1 + above.trailing_zeros() as usize]);
        }
        if run == NONE || self.count - self.top >= count {
            return None;
        }
        // Nothing else is left: look at the rest of the list.
        while run != NONE && self[run].link < count {
            run = self[run].next;
        }
        (run != NONE).then_some(run)
    }

    /// Pages never listed, as a run of exactly `count`.
    fn take_top(&mut self, count: u32) -> Option<u32> {
        let end = self.top.checked_add(count).filter(|&end| end <= self.count)?;
        let run = self.top;
        self.top = end;
        self.top_age = self.age;
        self.touched = self.touched.max(end);
        self[run].link = count;
        Some(run)
    }

    /// Joins a run with its free neighbours and lists it.
    fn give_back(&mut self, mut first: u32, mut count: u32) {
        let behind = first + count;
        if behind < self.top && self[behind].kind == Kind::Free {
            count += self[behind].link;
            self.unlist(behind);
        }
        if first > 0 && self[first - 1].kind == Kind::Free {
            let before = self[first - 1].link;
            self[first].kind = Kind::Inside;
            first -= before;
            count += before;
            self.unlist(first);
        }
        if first + count == self.top {
            self[first].kind = Kind::Inside;
            self.top = first;
            self.top_age = self.age;
            self.idle |= self.touched - first >= RETURNED_LEAST;
            return;
        }
        for end in [first, first + count - 1] {
            self[end].kind = Kind::Free;
            self[end].link = count;
        }
        let age = self.age;
        (self[first].class, self[first].used) = (0, age);
        self.idle |= count >= RETURNED_LEAST;
        let bin = bin_of(count);
        self.link_before(first, self.bins[bin]);
        self.bins[bin] = first;
        self.occupied |= 1 << bin;
    }

    /// Takes a free run out of its list; its pages are then nobody's.
    fn unlist(&mut self, first: u32) {
        let count = self[first].link;
        let bin = bin_of(count);
        if self.bins[bin] == first {
            self.bins[bin] = self[first].next;
            if self.bins[bin] == NONE {
                self.occupied &= !(1 << bin);
            }
        }
        if self[first].class == 1 {
            self.returned -= count;
        }
        self.unlink(first);
        self[first].kind = Kind::Inside;
        self[first + count - 1].kind = Kind::Inside;
    }
}

impl Index<u32> for PageMap {
    type Output = Page;

    #[inline]
    fn index(&self, page: u32) -> &Page {
        debug_assert!(page < self.count);
        // SAFETY: the table has `count` entries, zeroed memory is a valid `Page`, and all callers' numbers come from the
        // table's own links or from `page_of`, which checks them.
        unsafe { &*self.table.add(page as usize) }
    }
}

impl IndexMut<u32> for PageMap {
    #[inline]
    fn index_mut(&mut self, page: u32) -> &mut Page {
        debug_assert!(page < self.count);
        // SAFETY: as for `index`; the table is only reached through `self`.
        unsafe { &mut *self.table.add(page as usize) }
    }
}

/// The list for runs of `count` pages.
fn bin_of(count: u32) -> usize {
    if (count as usize) < EXACT {
        return count as usize;
    }
    let top = 31 - count.leading_zeros();
    let quarter = (count >> (top - 2)) & 3;
    (EXACT + (top as usize - 6) * 4 + quarter as usize).min(BINS - 1)
}

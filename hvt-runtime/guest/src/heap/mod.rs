//! The allocator behind `malloc`: size classes in slabs, everything larger in runs of pages.
//!
//! It is made for one processor without preemption, so it has no locks and no per-thread caches, and for a server that
//! runs for months, so it gives an empty slab's pages back and joins free neighbours at once, and what nobody wants for a
//! while goes back to the host ([`Heap::return_idle`]). It must not know where its memory comes from: [`Heap::new`] takes
//! any region, so that the same code is tested on a host.
//!
//! # Way of a request
//!
//! Up to [`size_class::LARGEST`] bytes: class of the size, first slab of that class with room, head of its free list, or
//! its next fresh object. Above: a run of whole pages from [`pages::PageMap`]. `free` finds the slab or run by the
//! pointer's page number, so it needs no size and objects carry no header.

mod pages;
mod size_class;

use core::ptr::{self, NonNull};

use pages::{Kind, NONE, PAGE, PageMap};

/// Every pointer from the heap is a multiple of this, in bytes (`max_align_t` of the x86-64 psABI).
pub const MIN_ALIGN: usize = 16;

/// What the heap holds at a moment. Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The region that the heap manages, without its page map.
    pub capacity: usize,
    /// Pages in slabs and runs that are not free.
    pub held: usize,
    /// The highest value that `held` had.
    pub held_peak: usize,
    /// Pages that the host had to provide: handed out at some time, and not returned since.
    pub touched: usize,
    /// The largest run that could be handed out now.
    pub largest_free: usize,
}

/// A pointer given to `free` or `realloc` that the heap did not hand out, or has taken back already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAllocated;

/// An allocator over one region of memory.
#[derive(Debug)]
pub struct Heap {
    pages: PageMap,
    /// By class: the first slab with room.
    partial: [u32; size_class::COUNT],
}

impl Heap {
    /// A heap over the `len` bytes at `start`; both are rounded inwards to pages. The page map takes 1/128 of it.
    ///
    /// # Safety
    /// The region is readable, writable, filled with zero bytes, and nobody else's for as long as the heap is used.
    #[must_use]
    pub unsafe fn new(start: *mut u8, len: usize) -> Self {
        // SAFETY: the caller's promise is the one that `PageMap::new` asks for.
        Self { pages: unsafe { PageMap::new(start, len) }, partial: [NONE; size_class::COUNT] }
    }

    /// `size` bytes, a multiple of [`MIN_ALIGN`]; `None` when there is no room. Asking for none gives a pointer too.
    #[inline]
    pub fn allocate(&mut self, size: usize) -> Option<NonNull<u8>> {
        match size_class::of(size) {
            Some(class) => self.allocate_small(class),
            None => self.allocate_run(size, 1),
        }
    }

    /// As [`Self::allocate`], filled with zero bytes. Pages never used before are known to be zero and not written.
    pub fn allocate_zeroed(&mut self, size: usize) -> Option<NonNull<u8>> {
        let fresh_from = self.pages.touched_end();
        let block = self.allocate(size)?;
        let end = (block.as_ptr() as usize).checked_add(size)?;
        let dirty = end.min(fresh_from).saturating_sub(block.as_ptr() as usize);
        let dirty = if size_class::of(size).is_some() { size } else { dirty };
        // SAFETY: `dirty <= size`, and the block has `size` bytes.
        unsafe { block.as_ptr().write_bytes(0, dirty) };
        Some(block)
    }

    /// `size` bytes at a multiple of `align`, which is a power of two.
    pub fn allocate_aligned(&mut self, size: usize, align: usize) -> Option<NonNull<u8>> {
        debug_assert!(align.is_power_of_two());
        if align <= MIN_ALIGN {
            return self.allocate(size);
        }
        match size_class::aligned(size, align) {
            Some(class) => self.allocate_small(class),
            None => self.allocate_run(size, align.div_ceil(PAGE)),
        }
    }

    /// Takes a block back.
    ///
    /// # Errors
    /// [`NotAllocated`] for a pointer to no slab and no run.
    ///
    /// # Safety
    /// `block` came from this heap, is given back for the first time, and is not used afterwards. What can be recognised
    /// of a broken promise is answered with an error, but not everything can.
    #[inline]
    pub unsafe fn free(&mut self, block: NonNull<u8>) -> Result<(), NotAllocated> {
        let page = self.pages.page_of(block.as_ptr()).ok_or(NotAllocated)?;
        match self.pages[page].kind {
            // SAFETY: the page belongs to a slab, and the caller promises that `block` is one of its objects.
            Kind::Slab => unsafe { self.free_small(block, self.pages[page].link) },
            Kind::Run if block.as_ptr() == self.pages.address(page) => self.pages.release(page),
            _ => return Err(NotAllocated),
        }
        Ok(())
    }

    /// How many bytes a block has, at least what was asked for.
    ///
    /// # Errors
    /// [`NotAllocated`] as for [`Self::free`].
    pub fn usable(&self, block: NonNull<u8>) -> Result<usize, NotAllocated> {
        let page = self.pages.page_of(block.as_ptr()).ok_or(NotAllocated)?;
        match self.pages[page].kind {
            Kind::Slab => {
                let slab = self.pages[page].link;
                Ok(size_class::size(usize::from(self.pages[slab].class)))
            }
            Kind::Run if block.as_ptr() == self.pages.address(page) => {
                Ok(self.pages[page].link as usize * PAGE)
            }
            _ => Err(NotAllocated),
        }
    }

    /// Changes a block's size and keeps its content; the block may move. `Ok(None)` when there is no room: the old block
    /// then stays as it was.
    ///
    /// # Errors
    /// [`NotAllocated`] as for [`Self::free`].
    ///
    /// # Safety
    /// As for [`Self::free`], unless the answer is `Ok(None)` or an error.
    pub unsafe fn resize(
        &mut self,
        block: NonNull<u8>,
        size: usize,
    ) -> Result<Option<NonNull<u8>>, NotAllocated> {
        let old = self.usable(block)?;
        match size_class::of(size) {
            // Moving down one or two classes would cost a copy and win next to nothing.
            Some(class) if size <= old && size_class::size(class) * 2 > old => {
                return Ok(Some(block));
            }
            None if old > size_class::LARGEST => {
                let page = self.pages.page_of(block.as_ptr()).ok_or(NotAllocated)?;
                if self.pages.resize(page, size.div_ceil(PAGE)) {
                    return Ok(Some(block));
                }
            }
            _ => {}
        }
        let new = if size > old { self.allocate_growing(size) } else { self.allocate(size) };
        let Some(new) = new else { return Ok(None) };
        // SAFETY: two different live blocks of at least `old.min(size)` bytes each.
        unsafe { ptr::copy_nonoverlapping(block.as_ptr(), new.as_ptr(), old.min(size)) };
        // SAFETY: the caller gives the old block up.
        unsafe { self.free(block)? };
        Ok(Some(new))
    }

    /// Gives memory back that nobody wanted since the last call: `give` gets whole pages, as an address and a length in
    /// bytes, and says whether the host took them; they read as zero then. How many bytes it took.
    ///
    /// To be called now and then, not more often than memory should be kept: each page that is wanted again costs the
    /// host's time to provide it.
    pub fn return_idle(&mut self, give: impl FnMut(*mut u8, usize) -> bool) -> usize {
        self.pages.return_idle(give)
    }

    /// Whether [`Heap::return_idle`] has something to do, now or the next time.
    #[must_use]
    pub fn has_idle(&self) -> bool {
        self.pages.has_idle()
    }

    /// What the heap holds now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.pages.usage()
    }

    #[inline]
    fn allocate_small(&mut self, class: usize) -> Option<NonNull<u8>> {
        let mut slab = self.partial[class];
        if slab == NONE {
            slab = self.new_slab(class)?;
        }
        let base = self.pages.address(slab);
        let page = &mut self.pages[slab];
        let object = if page.free.is_null() {
            let offset = usize::from(page.fresh) * size_class::size(class);
            page.fresh += 1;
            // SAFETY: a slab has `capacity` objects, and only `fresh < capacity` is without free objects and in the list.
            unsafe { base.add(offset) }
        } else {
            let object = page.free;
            // SAFETY: the first word of a free object is the link that `free_small` wrote.
            page.free = unsafe { object.cast::<*mut u8>().read() };
            object
        };
        page.used += 1;
        if page.free.is_null() && page.fresh == page.capacity {
            self.partial[class] = page.next;
            self.pages.unlink(slab);
        }
        NonNull::new(object)
    }

    /// # Safety
    /// `object` is an object of `slab` and in use.
    #[inline]
    unsafe fn free_small(&mut self, object: NonNull<u8>, slab: u32) {
        let page = &mut self.pages[slab];
        let class = usize::from(page.class);
        let was_full = page.free.is_null() && page.fresh == page.capacity;
        // SAFETY: the object is at least 16 bytes, aligned to 16, and the heap's again.
        unsafe { object.as_ptr().cast::<*mut u8>().write(page.free) };
        page.free = object.as_ptr();
        page.used = page.used.saturating_sub(1);
        let empty = page.used == 0;
        if was_full {
            self.pages.link_before(slab, self.partial[class]);
            self.partial[class] = slab;
        }
        if empty {
            self.release_slab(slab, class);
        }
    }

    /// Gives an empty slab's pages back, unless it is the only one with room: a single object that comes and goes must
    /// not make a slab each time.
    fn release_slab(&mut self, slab: u32, class: usize) {
        let (next, prev) = (self.pages[slab].next, self.pages[slab].prev);
        if next == NONE && prev == NONE {
            return;
        }
        if self.partial[class] == slab {
            self.partial[class] = next;
        }
        self.pages.unlink(slab);
        self.pages.release(slab);
    }

    #[cold]
    fn new_slab(&mut self, class: usize) -> Option<u32> {
        let count = size_class::slab_pages(class);
        let slab = self.take_pages(count, 1)?;
        self.pages.make_slab(slab, class, size_class::capacity(class));
        self.partial[class] = slab;
        Some(slab)
    }

    fn allocate_run(&mut self, size: usize, align_pages: usize) -> Option<NonNull<u8>> {
        let run = self.take_pages(size.div_ceil(PAGE).max(1), align_pages)?;
        NonNull::new(self.pages.address(run))
    }

    /// As [`Self::allocate`] for a block that has grown out of its place: it will probably grow again, and at the end of
    /// all runs it can, without being copied.
    fn allocate_growing(&mut self, size: usize) -> Option<NonNull<u8>> {
        if size_class::of(size).is_none()
            && let Some(run) = self.pages.take_last(size.div_ceil(PAGE))
        {
            return NonNull::new(self.pages.address(run));
        }
        self.allocate(size)
    }

    /// A run of pages, at the cost of the empty slabs that were kept if there is no other.
    fn take_pages(&mut self, count: usize, align: usize) -> Option<u32> {
        if let Some(run) = self.pages.take(count, align) {
            return Some(run);
        }
        for class in 0..size_class::COUNT {
            let mut slab = self.partial[class];
            while slab != NONE {
                let next = self.pages[slab].next;
                if self.pages[slab].used == 0 {
                    if self.partial[class] == slab {
                        self.partial[class] = next;
                    }
                    self.pages.unlink(slab);
                    self.pages.release(slab);
                }
                slab = next;
            }
        }
        self.pages.take(count, align)
    }
}

// SAFETY: the heap owns its region; nothing in it is bound to the thread that made it.
unsafe impl Send for Heap {}

#[cfg(test)]
mod tests;

//! `malloc` and its kin over [`crate::heap`], and `mmap` as far as the program's own files and plain memory go.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use hvt_abi::extension::FEATURE_MEMORY_RELEASE;

use crate::files::{Errno, Kind};
use crate::heap::{Heap, MIN_ALIGN, NotAllocated, Usage};

use super::single::Single;
use super::{console, error, file, hypercall, start, thread};

static HEAP: Single<Option<Heap>> = Single::new(None);
static REPORTED: AtomicBool = AtomicBool::new(false);

/// Given back when memory runs out for the first time, so that a report and a backtrace still find some.
static RESERVE: AtomicPtr<u8> = AtomicPtr::new(null_mut());
/// The reserve is this part of memory, at most so many bytes.
const RESERVE_PART: usize = 64;
const RESERVE_MOST: usize = 1 << 20;

/// The heap gets the memory from `start` to `end`.
///
/// # Safety
/// As for [`Heap::new`].
pub(super) unsafe fn start(start: usize, end: usize) {
    // SAFETY: the caller's promise.
    let heap = unsafe { Heap::new(start as *mut u8, end.saturating_sub(start)) };
    HEAP.with(|slot| *slot = Some(heap));
    let size = (end.saturating_sub(start) / RESERVE_PART).min(RESERVE_MOST);
    let reserve = with_heap(|heap| heap.allocate(size));
    RESERVE.store(reserve.map_or(null_mut(), NonNull::as_ptr), Ordering::Relaxed);
}

/// How often memory that nobody wants goes back to the host, in nanoseconds; it must have been free for as long.
const RETURN_INTERVAL: u64 = 1_000_000_000;
static NEXT_RETURN: AtomicU64 = AtomicU64::new(0);

/// To be called before the processor waits: gives the host memory that was free for a while. How long to wait at most, so
/// that the rest gets its turn: `timeout` when there is none.
pub(super) fn return_idle(timeout: u64, now: u64) -> u64 {
    if timeout == 0 || start::tender().features & FEATURE_MEMORY_RELEASE == 0 {
        return timeout;
    }
    let next = NEXT_RETURN.load(Ordering::Relaxed);
    let has_idle = with_heap(|heap| {
        if now >= next && heap.has_idle() {
            // SAFETY: the heap gives up whole pages that are in no block.
            heap.return_idle(|start, len| unsafe { hypercall::memory_release(start, len) });
            NEXT_RETURN.store(now + RETURN_INTERVAL, Ordering::Relaxed);
        }
        heap.has_idle()
    });
    let next = NEXT_RETURN.load(Ordering::Relaxed);
    if has_idle { timeout.min(next.saturating_sub(now).max(1)) } else { timeout }
}

/// What the heap holds.
pub(super) fn usage() -> Usage {
    HEAP.with(|heap| heap.as_ref().map(Heap::usage).unwrap_or_default())
}

#[inline]
fn with_heap<R>(body: impl FnOnce(&mut Heap) -> R) -> R {
    HEAP.with(|heap| match heap {
        Some(heap) => body(heap),
        None => console::fatal(format_args!("memory is asked for before there is any")),
    })
}

/// Memory of the runtime's own: no yield, no `errno`.
struct Runtime;

#[global_allocator]
static RUNTIME: Runtime = Runtime;

// SAFETY: the heap's blocks are disjoint and have the size and alignment that were asked for.
unsafe impl GlobalAlloc for Runtime {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = with_heap(|heap| heap.allocate_aligned(layout.size(), layout.align()));
        block.map_or(null_mut(), NonNull::as_ptr)
    }

    /// Buffers of connections are large and mostly stay empty: what is known to be zero is not touched.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() > MIN_ALIGN {
            // SAFETY: the caller's promise; the block has as many bytes.
            unsafe {
                let block = self.alloc(layout);
                if !block.is_null() {
                    block.write_bytes(0, layout.size());
                }
                return block;
            }
        }
        let block = with_heap(|heap| heap.allocate_zeroed(layout.size()));
        block.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller gives back what `alloc` gave.
            check(with_heap(|heap| unsafe { heap.free(block) }), block);
        }
    }
}

fn check<T>(result: Result<T, NotAllocated>, block: NonNull<u8>) -> T {
    match result {
        Ok(value) => value,
        Err(NotAllocated) => console::fatal(format_args!(
            "free or realloc of {block:p}, which is not allocated: memory is corrupt"
        )),
    }
}

/// The block, or a null pointer with `ENOMEM`, said once on the console.
fn granted(block: Option<NonNull<u8>>, size: usize) -> *mut c_void {
    if let Some(block) = block {
        return block.as_ptr().cast();
    }
    error::fail(Errno(libc::ENOMEM));
    if size < usize::MAX / 2 && !REPORTED.swap(true, Ordering::Relaxed) {
        let usage = usage();
        console::say(format_args!(
            "out of memory: {size} bytes asked for, {} of {} KiB in use, largest free block {} KiB; see hvt --mem",
            usage.held / 1024,
            usage.capacity / 1024,
            usage.largest_free / 1024,
        ));
        if let Some(reserve) = NonNull::new(RESERVE.swap(null_mut(), Ordering::Relaxed)) {
            // SAFETY: allocated in `start`, and used by nobody.
            check(with_heap(|heap| unsafe { heap.free(reserve) }), reserve);
        }
    }
    null_mut()
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn malloc(size: usize) -> *mut c_void {
    thread::relax();
    granted(with_heap(|heap| heap.allocate(size)), size)
}

#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    thread::relax();
    let Some(total) = count.checked_mul(size) else { return granted(None, usize::MAX) };
    granted(with_heap(|heap| heap.allocate_zeroed(total)), total)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(block: *mut c_void) {
    if let Some(block) = NonNull::new(block.cast()) {
        // SAFETY: the caller gives the block up.
        check(with_heap(|heap| unsafe { heap.free(block) }), block);
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(block.cast()) else { return malloc(size) };
    // SAFETY: the caller gives the block up if there is an answer.
    granted(check(with_heap(|heap| unsafe { heap.resize(old, size) }), old), size)
}

/// # Safety
/// `out` is writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<usize>() {
        return libc::EINVAL;
    }
    let block = aligned_alloc(align, size);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *out = block };
    0
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    thread::relax();
    if !align.is_power_of_two() {
        error::fail(Errno::INVALID);
        return null_mut();
    }
    granted(with_heap(|heap| heap.allocate_aligned(size, align)), size)
}

#[unsafe(no_mangle)]
extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    aligned_alloc(align.max(MIN_ALIGN), size)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    let Some(block) = NonNull::new(block.cast()) else { return 0 };
    check(with_heap(|heap| heap.usable(block)), block)
}

const PAGE: usize = 4096;

/// Plain private memory, and files whose bytes are in memory anyway. Page rights can't be changed by a guest, so what
/// asks for a fixed place or for execution is refused.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap64(
    _hint: *mut c_void,
    len: usize,
    rights: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    if flags & libc::MAP_FIXED != 0 || rights & libc::PROT_EXEC != 0 || len == 0 {
        error::fail(Errno::INVALID);
        return libc::MAP_FAILED;
    }
    if flags & libc::MAP_ANONYMOUS != 0 {
        let rounded = len.checked_next_multiple_of(PAGE);
        let block = rounded.and_then(|len| {
            with_heap(|heap| {
                let block = heap.allocate_aligned(len, PAGE)?;
                // SAFETY: the block has `len` bytes.
                unsafe { ptr::write_bytes(block.as_ptr(), 0, len) };
                Some(block)
            })
        });
        let block = granted(block, len);
        return if block.is_null() { libc::MAP_FAILED } else { block };
    }
    let bytes = file::with_files(|files| match files.get(fd)?.kind {
        Kind::Memory(bytes) if rights & libc::PROT_WRITE == 0 => Ok(bytes),
        _ => Err(Errno(libc::ENODEV)),
    });
    let start = usize::try_from(offset).ok();
    match bytes.map(|bytes| start.and_then(|start| bytes.get(start..))) {
        Ok(Some(rest)) if rest.len() >= len => rest.as_ptr().cast_mut().cast(),
        Ok(_) => {
            error::fail(Errno::INVALID);
            libc::MAP_FAILED
        }
        Err(error) => {
            error::fail(error);
            libc::MAP_FAILED
        }
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    hint: *mut c_void,
    len: usize,
    rights: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { mmap64(hint, len, rights, flags, fd, offset) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(start: *mut c_void, _len: usize) -> c_int {
    let Some(block) = NonNull::new(start.cast()) else { return error::fail(Errno::INVALID) };
    // What is not the heap's is a file in the image, which stays.
    // SAFETY: the caller gives the mapping up.
    let _ = with_heap(|heap| unsafe { heap.free(block) });
    0
}

/// Rights belong to the image's segments and can't be changed; asking for what is there already is fine.
#[unsafe(no_mangle)]
extern "C" fn mprotect(_start: *mut c_void, _len: usize, rights: c_int) -> c_int {
    if rights == libc::PROT_READ | libc::PROT_WRITE { 0 } else { error::fail(Errno(libc::EACCES)) }
}

/// Nothing here puts memory anywhere else. What the host does with it, no guest can forbid.
#[unsafe(no_mangle)]
extern "C" fn mlock(_start: *const c_void, _len: usize) -> c_int {
    0
}

#[unsafe(no_mangle)]
extern "C" fn munlock(_start: *const c_void, _len: usize) -> c_int {
    0
}

/// Advice may be ignored. Not so `MADV_WIPEONFORK`, by which the crypto library makes sure that no copy of the program
/// repeats its random numbers: it holds because nothing here can fork. The library also asks for advice that does not
/// exist and wants to be told so, to see that it is not talking to an emulator that says yes to everything.
#[unsafe(no_mangle)]
extern "C" fn madvise(_start: *mut c_void, _len: usize, advice: c_int) -> c_int {
    match advice {
        libc::MADV_NORMAL..=libc::MADV_DONTNEED
        | libc::MADV_FREE..=libc::MADV_COLD
        | libc::MADV_PAGEOUT => 0,
        _ => error::fail(Errno::INVALID),
    }
}

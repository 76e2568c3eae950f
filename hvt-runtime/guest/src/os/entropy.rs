//! Random bytes from the processor: the first 256 bits of each request from RDSEED, which is the source itself but takes
//! about half a microsecond a word; what follows from RDRAND, the processor's generator that is seeded from it.
//!
//! The crypto library and `std`'s hash keys both seed from here, so a program without it does not start at all. Every word
//! is mixed (exclusive or) with one that grows from the seed that the tender gave of the host's randomness
//! ([`crate::host_random`]), so that who knows all about one of the two sources knows nothing about the word. The seed is
//! wiped from where the tender put it. The crypto library has no other source in an image: its own collector of timing noise
//! takes a large part of a start, and what it measures in a virtual machine is nobody's promise.

use core::arch::asm;
use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hvt_abi::boot::SEED_LEN;

use super::single::Single;
use super::{console, error};
use crate::files::Errno;
use crate::host_random::HostRandom;
use crate::processor::cpuid;

static WORDS: AtomicU64 = AtomicU64::new(0);
static HAS_RDSEED: AtomicBool = AtomicBool::new(false);
/// What the source gave last.
static LAST: AtomicU64 = AtomicU64::new(0);
/// The host's part; none under a tender that gives no seed.
static HOST: Single<Option<HostRandom>> = Single::new(None);

/// So many words of a request are straight from the source.
const SEED_WORDS: usize = 4;

/// How often to ask RDRAND before giving up; Intel's guide takes ten failures in a row for a broken processor.
const TRIES: u32 = 100;

/// Looks for the instructions, and takes the seed, whose place it wipes; refuses to go on without RDRAND, or when it gives
/// the same value again and again.
///
/// # Safety
/// The seed's place is nobody else's.
pub(super) unsafe fn start(seed: Option<*mut [u8; SEED_LEN]>) {
    if cpuid(1, 0).ecx & (1 << 30) == 0 {
        console::fatal(format_args!(
            "this processor (or the virtual machine it comes from) has no RDRAND: there is no source of randomness"
        ));
    }
    let leaf7 = cpuid(7, 0).ebx & (1 << 18) != 0;
    HAS_RDSEED.store(leaf7, Ordering::Relaxed);
    let sample = source();
    if (0..4).all(|_| source() == sample) {
        console::fatal(format_args!("RDRAND gives the same value {sample:#x} again and again"));
    }
    if let Some(place) = seed {
        HOST.with(|host| {
            // SAFETY: the caller's promise. The write is volatile, since nobody reads there any more.
            unsafe {
                *host = Some(HostRandom::new(&*place));
                place.write_volatile([0; SEED_LEN]);
            }
        });
    }
}

/// 64 random bits.
pub(super) fn word() -> u64 {
    WORDS.fetch_add(1, Ordering::Relaxed);
    let word = source();
    // Two in a row by chance: once in 2⁶⁴ words.
    if LAST.swap(word, Ordering::Relaxed) == word {
        console::fatal(format_args!("the processor's source of randomness is stuck"));
    }
    word ^ of_host()
}

/// 64 bits of the host's part.
fn of_host() -> u64 {
    HOST.with(|host| host.as_mut().map_or(0, HostRandom::word))
}

/// 64 bits from the source, or from the generator while the source has none.
fn source() -> u64 {
    if HAS_RDSEED.load(Ordering::Relaxed) {
        for _ in 0..4 {
            let (value, ok): (u64, u8);
            // SAFETY: the processor has it.
            unsafe {
                asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack))
            };
            if ok != 0 {
                return value;
            }
        }
    }
    generated()
}

/// 64 bits of the processor's generator.
fn generated() -> u64 {
    for _ in 0..TRIES {
        let (value, ok): (u64, u8);
        // SAFETY: `start` has seen it.
        unsafe {
            asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack))
        };
        if ok != 0 {
            return value;
        }
    }
    console::fatal(format_args!(
        "RDRAND failed {TRIES} times in a row: no randomness, so no going on"
    ))
}

/// How many words were asked for.
pub(super) fn count() -> u64 {
    WORDS.load(Ordering::Relaxed)
}

/// Fills a buffer.
pub(super) fn fill(buffer: &mut [u8]) {
    for (index, chunk) in buffer.chunks_mut(8).enumerate() {
        let word = if index < SEED_WORDS { word() } else { generated() ^ of_host() };
        chunk.copy_from_slice(&word.to_ne_bytes()[..chunk.len()]);
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn getrandom(
    buffer: *mut c_void,
    len: usize,
    _flags: c_uint,
) -> isize {
    if len == 0 {
        return 0;
    }
    // SAFETY: the caller's promise.
    fill(unsafe { core::slice::from_raw_parts_mut(buffer.cast(), len) });
    len.cast_signed()
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn getentropy(buffer: *mut c_void, len: usize) -> c_int {
    if len > 256 {
        return error::fail(Errno(libc::EIO));
    }
    // SAFETY: the caller's promise.
    unsafe { getrandom(buffer, len, 0) };
    0
}

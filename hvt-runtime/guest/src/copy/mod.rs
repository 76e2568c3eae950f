//! Copying, filling and comparing memory: `memmove` (which serves as `memcpy` too), `memset`, `memcmp`.
//!
//! They are written in assembly because a compiler turns such loops into calls of the very functions. Short lengths use
//! two overlapping moves from both ends, so that no length needs a loop below 256 bytes; longer ones go by 32-byte
//! registers, and long ones by the processor's own string instruction where it is fast (ERMS).
//!
//! In a guest `os` gives them their C names; under their own names they are tested on any x86-64.

use core::arch::global_asm;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU8, Ordering};

use crate::processor::cpuid;

global_asm!(
    include_str!("copy.s"),
    level = sym LEVEL,
    // From these lengths on `rep movsb` and `rep stosb` win over a loop; measured by `guest-demo speed`.
    move_threshold = const 4096,
    fill_threshold = const 8192,
);

unsafe extern "C" {
    /// Copies `len` bytes; the ranges may overlap.
    ///
    /// # Safety
    /// As for `memmove` in C.
    pub fn hvt_memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void;
    /// Fills `len` bytes.
    ///
    /// # Safety
    /// As for `memset` in C.
    pub fn hvt_memset(to: *mut c_void, byte: c_int, len: usize) -> *mut c_void;
    /// Compares `len` bytes as unsigned numbers.
    ///
    /// # Safety
    /// As for `memcmp` in C.
    pub fn hvt_memcmp(a: *const c_void, b: *const c_void, len: usize) -> c_int;
}

/// Which instructions may be used: 0 SSE2, 1 also AVX2, 2 also the string instructions for long ranges.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// Looks at the processor and uses what it has. Before this call the functions work too, only slower.
pub fn use_processor_features() {
    const AVX_STATE: u64 = 0b110;
    let leaf1 = cpuid(1, 0);
    let osxsave = leaf1.ecx & (1 << 27) != 0;
    let avx = leaf1.ecx & (1 << 28) != 0;
    if !(osxsave && avx && enabled_state() & AVX_STATE == AVX_STATE) {
        return;
    }
    let leaf7 = cpuid(7, 0);
    let avx2 = leaf7.ebx & (1 << 5) != 0;
    let fast_strings = leaf7.ebx & (1 << 9) != 0;
    LEVEL.store(if avx2 { 1 + u8::from(fast_strings) } else { 0 }, Ordering::Relaxed);
}

/// XCR0: which register states the operating system (or the tender) has enabled. Needs CPUID.OSXSAVE.
fn enabled_state() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller has seen OSXSAVE; the instruction only reads a register.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests;

//! What the processor says about itself.

use core::arch::x86_64::{self, CpuidResult};

/// The `CPUID` instruction. A leaf that the processor does not have reads as zero.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    #[allow(
        unused_unsafe,
        reason = "newer compilers take these two for safe, the oldest that must work does not"
    )]
    // SAFETY: every x86-64 processor has the instruction; it only reads.
    unsafe {
        if x86_64::__cpuid(leaf & 0x8000_0000).eax < leaf {
            return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
        }
        x86_64::__cpuid_count(leaf, subleaf)
    }
}

//! The few instructions that no other language has a word for.

use core::arch::{asm, x86_64};

use crate::processor::cpuid;

/// The privilege level: 0 under a stock tender, 3 under ours.
pub(super) fn ring() -> u16 {
    let selector: u16;
    // SAFETY: reads a register.
    unsafe { asm!("mov {0:x}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector & 3
}

/// The time stamp counter.
#[inline]
pub(super) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has it, and no tender forbids it.
    unsafe { x86_64::_rdtsc() }
}

/// Enables at ring 0 what our tender has enabled before a guest at ring 3 starts: AVX, AVX-512 and the FS base
/// instructions, as far as the processor has them.
pub(super) fn enable_extensions() {
    const OSXSAVE: u64 = 1 << 18;
    const FSGSBASE: u64 = 1 << 16;
    /// x87, SSE, AVX, and the three parts of AVX-512.
    const STATES: u32 = 0b1110_0111;
    let xsave = cpuid(1, 0).ecx & (1 << 26) != 0;
    let fs_base = has_fs_base_instructions();
    let bits = if xsave { OSXSAVE } else { 0 } | if fs_base { FSGSBASE } else { 0 };
    // SAFETY: at ring 0; the processor has what the bits enable, and x87, SSE and AVX may always be enabled together.
    unsafe {
        let mut cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
        cr4 |= bits;
        asm!("mov cr4, {}", in(reg) cr4, options(nomem, nostack, preserves_flags));
        if xsave {
            let states = cpuid(0xD, 0).eax & STATES;
            asm!("xsetbv", in("ecx") 0, in("eax") states, in("edx") 0, options(nomem, nostack, preserves_flags));
        }
    }
}

fn has_fs_base_instructions() -> bool {
    cpuid(7, 0).ebx & 1 != 0
}

/// Sets the base of thread-local storage.
///
/// # Safety
/// `base` is the control block of a live thread.
#[inline]
pub(super) unsafe fn set_fs_base(base: u64, by_instruction: bool) {
    if by_instruction {
        // SAFETY: enabled by the tender at ring 3, by `enable_extensions` at ring 0.
        unsafe { asm!("wrfsbase {}", in(reg) base, options(nostack, preserves_flags)) };
    } else {
        const FS_BASE: u32 = 0xC000_0100;
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (low, high) = (base as u32, (base >> 32) as u32);
        // SAFETY: only at ring 0.
        unsafe {
            asm!("wrmsr", in("ecx") FS_BASE, in("eax") low, in("edx") high, options(nostack, preserves_flags));
        }
    }
}

/// Whether `set_fs_base` can use the instruction at this privilege level.
pub(super) fn fs_base_by_instruction() -> bool {
    ring() == 3 || has_fs_base_instructions()
}

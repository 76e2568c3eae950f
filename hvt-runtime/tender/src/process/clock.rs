//! The rate of the time stamp counter, which KVM tells a machine and nobody tells a process.

use std::arch::x86_64::{__cpuid, _rdtsc, CpuidResult};
use std::time::{Duration, Instant};

use crate::device::console::message;

/// How long the counter is watched. An error of a microsecond at each end is then 0.01 %.
const WATCH: Duration = Duration::from_millis(20);

/// The counter's rate in Hz.
///
/// Many virtual machines have a constant rate and do not promise it (CPUID 8000_0007h, EDX bit 8), so a missing promise
/// is told and accepted.
#[must_use]
pub fn cycles_per_second() -> u64 {
    let has_leaf = leaf(0x8000_0000).eax >= 0x8000_0007;
    if !has_leaf || leaf(0x8000_0007).edx & 1 << 8 == 0 {
        message("note: the processor promises no constant clock; the guest's may run unevenly");
    }
    let (start, first) = (Instant::now(), counter());
    std::thread::sleep(WATCH);
    let (last, elapsed) = (counter(), start.elapsed());
    let rate = u128::from(last.wrapping_sub(first)) * 1_000_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// What the processor says of itself under this number.
#[allow(
    unused_unsafe,
    reason = "newer compilers take it for safe, the oldest that must work does not"
)]
fn leaf(number: u32) -> CpuidResult {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { __cpuid(number) }
}

fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _rdtsc() }
}

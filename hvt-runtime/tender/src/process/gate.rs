//! Between guest and tender in one process: each has its own stack and its own thread pointer (FS base).

use std::arch::naked_asm;
use std::sync::atomic::AtomicU64;

use super::ProcessError;

/// The tender's stack pointer and FS base while the guest runs.
static HOST_STACK: AtomicU64 = AtomicU64::new(0);
static HOST_FS: AtomicU64 = AtomicU64::new(0);

/// `AT_HWCAP2`, bit 1: programs may use RDFSBASE and WRFSBASE (Linux, `arch/x86/include/uapi/asm/hwcap2.h`).
const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// Whether the instructions that this module needs are there.
pub(super) fn check() -> Result<(), ProcessError> {
    // SAFETY: reads a word that the kernel gave at start.
    match unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE {
        0 => Err(ProcessError::NoFsBase),
        _ => Ok(()),
    }
}

/// Starts the guest at `entry` with its stack pointer and its argument. It never returns.
///
/// # Safety
/// The guest's code, stack and boot information are mapped.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn enter(entry: u64, stack: u64, info: u64) -> ! {
    naked_asm!(
        "rdfsbase rax",
        "mov [rip + {fs}], rax",
        // Calls into the tender start here again; what is above stays as it is.
        "and rsp, -16",
        "mov [rip + {stack}], rsp",
        "mov rax, rdi",
        "mov rsp, rsi",
        "mov rdi, rdx",
        "xor ecx, ecx",
        "wrfsbase rcx",
        "xor ebx, ebx",
        "xor edx, edx",
        "xor esi, esi",
        "xor ebp, ebp",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "jmp rax",
        fs = sym HOST_FS,
        stack = sym HOST_STACK,
    )
}

/// What the guest calls: a [`hvt_abi::extension::ProcessCall`].
#[unsafe(naked)]
pub(super) extern "C" fn call(number: u64, argument: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "rdfsbase rbx",
        "mov rbp, rsp",
        "mov rax, [rip + {fs}]",
        "wrfsbase rax",
        "mov rsp, [rip + {stack}]",
        "cld",
        "call {serve}",
        "wrfsbase rbx",
        "mov rsp, rbp",
        "pop rbp",
        "pop rbx",
        "ret",
        fs = sym HOST_FS,
        stack = sym HOST_STACK,
        serve = sym super::serve,
    )
}

/// A signal handler: puts the tender's thread pointer in place for [`super::signals::received`].
///
/// Before [`enter`] has set it, and inside the tender, the thread pointer is the right one already.
#[unsafe(naked)]
pub(super) extern "C" fn signal(
    number: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    naked_asm!(
        "push rbx",
        "rdfsbase rbx",
        "mov rax, [rip + {fs}]",
        "test rax, rax",
        "jz 2f",
        "wrfsbase rax",
        "2:",
        "cld",
        "call {received}",
        "wrfsbase rbx",
        "pop rbx",
        "ret",
        fs = sym HOST_FS,
        received = sym super::signals::received,
    )
}

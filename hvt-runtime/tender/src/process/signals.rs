//! Signals of a guest that is a process: its faults, the system calls that it must not make, and requests to stop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::gate;
use crate::crash::{Crash, End, Fault, Registers};
use crate::failure::EXIT_SIGNAL;
use crate::shutdown::{self, Shutdown};

/// What a fault of guest code comes as.
const FAULTS: [libc::c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
/// Room for a crash report, which formats text.
const STACK: usize = 256 * 1024;

static UNDERSTANDS_SHUTDOWN: AtomicBool = AtomicBool::new(false);

/// Handles all of them from now on, on a stack of their own.
pub(super) fn catch(understands_shutdown: bool) -> io::Result<()> {
    UNDERSTANDS_SHUTDOWN.store(understands_shutdown, Ordering::Relaxed);
    // Lives as long as the process.
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: the memory is leaked, so it stays; nothing else uses it.
    if unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for number in
        FAULTS.into_iter().chain([libc::SIGSYS, shutdown::COUNTERS_SIGNAL]).chain(shutdown::SIGNALS)
    {
        // SAFETY: the structure is fully set; `gate::signal` is a handler of three arguments, as SA_SIGINFO says.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = gate::signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(number, &raw const action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Called by [`gate::signal`] with the tender's thread pointer.
pub(super) extern "C" fn received(
    number: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    if shutdown::SIGNALS.contains(&number) {
        shutdown::note(number);
        // Guest code that makes no calls would never look, so a last request is carried out here.
        if let Some(signal) = Shutdown::must_end(UNDERSTANDS_SHUTDOWN.load(Ordering::Relaxed)) {
            let text = b"hvt: ended by a signal\n";
            // SAFETY: write and _exit are allowed in handlers; the text is static.
            unsafe {
                libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
                libc::_exit(i32::from(EXIT_SIGNAL) + signal);
            }
        }
        return;
    }
    if number == shutdown::COUNTERS_SIGNAL {
        return shutdown::note_counters(number);
    }
    // SAFETY: the kernel passes a valid context to a handler with SA_SIGINFO, and it lives until the handler returns.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let registers = registers(context);
    let fault = if number == libc::SIGSYS {
        // SAFETY: as the context; `si_value` overlaps the number of the call, the first word after the address.
        let call = unsafe { *info.cast::<libc::c_int>().add(SI_SYSCALL) };
        Fault::Machine(format!("it made system call {call}, which the sandbox forbids"))
    } else {
        let word =
            |i: libc::c_int| usize::try_from(i).ok().and_then(|i| context.uc_mcontext.gregs.get(i));
        let vector = word(libc::REG_TRAPNO).and_then(|n| u8::try_from(*n).ok()).unwrap_or(u8::MAX);
        let error_code = word(libc::REG_ERR).map_or(0, |n| n.cast_unsigned());
        Fault::Exception { vector, error_code }
    };
    super::fault(&End::Crashed(Crash { fault, registers }));
}

/// Where `si_syscall` is in `siginfo_t`, counted in words of 32 bits: after three words, padding and an address.
const SI_SYSCALL: usize = 6;

fn registers(context: &libc::ucontext_t) -> Registers {
    let word = |i: libc::c_int| {
        let i = usize::try_from(i).unwrap_or(usize::MAX);
        context.uc_mcontext.gregs.get(i).map_or(0, |word| word.cast_unsigned())
    };
    Registers {
        rax: word(libc::REG_RAX),
        rbx: word(libc::REG_RBX),
        rcx: word(libc::REG_RCX),
        rdx: word(libc::REG_RDX),
        rsi: word(libc::REG_RSI),
        rdi: word(libc::REG_RDI),
        rbp: word(libc::REG_RBP),
        rsp: word(libc::REG_RSP),
        r8: word(libc::REG_R8),
        r9: word(libc::REG_R9),
        r10: word(libc::REG_R10),
        r11: word(libc::REG_R11),
        r12: word(libc::REG_R12),
        r13: word(libc::REG_R13),
        r14: word(libc::REG_R14),
        r15: word(libc::REG_R15),
        rip: word(libc::REG_RIP),
        rflags: word(libc::REG_EFL),
        cr2: word(libc::REG_CR2),
        fs_base: 0,
    }
}

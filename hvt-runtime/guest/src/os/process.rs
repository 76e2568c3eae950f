//! What belongs to the program as a whole: environment, exit, signals.
//!
//! There is one signal, SIGTERM, when the tender is asked to stop: a program that handles it (`tokio::signal` for one)
//! gets it on the thread that happens to run; others end.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_void};
use core::ptr::{self, null, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use hvt_abi::hypercall::EXIT_ABORT;
use libc::sigaction as Action;

use crate::files::Errno;

use super::single::Single;
use super::start::leak;
use super::{
    block, console, entropy, error, hypercall, memory, net, pthread, start, string, stubs, thread,
};

/// A thread's stack in bytes by default where the tender sets none with guard pages aside.
const THREAD_STACK: usize = 512 * 1024;

#[unsafe(no_mangle)]
static environ: AtomicPtr<*const c_char> = AtomicPtr::new(null_mut());

static HANDLERS: Single<[usize; 65]> = Single::new([libc::SIG_DFL; 65]);
static AT_EXIT: Single<Vec<(unsafe extern "C" fn(*mut c_void), usize)>> = Single::new(Vec::new());

/// Sets the environment, with two defaults where it does not say otherwise: a panic shows its backtrace, because that is
/// all that will be known of it; and a thread that asks for no particular stack gets one that fits those with guard pages.
pub(super) fn set_environment(variables: &[&[u8]]) {
    let mut all: Vec<*const c_char> = variables.iter().map(|variable| leak(variable)).collect();
    let stack = thread::guarded_stack_size().unwrap_or(THREAD_STACK);
    let defaults = [("RUST_BACKTRACE=", "1".into()), ("RUST_MIN_STACK=", stack.to_string())];
    for (name, value) in defaults {
        if !variables.iter().any(|variable| variable.starts_with(name.as_bytes())) {
            all.push(leak(&[name.as_bytes(), value.as_bytes()].concat()));
        }
    }
    all.push(null());
    environ.store(Vec::leak(all).as_mut_ptr(), Ordering::Relaxed);
}

/// The environment as C has it.
pub(super) fn environment() -> *const *const c_char {
    environ.load(Ordering::Relaxed)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn getenv(name: *const c_char) -> *const c_char {
    // SAFETY: the caller's promise; the environment is a list that ends with a null pointer.
    unsafe {
        let name = string::bytes(name);
        let mut entry = environment();
        while !entry.is_null() && !(*entry).is_null() {
            let text = string::bytes(*entry);
            if text.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'=')) {
                return (*entry).add(name.len() + 1);
            }
            entry = entry.add(1);
        }
    }
    null()
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn secure_getenv(name: *const c_char) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { getenv(name) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn setenv(name: *const c_char, value: *const c_char, replace: c_int) -> c_int {
    // SAFETY: the caller's promise; the list is read before it is replaced, and old lists stay.
    unsafe {
        if replace == 0 && !getenv(name).is_null() {
            return 0;
        }
        let (name, value) = (string::bytes(name), string::bytes(value));
        let mut variable = Vec::with_capacity(name.len() + value.len() + 1);
        variable.extend_from_slice(name);
        variable.push(b'=');
        variable.extend_from_slice(value);
        let mut all = without(name);
        all.push(leak(&variable));
        all.push(null());
        environ.store(Vec::leak(all).as_mut_ptr(), Ordering::Relaxed);
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn unsetenv(name: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let mut all = unsafe { without(string::bytes(name)) };
    all.push(null());
    environ.store(Vec::leak(all).as_mut_ptr(), Ordering::Relaxed);
    0
}

/// The environment without a name.
unsafe fn without(name: &[u8]) -> Vec<*const c_char> {
    let mut kept = Vec::new();
    let mut entry = environment();
    // SAFETY: the environment is a list that ends with a null pointer.
    unsafe {
        while !entry.is_null() && !(*entry).is_null() {
            let text = string::bytes(*entry);
            if text.strip_prefix(name).is_none_or(|rest| rest.first() != Some(&b'=')) {
                kept.push(*entry);
            }
            entry = entry.add(1);
        }
    }
    kept
}

/// Runs what was registered for the end, and ends the program.
#[unsafe(no_mangle)]
pub(super) extern "C" fn exit(status: c_int) -> ! {
    pthread::run_destructors();
    while let Some((handler, argument)) = AT_EXIT.with(Vec::pop) {
        // SAFETY: registered for the end, with this argument.
        unsafe { handler(argument as *mut c_void) };
    }
    _exit(status)
}

#[unsafe(no_mangle)]
extern "C" fn _exit(status: c_int) -> ! {
    if console::is_debug() {
        let usage = memory::usage();
        let frames = net::counters();
        console::say(format_args!(
            "exit {status}; {} hypercalls, {} of them for {} frames out and {} in; {} random words; memory held {} KiB, at most {}, touched {}; calls answered with ENOSYS: {}",
            hypercall::count(),
            frames.calls,
            frames.sent,
            frames.received,
            entropy::count(),
            usage.held / 1024,
            usage.held_peak / 1024,
            usage.touched / 1024,
            stubs::count(),
        ));
    }
    block::write_out();
    net::finish();
    // The host sees eight bits, and 255 would mean that the guest gave up.
    hypercall::halt(status & 0xff)
}

#[unsafe(no_mangle)]
extern "C" fn atexit(handler: unsafe extern "C" fn()) -> c_int {
    // SAFETY: a C function without parameters may be called with one, which it ignores.
    let handler = unsafe {
        core::mem::transmute::<unsafe extern "C" fn(), unsafe extern "C" fn(*mut c_void)>(handler)
    };
    __cxa_atexit(handler, null_mut(), null_mut())
}

#[unsafe(no_mangle)]
extern "C" fn __cxa_atexit(
    handler: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    _library: *mut c_void,
) -> c_int {
    AT_EXIT.with(|handlers| handlers.push((handler, argument as usize)));
    0
}

#[unsafe(no_mangle)]
extern "C" fn abort() -> ! {
    block::write_out();
    console::say(format_args!("the program aborted"));
    hypercall::halt(EXIT_ABORT)
}

#[unsafe(no_mangle)]
extern "C" fn __stack_chk_fail() -> ! {
    console::fatal(format_args!("stack smashing detected: a C function overran a local buffer"))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn __assert_fail(
    text: *const c_char,
    file: *const c_char,
    line: u32,
    _function: *const c_char,
) -> ! {
    // SAFETY: the caller's promise.
    let (text, file) = unsafe { (string::text(text), string::text(file)) };
    console::fatal(format_args!("assertion failed: {text} at {file}:{line}"))
}

/// The tender was asked to stop.
pub(super) fn asked_to_stop() {
    match HANDLERS.with(|handlers| handlers[signal_index(libc::SIGTERM)]) {
        libc::SIG_DFL => {
            console::say(format_args!("asked to stop; the program does not handle it, so it ends"));
            _exit(128 + libc::SIGTERM)
        }
        libc::SIG_IGN => {}
        handler => {
            // SAFETY: a handler that the program registered. It may have been registered as one with three parameters:
            // the first is the same, and the others are pointers to structures that live as long as the call.
            unsafe {
                let mut information: libc::siginfo_t = core::mem::zeroed();
                information.si_signo = libc::SIGTERM;
                let mut context: [u64; 128] = [0; 128];
                let handler = core::mem::transmute::<
                    usize,
                    unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void),
                >(handler);
                handler(libc::SIGTERM, &raw mut information, context.as_mut_ptr().cast());
            }
        }
    }
}

fn signal_index(signal: c_int) -> usize {
    usize::try_from(signal).ok().filter(|&signal| signal < 65).unwrap_or(0)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    let index = signal_index(signal);
    if index == 0 || signal == libc::SIGKILL || signal == libc::SIGSTOP {
        return error::fail(Errno::INVALID);
    }
    // A fault is the tender's to report, with a guard page for each stack. Saying that somebody handles it already keeps
    // `std` from installing its own handler, which could never run.
    let before = match signal {
        libc::SIGSEGV | libc::SIGBUS => libc::SIG_IGN,
        _ => HANDLERS.with(|handlers| handlers[index]),
    };
    // SAFETY: the caller's promise.
    unsafe {
        if !old.is_null() {
            ptr::write_bytes(old, 0, 1);
            (*old).sa_sigaction = before;
        }
        if let Some(new) = new.as_ref() {
            HANDLERS.with(|handlers| handlers[index] = new.sa_sigaction);
        }
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn __libc_current_sigrtmin() -> c_int {
    34
}

#[unsafe(no_mangle)]
extern "C" fn __libc_current_sigrtmax() -> c_int {
    64
}

#[unsafe(no_mangle)]
extern "C" fn signal(signal: c_int, handler: usize) -> usize {
    let index = signal_index(signal);
    HANDLERS.with(|handlers| core::mem::replace(&mut handlers[index], handler))
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sigprocmask(_: c_int, _: *const c_void, old: *mut libc::sigset_t) -> c_int {
    if !old.is_null() {
        // SAFETY: the caller's promise.
        unsafe { ptr::write_bytes(old, 0, 1) };
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    new: *const c_void,
    old: *mut libc::sigset_t,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { sigprocmask(how, new, old) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sigemptyset(set: *mut libc::sigset_t) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { ptr::write_bytes(set, 0, 1) };
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sigfillset(set: *mut libc::sigset_t) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { ptr::write_bytes(set, 0xff, 1) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn sigaddset(_set: *mut libc::sigset_t, _signal: c_int) -> c_int {
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn sigaltstack(_new: *const c_void, old: *mut libc::stack_t) -> c_int {
    if !old.is_null() {
        // SAFETY: the caller's promise.
        unsafe {
            ptr::write_bytes(old, 0, 1);
            (*old).ss_flags = libc::SS_DISABLE;
        }
    }
    0
}

/// Waits for a signal, of which there is none that wakes: for ever.
#[unsafe(no_mangle)]
extern "C" fn pause() -> c_int {
    loop {
        thread::sleep_until(u64::MAX);
    }
}

#[unsafe(no_mangle)]
extern "C" fn getpid() -> c_int {
    1
}

#[unsafe(no_mangle)]
extern "C" fn gettid() -> c_int {
    let id = thread::id(thread::current());
    c_int::try_from(id).unwrap_or(c_int::MAX).saturating_add(1)
}

#[unsafe(no_mangle)]
extern "C" fn getuid() -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn geteuid() -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn getgid() -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn getegid() -> u32 {
    0
}

/// Memory in bytes, for `sysconf`.
pub(super) fn memory_size() -> u64 {
    start::tender().memory
}

//! SIGTERM and SIGINT: the first asks the guest to finish, the second ends it. SIGUSR1 asks for the counters.
//!
//! The handlers do only what a handler may: they count, make the machine leave guest code ([`set_interrupt`]) and wake a
//! waiting poll. The machine's loop and [`crate::border`] look at the count.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What asks to stop.
pub(crate) const SIGNALS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];
/// What asks for the counters.
pub(crate) const COUNTERS_SIGNAL: libc::c_int = libc::SIGUSR1;

static REQUESTS: AtomicU32 = AtomicU32::new(0);
static COUNTERS_WANTED: AtomicBool = AtomicBool::new(false);
static LAST_SIGNAL: AtomicI32 = AtomicI32::new(0);
static WAKE: AtomicI32 = AtomicI32::new(-1);
static INTERRUPT: AtomicPtr<AtomicU8> = AtomicPtr::new(std::ptr::null_mut());

/// Requests to stop, as the tender sees them.
#[derive(Debug)]
pub struct Shutdown {
    event: EventFd,
    /// Whether the guest has been told of a request.
    told: bool,
}

impl Shutdown {
    /// Takes over the signals of this module. One per process: a second one takes the wake-ups from the first.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn install() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        WAKE.store(event.as_raw_fd(), Ordering::Release);
        for signal in SIGNALS {
            handle(signal, note)?;
        }
        handle(COUNTERS_SIGNAL, note_counters)?;
        Ok(Self { event, told: false })
    }

    /// A guest that nobody asks to stop; for tests of the border.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn never() -> io::Result<Self> {
        Ok(Self { event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?, told: true })
    }

    /// Drains what woke a poll.
    pub fn acknowledge(&mut self) {
        // It may be empty.
        _ = self.event.read();
    }

    /// Whether there is a request that the guest has not been told of; it counts as told from now on.
    pub fn take(&mut self) -> bool {
        let fresh = !self.told && REQUESTS.load(Ordering::Acquire) > 0;
        self.told |= fresh;
        fresh
    }

    /// The signal that the guest must end for now: the first if it does not understand requests, or the second.
    #[must_use]
    pub fn must_end(understands: bool) -> Option<i32> {
        let enough = if understands { 2 } else { 1 };
        let ended = REQUESTS.load(Ordering::Acquire) >= enough;
        ended.then(|| LAST_SIGNAL.load(Ordering::Acquire))
    }
}

/// The signals of this module, blocked for the calling thread and for the threads that it starts.
#[derive(Debug)]
pub struct BlockedSignals(());

/// Blocks the signals that ask to stop, so that a thread that is started now never gets them.
///
/// # Errors
/// When the host refuses.
pub fn block_signals() -> io::Result<BlockedSignals> {
    change_mask(libc::SIG_BLOCK).map(BlockedSignals)
}

impl BlockedSignals {
    /// Lets the calling thread, and no other, have them.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn restore(self) -> io::Result<()> {
        change_mask(libc::SIG_UNBLOCK)
    }
}

fn change_mask(how: libc::c_int) -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before it is used, and all pointers are to this frame or null.
    let result = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in SIGNALS.into_iter().chain([COUNTERS_SIGNAL]) {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the event descriptor is open as long as `self`, and so is what is borrowed from it.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}

/// Names a byte that a signal sets to one, to make the machine leave guest code; `None` takes it back.
pub fn set_interrupt(byte: Option<&'static AtomicU8>) {
    let pointer = byte.map_or(std::ptr::null_mut(), |byte| std::ptr::from_ref(byte).cast_mut());
    INTERRUPT.store(pointer, Ordering::Release);
}

/// Whether a signal asked the machine to leave guest code and it has not yet done so.
#[must_use]
pub fn is_interrupted() -> bool {
    let interrupt = INTERRUPT.load(Ordering::Acquire);
    // SAFETY: as in `note`.
    unsafe { interrupt.as_ref() }.is_some_and(|byte| byte.load(Ordering::Acquire) != 0)
}

/// Lets SIGIO, which a descriptor with `O_ASYNC` raises, interrupt the machine as requests to stop do.
///
/// # Errors
/// When the host refuses.
pub fn interrupt_on_input() -> io::Result<()> {
    handle(libc::SIGIO, interrupt)
}

fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: the structure is fully set (zeroed is valid for it: no flags, empty mask), and the handlers of this module
    // do only what is safe in a handler: atomics and write(2). They leave errno as it was.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn interrupt(_: libc::c_int) {
    let interrupt = INTERRUPT.load(Ordering::Acquire);
    // SAFETY: `set_interrupt` stores a pointer to an atomic of static lifetime or null.
    if let Some(byte) = unsafe { interrupt.as_ref() } {
        byte.store(1, Ordering::Release);
    }
}

/// Whether the counters were asked for and not yet told.
#[must_use]
pub fn are_counters_wanted() -> bool {
    COUNTERS_WANTED.load(Ordering::Relaxed)
}

/// As [`are_counters_wanted`]; they count as told from now on.
#[must_use]
pub fn take_counters_request() -> bool {
    are_counters_wanted() && COUNTERS_WANTED.swap(false, Ordering::AcqRel)
}

/// The handler of [`SIGNALS`]: counts, interrupts, wakes. Safe to call in a handler.
pub(crate) extern "C" fn note(signal: libc::c_int) {
    LAST_SIGNAL.store(signal, Ordering::Release);
    REQUESTS.fetch_add(1, Ordering::AcqRel);
    interrupt(signal);
    wake();
}

/// The handler of [`COUNTERS_SIGNAL`]. Safe to call in a handler.
pub(crate) extern "C" fn note_counters(signal: libc::c_int) {
    COUNTERS_WANTED.store(true, Ordering::Release);
    interrupt(signal);
    wake();
}

/// What becomes readable with every signal of this module, for who waits outside of [`crate::border`].
pub(crate) fn wake_fd() -> RawFd {
    WAKE.load(Ordering::Acquire)
}

/// Makes [`wake_fd`] wait for the next signal.
pub(crate) fn drain_wake() {
    let mut count = 0_u64;
    // SAFETY: read fills the eight bytes of `count`; nothing is there to read at worst.
    unsafe { libc::read(wake_fd(), (&raw mut count).cast(), size_of::<u64>()) };
}

/// Ends a waiting poll.
fn wake() {
    let wake = WAKE.load(Ordering::Acquire);
    let one: u64 = 1;
    // SAFETY: errno is this thread's own and is put back; write reads the eight bytes of `one`. A full event descriptor
    // refuses, which is as good: it is readable then.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(wake, (&raw const one).cast(), size_of::<u64>());
        *errno = saved;
    }
}

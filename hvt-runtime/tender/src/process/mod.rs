//! A guest without a virtual machine: `--backend=process`.
//!
//! The image is mapped at its own addresses in the tender's process, each page with the rights of its area, and called.
//! Hypercalls are calls of `gate::call`, whose address the guest gets in its boot information.
//!
//! # What isolation this gives
//!
//! Less than a machine. The guest shares the address space with the tender, so a guest that runs an attacker's code owns
//! the tender too; what then remains is the seccomp filter: it can use its own devices, print, allocate memory and end,
//! and nothing else. It can't make memory executable, so W^X holds. The kernel's system calls that are left, and the
//! processor's side channels, are the surface, as for any sandboxed process. Guard pages and page rights work as in the
//! machine, and a crash is reported the same way.

mod clock;
mod gate;
mod signals;

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::boot::BOOT_INFO_ADDRESS;
use vm_memory::MmapRegion;

pub use clock::cycles_per_second;

use crate::border::{Border, Outcome};
use crate::crash::{End, Registers};
use crate::device::console::message;
use crate::image::Rights;
use crate::layout::Layout;
use crate::memory::GuestSpace;
use crate::shutdown::{self, Shutdown};

/// Why a guest can't run as a process here.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The addresses of the image are not free.
    #[error(
        "the addresses {start:#x} to {end:#x} can't be mapped: {source} \
         (sysctl vm.mmap_min_addr must be at most 65536)"
    )]
    Addresses {
        /// First address.
        start: u64,
        /// End.
        end: u64,
        /// What the host says.
        source: std::io::Error,
    },
    /// The page rights can't be set.
    #[error("page rights: {0}")]
    Rights(std::io::Error),
    /// The signals of a crash can't be caught.
    #[error("signal handlers: {0}")]
    Signals(std::io::Error),
    /// An old kernel or processor.
    #[error(
        "the kernel does not let programs set their FS base (Linux 5.9 and FSGSBASE are needed)"
    )]
    NoFsBase,
}

/// Maps memory for a guest at the guest's own addresses, writable for the loader.
///
/// # Errors
/// When something else is there.
pub fn map(memory: u64) -> Result<GuestSpace, ProcessError> {
    let (start, end) = (BOOT_INFO_ADDRESS, memory);
    let fail = |source| ProcessError::Addresses { start, end, source };
    let len =
        usize::try_from(end - start).map_err(|_| fail(std::io::ErrorKind::OutOfMemory.into()))?;
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let wanted = start as *mut libc::c_void;
    // SAFETY: NOREPLACE refuses where anything is mapped, so no memory of this process is touched.
    let got = unsafe { libc::mmap(wanted, len, prot, flags, -1, 0) };
    if got == libc::MAP_FAILED {
        return Err(fail(std::io::Error::last_os_error()));
    }
    if got != wanted {
        // A kernel before 4.17 takes the address for a hint.
        return Err(fail(std::io::ErrorKind::AddrInUse.into()));
    }
    // SAFETY: the mapping above has this address, length and protection, is ours alone and is never unmapped.
    let region = unsafe { MmapRegion::build_raw(got.cast(), len, prot, flags) };
    let region = region.map_err(|e| fail(std::io::Error::other(e.to_string())))?;
    Ok(GuestSpace::new(region, start))
}

/// Gives each page the rights of its area, and none to what is in no area.
///
/// # Errors
/// When the kernel refuses.
pub fn protect(layout: &Layout) -> Result<(), ProcessError> {
    let set = |pages: std::ops::Range<u64>, prot| {
        let len = usize::try_from(pages.end - pages.start).unwrap_or(usize::MAX);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the pages are within what `map` mapped: areas lie between the boot information and the end of memory.
        match unsafe { libc::mprotect(pages.start as *mut libc::c_void, len, prot) } {
            0 => Ok(()),
            _ => Err(ProcessError::Rights(std::io::Error::last_os_error())),
        }
    };
    let mut at = BOOT_INFO_ADDRESS;
    for area in &layout.areas {
        set(at..area.pages.start, libc::PROT_NONE)?;
        let prot = match area.rights {
            Rights::None => libc::PROT_NONE,
            Rights::Read => libc::PROT_READ,
            Rights::Write => libc::PROT_READ | libc::PROT_WRITE,
            Rights::Execute => libc::PROT_READ | libc::PROT_EXEC,
        };
        set(area.pages.clone(), prot)?;
        at = area.pages.end;
    }
    set(at..layout.memory, libc::PROT_NONE)
}

/// The address of the function by which the guest makes hypercalls.
#[must_use]
pub fn call_address() -> u64 {
    gate::call as *const () as u64
}

/// A guest that is about to run, and what is told when it ends.
pub struct Process {
    border: Border,
    /// Tell the counters at the end.
    stats: bool,
    /// Tells about the end and gives the status to exit with.
    conclude: Box<dyn Fn(&End) -> u8>,
}

/// The one guest of this process. The gate and the signal handlers find it here, because all that a guest passes them
/// are numbers.
struct Current {
    taken: AtomicBool,
    process: UnsafeCell<Option<Process>>,
}

// SAFETY: `process` is written once, by `run` before the guest starts (`taken` sees to once), and afterwards only used by
// the thread that runs the guest, one call at a time: a guest has no threads of the host, and a fault inside a call ends
// the process without using `process` again.
unsafe impl Sync for Current {}

static CURRENT: Current = Current { taken: AtomicBool::new(false), process: UnsafeCell::new(None) };

impl Process {
    /// A guest with everything it needs to run.
    ///
    /// # Errors
    /// When the processor or kernel lacks what is needed, or signals can't be caught.
    pub fn new(
        border: Border,
        stats: bool,
        conclude: impl Fn(&End) -> u8 + 'static,
    ) -> Result<Self, ProcessError> {
        gate::check()?;
        signals::catch(border.understands_shutdown()).map_err(ProcessError::Signals)?;
        Ok(Self { border, stats, conclude: Box::new(conclude) })
    }

    /// Runs the guest, which ends the process, from its entry on a stack of that end. Only the first call of a process
    /// runs anything.
    pub fn run(self, entry: u64, stack_end: u64) {
        if CURRENT.taken.swap(true, Ordering::SeqCst) {
            return;
        }
        // SAFETY: the first and only time, so nobody else uses it; see `Current`.
        unsafe { *CURRENT.process.get() = Some(self) };
        // SAFETY: `protect` and the loader have put the image there, with its stack; the guest never returns.
        unsafe { gate::enter(entry, stack_end - 8, BOOT_INFO_ADDRESS) }
    }

    fn finish(&self, end: &End) -> ! {
        if self.stats {
            message(&self.border.statistics());
        }
        let status = (self.conclude)(end);
        std::process::exit(status.into())
    }
}

/// A hypercall, on the tender's own stack and with its own thread pointer.
extern "C" fn serve(number: u64, argument: u64) {
    // SAFETY: see `Current`: this is the thread of the guest, which waits for this call.
    let Some(process) = (unsafe { (*CURRENT.process.get()).as_mut() }) else { return };
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    process.border.counters().exit();
    match process.border.call(number, argument) {
        Ok(Outcome::Resume) => {}
        // The registers of the guest's call are gone; its stack would show where it came from.
        Ok(Outcome::Halt { status, cookie }) => {
            process.finish(&End::Halted { status, cookie, registers: Registers::default() })
        }
        Err(misuse) => process.finish(&End::Misused(misuse, Registers::default())),
    }
    if shutdown::take_counters_request() {
        message(&process.border.statistics());
    }
    if let Some(signal) = Shutdown::must_end(process.border.understands_shutdown()) {
        process.finish(&End::Signal(signal));
    }
}

/// A fault of the guest, or a system call that it tried, on the signal stack with the tender's own thread pointer.
fn fault(end: &End) -> ! {
    // SAFETY: see `Current`. The guest is stopped for good; if the fault was inside a call of the guest, then `process` is
    // read here while `serve` is suspended for ever, and only parts that a call does not change.
    match unsafe { (*CURRENT.process.get()).as_ref() } {
        Some(process) => process.finish(end),
        None => std::process::exit(crate::failure::EXIT_CRASH.into()),
    }
}

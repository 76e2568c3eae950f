//! The slot ([`hvt_abi::slot`]): the tender's side.
//!
//! [`CallSlot`] is the slot by itself, without thread or machine, so that tests and the fuzzer can play the guest; [`start`]
//! is the thread around it. The guest may write anything anywhere in the slot at any time: each field is read once, what
//! was served is remembered outside of it, and the call goes the same way as one that left the machine. One lock makes the
//! thread and a guest that waits serve in turns.

use std::fmt::Write;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hvt_abi::slot::Slot;
use hvt_abi::{extension, hypercall};
use vm_memory::VolatileMemory;
use vmm_sys_util::eventfd::EventFd;

use super::Misuse;
use super::block::BlockCalls;
use crate::device::Devices;
use crate::failure::Failure;
use crate::memory::{GuestSpace, PointerFault};
use crate::processors::{Place, Processors};
use crate::sandbox;

/// The calls, as `--stats` names them.
const CALLS: [(u16, &str); 4] = [
    (hypercall::BLOCK_WRITE, "block-write"),
    (hypercall::BLOCK_READ, "block-read"),
    (extension::BLOCK_FLUSH, "block-flush"),
    (extension::BLOCK_COMMIT, "block-commit"),
];

/// How many times longer the thread looks after it was woken: the guest wakes it for the call after the next, and the next
/// one leaves the machine.
const LOOKS_AFTER_WAKE: u32 = 5;

/// The slot of one guest.
#[derive(Debug)]
pub struct CallSlot {
    space: Arc<GuestSpace>,
    devices: Arc<Devices>,
    blocks: BlockCalls,
    at: u64,
    served: Mutex<Served>,
    counts: Counts,
    /// The processor that the guest runs on.
    guest: Place,
}

/// What only the tender knows.
#[derive(Debug, Default)]
struct Served {
    /// The number of the last call that was served.
    number: u32,
    /// The guest broke the rules; nothing is served any more.
    misuse: Option<Misuse>,
}

#[derive(Debug, Default)]
struct Counts {
    /// In the order of [`CALLS`].
    calls: [AtomicU64; CALLS.len()],
    /// How often the thread slept.
    sleeps: AtomicU64,
    /// How many calls a waiting guest served itself.
    by_guest: AtomicU64,
}

impl CallSlot {
    /// A slot at this address of the guest's memory, zero but for what is told here. The guest may write there, and name
    /// it in no call.
    ///
    /// # Errors
    /// When the memory ends before.
    pub fn new(
        space: Arc<GuestSpace>,
        devices: Arc<Devices>,
        features: u32,
        at: u64,
        look: Duration,
    ) -> Result<Self, PointerFault> {
        // From here on every access is within the memory.
        space.loader_slice(at, size_of::<Slot>() as u64)?;
        let look = u64::try_from(look.as_nanos()).unwrap_or(u64::MAX);
        space.loader_write(at + offset_of!(Slot, look_nsecs) as u64, look)?;
        let blocks = BlockCalls::new(Arc::clone(&space), Arc::clone(&devices), features);
        let (served, counts, guest) = (Mutex::default(), Counts::default(), Place::default());
        Ok(Self { space, devices, blocks, at, served, counts, guest })
    }

    /// Serves the call in the slot, if there is one that was not served. Whether there was. While another thread serves
    /// one, this waits for it.
    ///
    /// # Errors
    /// [`Misuse`], now or of an earlier call, for which the guest must be ended.
    pub fn serve(&self) -> Result<bool, Misuse> {
        // Nothing panics under the lock; if it did, the numbers would still be whole.
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(misuse) = served.misuse {
            return Err(misuse);
        }
        let asked = self.load(offset_of!(Slot, asked));
        if asked == served.number {
            return Ok(false);
        }
        let call = self.load(offset_of!(Slot, call));
        let argument = self.load_long(offset_of!(Slot, argument));
        let call = u16::try_from(call).unwrap_or(u16::MAX);
        if let Err(misuse) = self.blocks.serve(call, argument) {
            served.misuse = Some(misuse);
            return Err(misuse);
        }
        if let Some(kind) = CALLS.iter().position(|(number, _)| *number == call) {
            self.counts.calls[kind].fetch_add(1, Ordering::Relaxed);
        }
        served.number = asked;
        self.store(offset_of!(Slot, served), asked);
        Ok(true)
    }

    /// The calling thread runs the guest, here.
    pub(super) fn note_processor(&self) {
        self.guest.note();
    }

    /// [`extension::SLOT_WAIT`].
    pub(super) fn wait(&self) -> Result<(), Misuse> {
        if self.serve()? {
            self.counts.by_guest.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Tells that the thread sleeps, and whether it is still right to: there is no call after `number`.
    fn before_sleep(&self, number: u32) -> bool {
        self.store(offset_of!(Slot, asleep), 1);
        // The guest publishes its call, and then waits for it or not. A call that was there before this must be seen now.
        fence(Ordering::SeqCst);
        self.load(offset_of!(Slot, asked)) == number
    }

    /// What was counted, as one line of words `name=number`.
    #[must_use]
    pub fn statistics(&self) -> String {
        let mut text = "stats slot".to_owned();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for ((_, name), count) in CALLS.iter().zip(&self.counts.calls).filter(|(_, c)| load(c) > 0)
        {
            // Writing to a string does not fail.
            _ = write!(text, " {name}={}", load(count));
        }
        let (sleeps, by_guest) = (load(&self.counts.sleeps), load(&self.counts.by_guest));
        _ = write!(text, " served-by-wait={by_guest} sleeps={sleeps}");
        text
    }

    // The three below are within the slot, which `new` has found in the memory, and at multiples of their size.

    fn load(&self, offset: usize) -> u32 {
        let slice = self.space.loader_slice(self.at, size_of::<Slot>() as u64);
        slice.map_or(0, |slice| {
            let field = slice.get_atomic_ref::<AtomicU32>(offset);
            field.map_or(0, |field| field.load(Ordering::Acquire))
        })
    }

    fn load_long(&self, offset: usize) -> u64 {
        let slice = self.space.loader_slice(self.at, size_of::<Slot>() as u64);
        slice.map_or(0, |slice| {
            let field = slice.get_atomic_ref::<AtomicU64>(offset);
            field.map_or(0, |field| field.load(Ordering::Relaxed))
        })
    }

    fn store(&self, offset: usize, value: u32) {
        let slice = self.space.loader_slice(self.at, size_of::<Slot>() as u64);
        if let Ok(slice) = slice
            && let Ok(field) = slice.get_atomic_ref::<AtomicU32>(offset)
        {
            field.store(value, Ordering::Release);
        }
    }
}

/// Starts the thread that serves the slot, in a sandbox of its own, before the guest runs. After a call it looks for the
/// next one for at most `look`.
///
/// # Errors
/// When the host has no thread left, or the sandbox can't be set up.
pub fn start(slot: Arc<CallSlot>, kick: EventFd, look: Duration) -> Result<(), Failure> {
    let host = |source| Failure::Host { what: "the slot's thread", source };
    let (ready, sandboxed) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("slot".into()).stack_size(128 * 1024);
    let processors = Processors::allowed().map_err(host)?;
    let body = move || {
        let entered = sandbox::enter_slot_thread(kick.as_raw_fd(), &slot.devices);
        let good = entered.is_ok();
        if ready.send(entered).is_ok() && good {
            serve(&slot, &kick, look, processors);
        }
    };
    thread.spawn(body).map_err(host)?;
    let entered = sandboxed.recv();
    entered.map_err(|_| host(std::io::ErrorKind::BrokenPipe.into()))?.map_err(Into::into)
}

/// Serves until the process ends, or until the guest breaks the rules, which the thread of the guest tells.
fn serve(slot: &CallSlot, kick: &EventFd, look: Duration, processors: Processors) {
    let (mut number, mut beat) = (0, 0);
    let mut until = None;
    loop {
        while slot.load(offset_of!(Slot, asked)) == number {
            if until.is_some_and(|until| Instant::now() < until) {
                beat = u32::wrapping_add(beat, 1);
                slot.store(offset_of!(Slot, beat), beat);
                std::hint::spin_loop();
                continue;
            }
            if slot.before_sleep(number) {
                slot.counts.sleeps.fetch_add(1, Ordering::Relaxed);
                // Blocks until the guest kicks. An interrupted wait is as good as one that ended.
                _ = kick.read();
            }
            // A scheduler likes to wake a thread where the one runs that wakes it; but that one goes on.
            if slot.guest.is_here() {
                processors.move_on();
            }
            slot.store(offset_of!(Slot, asleep), 0);
            until = Instant::now().checked_add(look * LOOKS_AFTER_WAKE);
        }
        number = slot.load(offset_of!(Slot, asked));
        if slot.serve().is_err() {
            return;
        }
        until = Instant::now().checked_add(look);
    }
}

//! Frames by Solo5's ring: [`crate::ring`] over the memory that the tender shares, and the buffers of the queues.
//!
//! What is unsafe here is memory that the tender reads and writes while the program runs. A buffer's `Box` is taken apart
//! when the ring gets it and put together when the ring gives it back, so no reference to it exists meanwhile.

use alloc::boxed::Box;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering, fence};

use hvt_abi::exchange::Offload;
use hvt_abi::ring::{Commit, ENTRIES, Entry, Ring};

use crate::ring::driver::{Broken, Buffer, Index, Shared};
use crate::ring::line::{Counters, Frames, Line, Tender};

use super::super::{console, hypercall};
use super::device::{Queued, Queues, length};

/// All devices over the ring.
pub(super) struct ByRing(Line<Window, Lent>);

impl ByRing {
    /// # Safety
    /// The tender shares a [`Ring`] at this address, which nobody has used.
    pub(super) unsafe fn new(address: u64, handles: &[u16]) -> Option<Self> {
        let address = usize::try_from(address).ok()?;
        let ring = NonNull::new(ptr::with_exposed_provenance_mut::<Ring>(address))?;
        ring.is_aligned().then(|| Self(Line::new(Window(ring), handles)))
    }

    /// Carries frames both ways and waits up to `timeout` nanoseconds; the set of devices with events.
    pub(super) fn turn(&mut self, queues: &mut Queues, timeout: u64) -> u64 {
        let ready = self.0.turn(queues, timeout);
        self.count(queues);
        ready.unwrap_or_else(|broken| give_up(broken))
    }

    /// Waits for the tender to have sent what it was given.
    pub(super) fn finish(&mut self, queues: &mut Queues) {
        let finished = self.0.finish(queues);
        self.count(queues);
        finished.unwrap_or_else(|broken| give_up(broken));
        let Counters { polls, naps, .. } = self.0.counters();
        console::debug(format_args!("ring: {naps} of {polls} calls let the tender work"));
    }

    fn count(&self, queues: &mut Queues) {
        let counters = self.0.counters();
        queues.counters.sent = counters.sent;
        queues.counters.received = counters.received;
        queues.counters.refused = counters.refused;
        queues.counters.calls = counters.polls;
    }
}

fn give_up(broken: Broken) -> ! {
    console::fatal(format_args!("ring: {broken}"))
}

/// The ring's memory.
#[derive(Debug)]
struct Window(NonNull<Ring>);

impl Window {
    fn index(&self, index: Index) -> &AtomicU32 {
        let ring = self.0.as_ptr();
        // SAFETY: the fields lie in the ring, which stays for good and whose alignment was looked at. Both sides use them as
        // atomics only.
        unsafe {
            AtomicU32::from_ptr(match index {
                Index::Submitted => &raw mut (*ring).ent_tail,
                Index::Consumed => &raw mut (*ring).ent_head,
                Index::Answered => &raw mut (*ring).com_tail,
                Index::Taken => &raw mut (*ring).com_head,
                Index::NeedsKick => &raw mut (*ring).needs_kick,
            })
        }
    }
}

impl Shared for Window {
    fn load(&self, index: Index) -> u32 {
        self.index(index).load(Ordering::Acquire)
    }

    fn store(&mut self, index: Index, value: u32) {
        self.index(index).store(value, Ordering::Release);
    }

    fn put(&mut self, slot: usize, entry: Entry) {
        let slot = slot % ENTRIES as usize;
        // SAFETY: the slot is one of the ring's. The tender does not look at it before it is told.
        unsafe { ptr::write_volatile(&raw mut (*self.0.as_ptr()).entries[slot], entry) };
    }

    fn answer(&self, slot: usize) -> Commit {
        let slot = slot % ENTRIES as usize;
        // SAFETY: the slot is one of the ring's, and any bytes are an answer.
        unsafe { ptr::read_volatile(&raw const (*self.0.as_ptr()).commits[slot]) }
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn kick(&mut self) {
        hypercall::kick();
    }
}

impl Tender for Window {
    fn poll(&mut self, timeout: u64) -> u64 {
        hypercall::poll(timeout)
    }

    fn pause(&mut self) {
        core::hint::spin_loop();
    }
}

/// A buffer of the pool's that the ring has, or may have.
#[derive(Debug)]
pub(super) struct Lent(NonNull<[u8]>);

impl Lent {
    fn new(buffer: Box<[u8]>) -> Self {
        Self(NonNull::from(Box::leak(buffer)))
    }

    /// # Safety
    /// The ring has given it back.
    unsafe fn take_back(self) -> Box<[u8]> {
        // SAFETY: the pointer is that of a box that was taken apart, once, as this can't be copied; and the tender does not
        // touch the bytes any more.
        unsafe { Box::from_raw(self.0.as_ptr()) }
    }
}

impl Buffer for Lent {
    fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    fn len(&self) -> u32 {
        length(self.0.len())
    }
}

/// The driver hands a buffer in by these functions only when the ring has given it back, or before it ever had it.
impl Frames<Lent> for Queues {
    fn has_frame(&self) -> bool {
        !self.to_send.is_empty()
    }

    fn next_frame(&mut self) -> Option<(u32, Lent, u32)> {
        let Queued { handle, buffer, len, .. } = self.to_send.pop_front()?;
        Some((handle.into(), Lent::new(buffer), length(len)))
    }

    fn room(&mut self) -> Lent {
        Lent::new(self.buffer())
    }

    fn received(&mut self, device: usize, buffer: Lent, len: u32) {
        // SAFETY: see above.
        let buffer = unsafe { buffer.take_back() };
        let (handle, len) = (self.handles[device], (len as usize).min(buffer.len()));
        let offload = Offload::default();
        self.received[device].push_back(Queued { handle, buffer, len, offload });
    }

    fn done(&mut self, buffer: Lent) {
        // SAFETY: see above.
        self.spare.push(unsafe { buffer.take_back() });
    }
}

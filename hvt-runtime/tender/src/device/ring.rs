//! The shared ring of Solo5 ([`hvt_abi::ring`]): the tender's side.
//!
//! [`RingQueue`] is the queue by itself, without thread or machine, so that tests and the fuzzer can play the guest. The
//! guest may write anything anywhere in the ring at any time: our own indices are kept outside of it and only published
//! there, each entry is copied once before it is looked at, and what makes no sense is [`Misuse`]. [`start`] is the
//! thread around it.

use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use hvt_abi::exchange::Offload;
use hvt_abi::hypercall::{RESULT_AGAIN, RESULT_INVALID, RESULT_OK};
use hvt_abi::ring::{Commit, ENTRIES, Entry, MASK, NET_READ, NET_WRITE, Ring};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use vmm_sys_util::eventfd::EventFd;

use super::Devices;
use super::console::message;
use crate::border::{Misuse, RingMisuse, buffer};
use crate::failure::EXIT_MISUSE;
use crate::memory::GuestSpace;
use crate::sandbox;

/// How often the thread looks again before it sleeps. A few microseconds: a guest that sends a burst pays one wake-up,
/// an idle one costs nothing.
const SPINS: u32 = 1000;

/// The tender's side of the queue.
#[derive(Debug)]
pub struct RingQueue {
    memory: Arc<MmapRegion>,
    space: Arc<GuestSpace>,
    devices: Arc<Devices>,
    /// How many entries we consumed.
    head: u32,
    /// How many answers we wrote.
    answers: u32,
}

impl RingQueue {
    /// A queue in this memory, which is zero and has room for a [`Ring`].
    #[must_use]
    pub fn new(memory: Arc<MmapRegion>, space: Arc<GuestSpace>, devices: Arc<Devices>) -> Self {
        Self { memory, space, devices, head: 0, answers: 0 }
    }

    /// Serves everything that is submitted. Whether there was anything.
    ///
    /// # Errors
    /// [`Misuse`], for which the guest must be ended.
    pub fn serve(&mut self) -> Result<bool, Misuse> {
        let tail = self.load(offset_of!(Ring, ent_tail));
        let count = tail.wrapping_sub(self.head);
        if count > ENTRIES {
            return Err(Misuse::Ring(RingMisuse::TooManyEntries(count)));
        }
        while self.head != tail {
            let entry = self.entry(self.head);
            match entry.operation {
                NET_WRITE => self.write(&entry)?,
                NET_READ => self.read(&entry)?,
                // As stock tenders do.
                _ => {}
            }
            self.head = self.head.wrapping_add(1);
            self.store(offset_of!(Ring, ent_head), self.head);
        }
        Ok(count > 0)
    }

    /// Asks for a kick, and tells whether it is still right to sleep.
    pub fn before_sleep(&self) -> bool {
        self.store(offset_of!(Ring, needs_kick), 1);
        // The guest publishes its index, then looks whether a kick is wanted. Each side's store must come before its
        // load, or both could miss the other.
        fence(Ordering::SeqCst);
        self.load(offset_of!(Ring, ent_tail)) == self.head
    }

    /// Asks for no kick any more.
    pub fn after_sleep(&self) {
        self.store(offset_of!(Ring, needs_kick), 0);
    }

    fn write(&self, entry: &Entry) -> Result<(), Misuse> {
        let net = self.devices.net(entry.handle.into());
        let net = net.ok_or(Misuse::Ring(RingMisuse::NoDevice(entry.handle)))?;
        let frame =
            self.space.readable(entry.data, entry.len.into()).map_err(buffer("ring write"))?;
        // There is nobody to tell the result to: a frame may be lost, as on a wire.
        if !net.has_offload() {
            _ = net.send(&frame, &Offload::default());
            net.flush();
        }
        Ok(())
    }

    fn read(&mut self, entry: &Entry) -> Result<(), Misuse> {
        let waiting = self.answers.wrapping_sub(self.load(offset_of!(Ring, com_head)));
        if waiting >= ENTRIES {
            return Err(Misuse::Ring(RingMisuse::TooManyAnswers));
        }
        let room =
            self.space.writable(entry.data, entry.len.into()).map_err(buffer("ring read"))?;
        let net = self.devices.net(entry.handle.into()).filter(|net| !net.has_offload());
        let (ret, len) = match net.map(|net| net.receive(&room)) {
            Some(Some(received)) => (RESULT_OK, u32::try_from(received.len).unwrap_or(u32::MAX)),
            Some(None) => (RESULT_AGAIN, 0),
            None => (RESULT_INVALID, 0),
        };
        let at = offset_of!(Ring, commits) + slot(self.answers) * size_of::<Commit>();
        let id_ret = u64::from(entry.id) | u64::from(ret.cast_unsigned()) << 32;
        self.put(at, id_ret);
        self.put(at + 8, u64::from(len));
        self.answers = self.answers.wrapping_add(1);
        self.store(offset_of!(Ring, com_tail), self.answers);
        Ok(())
    }

    fn entry(&self, index: u32) -> Entry {
        let at = offset_of!(Ring, entries) + slot(index) * size_of::<Entry>();
        let word = |i: usize| {
            let slice = self.memory.as_volatile_slice();
            slice.read_obj::<u64>(at + 8 * i).unwrap_or_default()
        };
        let halves = |word: u64| {
            let b = word.to_le_bytes();
            (
                u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            )
        };
        let ((operation, handle), data, (len, id)) = (halves(word(0)), word(1), halves(word(2)));
        Entry { operation, handle, data, len, id, reserved: 0 }
    }

    fn put(&self, at: usize, word: u64) {
        // The offset is one of a slot, which the memory has.
        _ = self.memory.as_volatile_slice().write_obj(word, at);
    }

    fn load(&self, offset: usize) -> u32 {
        let index = self.memory.get_atomic_ref::<AtomicU32>(offset);
        index.map_or(0, |index| index.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Ok(index) = self.memory.get_atomic_ref::<AtomicU32>(offset) {
            index.store(value, Ordering::Release);
        }
    }
}

fn slot(index: u32) -> usize {
    usize::try_from(index & MASK).unwrap_or(0)
}

/// Starts the thread that serves the ring, in a sandbox of its own, before the guest runs.
///
/// # Errors
/// When the host has no thread left, or the sandbox can't be set up.
pub fn start(mut queue: RingQueue, kick: EventFd) -> Result<(), crate::failure::Failure> {
    let host = |source| crate::failure::Failure::Host { what: "the ring's thread", source };
    let (ready, sandboxed) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("ring".into()).stack_size(128 * 1024);
    let body = move || {
        let entered = sandbox::enter_ring_thread(kick.as_raw_fd(), &queue.devices);
        let good = entered.is_ok();
        if ready.send(entered).is_ok() && good {
            serve(&mut queue, &kick);
        }
    };
    thread.spawn(body).map_err(host)?;
    let entered = sandboxed.recv();
    entered.map_err(|_| host(std::io::ErrorKind::BrokenPipe.into()))?.map_err(Into::into)
}

/// Serves until the process ends. A guest that breaks the rules ends it from here.
fn serve(queue: &mut RingQueue, kick: &EventFd) {
    let mut idle = 0;
    loop {
        match queue.serve() {
            Ok(true) => idle = 0,
            Ok(false) if idle < SPINS => {
                idle += 1;
                std::hint::spin_loop();
            }
            Ok(false) => {
                if queue.before_sleep() {
                    // Blocks until the guest kicks. An interrupted wait is as good as one that ended.
                    _ = kick.read();
                }
                queue.after_sleep();
                idle = 0;
            }
            Err(misuse) => {
                message(&format!("the guest was ended: {misuse}"));
                std::process::exit(EXIT_MISUSE.into());
            }
        }
    }
}

//! The border: one hypercall, from the guest's claims to the device and back.
//!
//! It needs no machine: a number, an address and memory are all that it gets, so tests and the fuzzer play the guest
//! without KVM. Whatever they pass, the answer is [`Outcome`] or [`Misuse`], never a panic.

mod block;
mod exchange;
pub mod slot;
mod wait;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use block::BlockCalls;
use hvt_abi::exchange::Offload;
use hvt_abi::hypercall::{
    self, Halt, NetIo, Poll, Puts, RESULT_AGAIN, RESULT_INVALID, RESULT_OK, Walltime,
};
use hvt_abi::{extension, hypercall as number};
use slot::CallSlot;
use wait::{Waiter, Wanted};

use crate::counters::Counters;
use crate::device::Devices;
use crate::device::console::Console;
use crate::device::net::NetDevice;
use crate::memory::{GuestSpace, PointerFault};
use crate::shutdown::Shutdown;

/// What follows a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest goes on.
    Resume,
    /// The guest is done.
    Halt {
        /// Its status, of which the host sees the low eight bits.
        status: i32,
        /// Where a trap frame lies, readable, when the guest names one.
        cookie: Option<u64>,
    },
}

/// How a guest broke the rules of the border. It is ended for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// A structure or buffer is not where the guest may have it.
    #[error("hypercall {call}: {part}: {fault}")]
    Pointer {
        /// Name of the call.
        call: &'static str,
        /// The structure itself, or which buffer.
        part: &'static str,
        /// What is wrong with it.
        fault: PointerFault,
    },
    /// The indices or entries of the ring make no sense.
    #[error("ring: {0}")]
    Ring(RingMisuse),
    /// No such call, or one that was not negotiated.
    #[error("there is no hypercall {0}, or the image did not ask for it")]
    UnknownCall(u16),
    /// An instruction that talks to a port which is not a call.
    #[error("{direction} of {width} bytes at port {port:#x}, which is not a hypercall")]
    BadPort {
        /// The port.
        port: u16,
        /// How many bytes.
        width: usize,
        /// `output` or `input`.
        direction: &'static str,
    },
}

/// How a guest broke the rules of the ring ([`hvt_abi::ring`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingMisuse {
    /// The guest's index is further ahead than the ring has slots.
    #[error("{0} entries are submitted at once; the ring has 1024")]
    TooManyEntries(u32),
    /// The guest does not consume the answers to its reads.
    #[error("more than 1024 answers to reads wait for the guest")]
    TooManyAnswers,
    /// An entry names no network device.
    #[error("there is no network device with handle {0}")]
    NoDevice(u32),
}

/// Serves the calls of one guest.
#[derive(Debug)]
pub struct Border {
    space: Arc<GuestSpace>,
    devices: Arc<Devices>,
    console: Console,
    shutdown: Shutdown,
    /// The extensions that the guest was offered.
    features: u32,
    blocks: BlockCalls,
    /// Where the guest may put calls for block devices, too.
    slot: Option<Arc<CallSlot>>,
    waiter: Waiter,
    /// The device that an exchange received from last.
    next_receive: u64,
    counters: Counters,
}

impl Border {
    /// A border between this memory and these devices.
    #[must_use]
    pub fn new(
        space: Arc<GuestSpace>,
        devices: Arc<Devices>,
        console: Console,
        shutdown: Shutdown,
        features: u32,
    ) -> Self {
        let waiter = Waiter::new(&devices, &shutdown);
        let blocks = BlockCalls::new(Arc::clone(&space), Arc::clone(&devices), features);
        let (next_receive, counters) = (0, Counters::default());
        Self {
            space,
            devices,
            console,
            shutdown,
            features,
            blocks,
            slot: None,
            waiter,
            next_receive,
            counters,
        }
    }

    /// Takes part in serving a slot, which the guest was offered.
    pub fn share(&mut self, slot: Arc<CallSlot>) {
        self.slot = Some(slot);
    }

    /// Looks for frames for at most so long before it sleeps; not at all without this call.
    pub fn look_for(&mut self, most: Duration) {
        self.waiter.look_for(most);
    }

    /// What was counted so far.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// What was counted so far, in words: one line for the calls, one for the slot's and one for each device.
    #[must_use]
    pub fn statistics(&self) -> String {
        let mut text = self.counters.report(&self.devices);
        if let Some(slot) = &self.slot {
            text.push('\n');
            text.push_str(&slot.statistics());
        }
        text
    }

    /// Whether the guest understands requests to stop.
    #[must_use]
    pub fn understands_shutdown(&self) -> bool {
        self.features & extension::FEATURE_SHUTDOWN != 0
    }

    /// Everything that the border reads and writes through: descriptors, for the sandbox.
    #[must_use]
    pub fn descriptors(&self) -> BorderDescriptors {
        BorderDescriptors {
            console: self.console.as_fd().as_raw_fd(),
            wake: self.shutdown.as_fd().as_raw_fd(),
        }
    }

    /// Serves hypercall `call` with the structure at `address`.
    ///
    /// # Errors
    /// [`Misuse`], for which the guest must be ended.
    pub fn call(&mut self, call: u16, address: u64) -> Result<Outcome, Misuse> {
        self.counters.call(call);
        if let Some(slot) = &self.slot {
            slot.note_processor();
        }
        match call {
            number::WALLTIME => self.walltime(address)?,
            number::PUTS => self.puts(address)?,
            number::POLL => self.poll(address)?,
            number::NET_WRITE => self.net_write(address)?,
            number::NET_READ => self.net_read(address)?,
            number::HALT => return self.halt(address),
            extension::EXCHANGE if self.features & extension::FEATURE_EXCHANGE != 0 => {
                self.exchange(address)?;
            }
            extension::MEMORY_RELEASE if self.features & extension::FEATURE_MEMORY_RELEASE != 0 => {
                self.memory_release(address)?;
            }
            extension::SLOT_WAIT if self.slot.is_some() => self.wait_for_slot()?,
            // In a machine this does not get here; the call is served at the next wait either way.
            extension::SLOT_WAKE if self.slot.is_some() => {}
            _ => self.blocks.serve(call, address)?,
        }
        Ok(Outcome::Resume)
    }

    fn wait_for_slot(&self) -> Result<(), Misuse> {
        self.slot.as_ref().map_or(Ok(()), |slot| slot.wait())
    }

    fn walltime(&self, address: u64) -> Result<(), Misuse> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nsecs = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.space.write(address, Walltime { nsecs }).map_err(structure("walltime"))
    }

    fn puts(&self, address: u64) -> Result<(), Misuse> {
        let Puts { data, len } = self.space.read(address).map_err(structure("puts"))?;
        let text = self.space.readable(data, len).map_err(buffer("puts"))?;
        let understands = self.understands_shutdown();
        self.console.put(&text, || Shutdown::must_end(understands).is_some());
        Ok(())
    }

    fn poll(&mut self, address: u64) -> Result<(), Misuse> {
        let mut poll: Poll = self.space.read(address).map_err(structure("poll"))?;
        // Refused before the wait rather than after it.
        self.space.writable(address, size_of::<Poll>() as u64).map_err(structure("poll"))?;
        let wanted = Wanted { readable: u64::MAX, writable: 0 };
        poll.ready_set = self.wait(wanted, Duration::from_nanos(poll.timeout_nsecs));
        poll.ret = poll.ready_set.count_ones().try_into().unwrap_or(i32::MAX);
        poll.pad = 0;
        self.space.write(address, poll).map_err(structure("poll"))
    }

    fn wait(&mut self, wanted: Wanted, timeout: Duration) -> u64 {
        let tells = self.understands_shutdown();
        self.waiter.wait(&self.devices, &mut self.shutdown, wanted, timeout, tells)
    }

    /// [`extension::POLL_SHUTDOWN`] when the guest is to be told of a request now.
    fn shutdown_bit(&mut self) -> u64 {
        let told = self.understands_shutdown() && self.shutdown.take();
        if told { extension::POLL_SHUTDOWN } else { 0 }
    }

    fn memory_release(&self, address: u64) -> Result<(), Misuse> {
        let call = "memory release";
        let mut release: extension::MemoryRelease =
            self.space.read(address).map_err(structure(call))?;
        let whole = self.space.release(release.address, release.len).map_err(buffer(call))?;
        release.ret = if whole { RESULT_OK } else { RESULT_INVALID };
        release.pad = 0;
        self.space.write(address, release).map_err(structure(call))
    }

    fn net_write(&self, address: u64) -> Result<(), Misuse> {
        let call = "net write";
        let mut io: NetIo = self.space.read(address).map_err(structure(call))?;
        io.ret = match self.plain_net(io.handle) {
            None => RESULT_INVALID,
            Some(device) => {
                let frame = self.space.readable(io.data, io.len).map_err(buffer(call))?;
                let code = device.send(&frame, &Offload::default());
                device.flush();
                // A frame that the host has no room for is lost, as on a wire: this call can't say it.
                if code == RESULT_AGAIN { RESULT_OK } else { code }
            }
        };
        io.pad = 0;
        self.space.write(address, io).map_err(structure(call))
    }

    fn net_read(&self, address: u64) -> Result<(), Misuse> {
        let call = "net read";
        let mut io: NetIo = self.space.read(address).map_err(structure(call))?;
        io.ret = match self.plain_net(io.handle) {
            None => RESULT_INVALID,
            Some(device) => {
                let room = self.space.writable(io.data, io.len).map_err(buffer(call))?;
                match device.receive(&room) {
                    None => RESULT_AGAIN,
                    Some(received) => {
                        io.len = received.len as u64;
                        RESULT_OK
                    }
                }
            }
        };
        io.pad = 0;
        self.space.write(address, io).map_err(structure(call))
    }

    /// A network device that the plain calls can use: they have no place for what offload has to say.
    fn plain_net(&self, handle: u64) -> Option<&NetDevice> {
        self.devices.net(handle).filter(|net| !net.has_offload())
    }

    fn halt(&self, address: u64) -> Result<Outcome, Misuse> {
        let halt: Halt = self.space.read(address).map_err(structure("halt"))?;
        let cookie = (halt.cookie != 0).then_some(halt.cookie);
        if let Some(cookie) = cookie {
            self.space.readable(cookie, hypercall::HALT_COOKIE_SIZE).map_err(buffer("halt"))?;
        }
        Ok(Outcome::Halt { status: halt.exit_status, cookie })
    }
}

/// See [`Border::descriptors`].
#[derive(Clone, Copy, Debug)]
pub struct BorderDescriptors {
    /// Standard output, or what stands for it.
    pub console: i32,
    /// What a signal handler writes to.
    pub wake: i32,
}

fn structure(call: &'static str) -> impl Fn(PointerFault) -> Misuse {
    move |fault| Misuse::Pointer { call, part: "its structure", fault }
}

/// A bad buffer of this call.
pub(crate) fn buffer(call: &'static str) -> impl Fn(PointerFault) -> Misuse {
    move |fault| Misuse::Pointer { call, part: "its buffer", fault }
}

//! The border: one hypercall, from the guest's claims to the device and back.
//!
//! It needs no machine: a number, an address and memory are all that it gets, so tests and the fuzzer play the guest
//! without KVM. Whatever they pass, the answer is [`Outcome`] or [`Misuse`], never a panic.

mod exchange;
mod wait;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hvt_abi::exchange::Offload;
use hvt_abi::extension::{BlockCommit, BlockWrite};
use hvt_abi::hypercall::{
    self, BlockIo, Halt, NetIo, Poll, Puts, RESULT_AGAIN, RESULT_INVALID, RESULT_OK, Walltime,
};
use hvt_abi::{extension, hypercall as number};
use wait::{Waiter, Wanted};

use crate::counters::Counters;
use crate::device::Devices;
use crate::device::block::BlockDevice;
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
        let (next_receive, counters) = (0, Counters::default());
        Self { space, devices, console, shutdown, features, waiter, next_receive, counters }
    }

    /// Looks for frames for at most so long before it sleeps; not at all without this call.
    pub fn look_for(&mut self, most: Duration) {
        self.waiter.look_for(most);
    }

    /// What was counted so far.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// What was counted so far, in words: one line for the calls and one for each device.
    #[must_use]
    pub fn statistics(&self) -> String {
        self.counters.report(&self.devices)
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
        match call {
            number::WALLTIME => self.walltime(address)?,
            number::PUTS => self.puts(address)?,
            number::POLL => self.poll(address)?,
            number::BLOCK_WRITE => self.block(address, "block write", false)?,
            number::BLOCK_READ => self.block(address, "block read", true)?,
            number::NET_WRITE => self.net_write(address)?,
            number::NET_READ => self.net_read(address)?,
            number::HALT => return self.halt(address),
            extension::BLOCK_FLUSH if self.features & extension::FEATURE_BLOCK_FLUSH != 0 => {
                self.block_flush(address)?;
            }
            extension::BLOCK_COMMIT if self.features & extension::FEATURE_BLOCK_COMMIT != 0 => {
                self.block_commit(address)?;
            }
            extension::EXCHANGE if self.features & extension::FEATURE_EXCHANGE != 0 => {
                self.exchange(address)?;
            }
            extension::MEMORY_RELEASE if self.features & extension::FEATURE_MEMORY_RELEASE != 0 => {
                self.memory_release(address)?;
            }
            _ => return Err(Misuse::UnknownCall(call)),
        }
        Ok(Outcome::Resume)
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

    fn block(&self, address: u64, call: &'static str, read: bool) -> Result<(), Misuse> {
        let mut io: BlockIo = self.space.read(address).map_err(structure(call))?;
        io.ret = match self.devices.block(io.handle) {
            None => RESULT_INVALID,
            // A range outside the device is refused before the buffer is looked at, as stock tenders do.
            Some(device) if !device.contains(io.offset, io.len) => RESULT_INVALID,
            Some(device) if read => {
                let room = self.space.writable(io.data, io.len).map_err(buffer(call))?;
                device.read(io.offset, &room)
            }
            Some(device) => {
                let data = self.space.readable(io.data, io.len).map_err(buffer(call))?;
                device.write(io.offset, &data)
            }
        };
        io.pad = 0;
        self.space.write(address, io).map_err(structure(call))
    }

    fn block_flush(&self, address: u64) -> Result<(), Misuse> {
        let call = "block flush";
        let mut flush: extension::BlockFlush = self.space.read(address).map_err(structure(call))?;
        flush.ret = self.devices.block(flush.handle).map_or(RESULT_INVALID, |d| d.flush());
        flush.pad = 0;
        self.space.write(address, flush).map_err(structure(call))
    }

    fn block_commit(&self, address: u64) -> Result<(), Misuse> {
        let call = "block commit";
        let mut commit: BlockCommit = self.space.read(address).map_err(structure(call))?;
        // Refused before anything is written rather than after it.
        let size = size_of::<BlockCommit>() as u64;
        self.space.writable(address, size).map_err(structure(call))?;
        commit.ret = match self.devices.block(commit.handle) {
            Some(device) if commit.count <= extension::BLOCK_COMMIT_MAX => {
                self.commit(device, &commit)?
            }
            _ => RESULT_INVALID,
        };
        commit.pad = 0;
        self.space.write(address, commit).map_err(structure(call))
    }

    /// The writes of a commit, until one is not carried out, then its flush.
    fn commit(&self, device: &BlockDevice, commit: &BlockCommit) -> Result<i32, Misuse> {
        let array =
            |fault| Misuse::Pointer { call: "block commit", part: "its array of writes", fault };
        for i in 0..u64::from(commit.count) {
            let at = commit.writes.saturating_add(i * size_of::<BlockWrite>() as u64);
            let write: BlockWrite = self.space.read(at).map_err(array)?;
            if !device.contains(write.offset, write.len) {
                return Ok(RESULT_INVALID);
            }
            let data = self.space.readable(write.data, write.len);
            let code = device.write(write.offset, &data.map_err(buffer("block commit"))?);
            if code != RESULT_OK {
                return Ok(code);
            }
        }
        Ok(if commit.flush == 0 { RESULT_OK } else { device.flush() })
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

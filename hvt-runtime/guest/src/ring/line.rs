//! When to send, when to ask for frames, and when to wait.
//!
//! The tender answers a read at once, also when there is no frame, and tells nobody when one comes. So frames are asked
//! for where there may be some, many at a time and again as long as they come; when a device has had none, the next word of
//! it is that of a [`Tender::poll`]. While answers are on their way that call would sleep through them: so they are waited
//! for first, awake, since the tender's thread owes them at once.

use alloc::vec::Vec;

use hvt_abi::hypercall::{RESULT_AGAIN, RESULT_OK};

use super::driver::{Broken, Buffer, Driver, Shared};

/// The fewest reads that one asks for: one for the frame, one for the word that there is no other.
const READS_LEAST: usize = 2;
/// The most reads on their way, of all devices together.
pub const READS_MOST: usize = 256;
/// The most frames on their way; more wait in the queue, where connections see them and hold their data back.
pub const WRITES_MOST: usize = 256;
/// How often to look for an answer before leaving the machine for it: tens of microseconds, a few times what the tender's
/// thread needs when it is awake.
const LOOKS: u32 = 1000;
/// The same after several times in vain: then the processors are busy, and leaving costs more than it helps.
const LOOKS_MOST: u32 = 64 * LOOKS;
/// How long to leave the machine then, in nanoseconds: the tender's thread may have no other processor than this one.
const NAP: u64 = 20_000;
/// After so many turns that did not wait, the tender is asked for what only a poll tells: a request to stop.
const TURNS_WITHOUT_POLL: u32 = 64;
/// How many naps the last frames get to leave.
const NAPS_AT_END: u32 = 1_000;

/// The tender, as far as frames go.
pub trait Tender: Shared {
    /// Waits up to so many nanoseconds for a device with a frame, or another event; the set as a poll gives it.
    fn poll(&mut self, timeout: u64) -> u64;
    /// Tells the processor that this is a loop of looks.
    fn pause(&mut self);
}

/// Where frames come from and go to.
pub trait Frames<B> {
    /// Whether a frame waits to be sent.
    fn has_frame(&self) -> bool;
    /// The next frame to send: the device's handle, the buffer and the frame's length.
    fn next_frame(&mut self) -> Option<(u32, B, u32)>;
    /// An empty buffer.
    fn room(&mut self) -> B;
    /// A frame that came from the device with this place in the list.
    fn received(&mut self, device: usize, buffer: B, len: u32);
    /// A buffer that is not needed any more.
    fn done(&mut self, buffer: B);
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames given to the tender.
    pub sent: u64,
    /// Frames from the tender.
    pub received: u64,
    /// Reads that the tender refused.
    pub refused: u64,
    /// Calls to wait, or to let the tender work.
    pub polls: u64,
    /// Those among them that let the tender work.
    pub naps: u64,
}

/// One device's reads.
#[derive(Debug)]
struct Device {
    handle: u32,
    /// There may be frames: a poll said so, or the last answer was one.
    hungry: bool,
    /// How many reads it keeps on their way while it is hungry.
    batch: usize,
    /// How many are on their way.
    asked: usize,
    /// How many frames came in a row.
    filled: usize,
}

/// All devices' frames over one ring.
#[derive(Debug)]
pub struct Line<T, B> {
    driver: Driver<T, B>,
    devices: Vec<Device>,
    /// The most reads of one device.
    share: usize,
    turns_without_poll: u32,
    /// What polls told and nobody heard yet.
    events: u64,
    counters: Counters,
}

impl<T: Tender, B: Buffer> Line<T, B> {
    /// A line of an unused ring for the devices with these handles.
    #[must_use]
    pub fn new(tender: T, handles: &[u16]) -> Self {
        let device = |handle: &u16| Device {
            handle: u32::from(*handle),
            // Nobody was asked yet.
            hungry: true,
            batch: READS_LEAST,
            asked: 0,
            filled: 0,
        };
        Self {
            driver: Driver::new(tender),
            devices: handles.iter().map(device).collect(),
            share: (READS_MOST / handles.len().max(1)).max(READS_LEAST),
            turns_without_poll: 0,
            events: 0,
            counters: Counters::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sends what waits, and gives what came. Waits up to `timeout` nanoseconds where there is nothing. The answer is the set
    /// of devices with events, as a poll gives it, and whatever else a poll tells.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn turn(&mut self, frames: &mut impl Frames<B>, timeout: u64) -> Result<u64, Broken> {
        let came = self.collect(frames)?;
        self.submit(frames, timeout == 0);
        if timeout == 0 {
            self.turns_without_poll += 1;
            if self.turns_without_poll >= TURNS_WITHOUT_POLL {
                self.poll(0);
            }
        } else if !came && !self.settle(frames)? {
            self.poll(timeout);
            self.submit(frames, false);
            self.settle(frames)?;
        }
        Ok(core::mem::take(&mut self.events))
    }

    /// Sees to it that the tender has sent everything, if it does so in a moment: for the end of the program, after which
    /// the tender looks at nothing any more.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn finish(&mut self, frames: &mut impl Frames<B>) -> Result<(), Broken> {
        for _ in 0..NAPS_AT_END {
            self.send(frames);
            self.driver.publish();
            for _ in 0..LOOKS {
                self.collect(frames)?;
                if self.driver.writes() == 0 && !frames.has_frame() {
                    return Ok(());
                }
                self.driver.shared().pause();
            }
            self.poll(NAP);
            self.counters.naps += 1;
        }
        Ok(())
    }

    /// Waits until a frame came, or until every read is answered and every frame is the tender's. Whether a frame came.
    fn settle(&mut self, frames: &mut impl Frames<B>) -> Result<bool, Broken> {
        let (mut looks, mut patience) = (0, LOOKS);
        while self.driver.reads() > 0 || frames.has_frame() {
            if self.collect(frames)? {
                return Ok(true);
            }
            if frames.has_frame() {
                self.submit(frames, false);
            }
            looks += 1;
            if looks == patience {
                self.poll(NAP);
                self.counters.naps += 1;
                (looks, patience) = (0, (2 * patience).min(LOOKS_MOST));
            } else {
                self.driver.shared().pause();
            }
        }
        Ok(false)
    }

    /// Takes what the tender is done with. Whether a frame came.
    fn collect(&mut self, frames: &mut impl Frames<B>) -> Result<bool, Broken> {
        self.driver.reclaim(|buffer| frames.done(buffer))?;
        let mut came = false;
        while let Some(answer) = self.driver.answer()? {
            let place = self.devices.iter().position(|device| device.handle == answer.handle);
            let Some(place) = place else { continue };
            let device = &mut self.devices[place];
            device.asked -= 1;
            if answer.result == RESULT_OK {
                device.gave_a_frame(self.share);
                self.counters.received += 1;
                frames.received(place, answer.buffer, answer.len);
                came = true;
            } else {
                device.was_empty();
                self.counters.refused += u64::from(answer.result != RESULT_AGAIN);
                frames.done(answer.buffer);
            }
        }
        Ok(came)
    }

    /// Gives the tender what waits to be sent, and asks for frames where there may be some; with `looks` for a few from
    /// every device.
    fn submit(&mut self, frames: &mut impl Frames<B>, looks: bool) {
        self.send(frames);
        for device in &mut self.devices {
            let wanted = match device.hungry {
                true => device.batch,
                false if looks && device.asked == 0 => READS_LEAST,
                false => 0,
            };
            while device.asked < wanted {
                if let Err(buffer) = self.driver.read(device.handle, frames.room()) {
                    frames.done(buffer);
                    break;
                }
                device.asked += 1;
            }
        }
        self.driver.publish();
    }

    fn send(&mut self, frames: &mut impl Frames<B>) {
        while self.driver.writes() < WRITES_MOST
            && let Some((handle, buffer, len)) = frames.next_frame()
        {
            match self.driver.write(handle, buffer, len) {
                Ok(()) => self.counters.sent += 1,
                Err(buffer) => frames.done(buffer),
            }
        }
    }

    fn poll(&mut self, timeout: u64) {
        self.turns_without_poll = 0;
        self.counters.polls += 1;
        let ready = self.driver.shared().poll(timeout);
        for device in &mut self.devices {
            device.hungry |= ready & 1 << device.handle != 0;
        }
        self.events |= ready;
    }
}

impl Device {
    /// Asks for more at a time when it has more than was asked for.
    fn gave_a_frame(&mut self, most: usize) {
        self.hungry = true;
        self.filled += 1;
        if self.filled >= self.batch {
            self.filled = 0;
            self.batch = (2 * self.batch).min(most);
        }
    }

    /// Asks for fewer when it has fewer, by steps: a stream comes in bursts.
    fn was_empty(&mut self) {
        if self.hungry {
            let enough = (self.filled + 1).max(self.batch / 2).max(READS_LEAST);
            self.batch = enough.min(self.batch);
        }
        self.filled = 0;
        self.hungry = false;
    }
}

// Frames and reads on their way always have slots.
const _: () = assert!(WRITES_MOST + READS_MOST + READS_LEAST * 64 < super::driver::ENTRIES_MOST);

//! The ring's slots and indices, and whose each buffer is.
//!
//! Both queues are of one writer and one reader each. Our own indices are kept here and only published in the ring; the
//! tender's are believed only where they are possible, since a buffer changes hands by them.

use alloc::collections::VecDeque;

use hvt_abi::ring::{Commit, ENTRIES, Entry, MASK, NET_READ, NET_WRITE};

/// The most entries that the tender has not consumed. As in Solo5's own bindings, one slot stays free.
pub const ENTRIES_MOST: usize = ENTRIES as usize - 1;
/// The most reads without an answer that we took: the tender does not look whether there is room for one.
pub const READS_MOST: usize = ENTRIES as usize;

/// A field of the ring that both sides look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// [`hvt_abi::ring::Ring::ent_tail`], ours.
    Submitted,
    /// [`hvt_abi::ring::Ring::ent_head`], the tender's.
    Consumed,
    /// [`hvt_abi::ring::Ring::com_tail`], the tender's.
    Answered,
    /// [`hvt_abi::ring::Ring::com_head`], ours.
    Taken,
    /// [`hvt_abi::ring::Ring::needs_kick`], the tender's.
    NeedsKick,
}

/// The ring's memory, and the port beside it.
pub trait Shared {
    /// Reads a field with acquire order.
    fn load(&self, index: Index) -> u32;
    /// Writes a field with release order.
    fn store(&mut self, index: Index, value: u32);
    /// Writes an entry.
    fn put(&mut self, slot: usize, entry: Entry);
    /// Reads an answer.
    fn answer(&self, slot: usize) -> Commit;
    /// What was stored before is seen by all before anything is loaded after.
    fn barrier(&self);
    /// Wakes the tender's thread.
    fn kick(&mut self);
}

/// Memory that the tender reads or writes while the ring has it.
pub trait Buffer {
    /// Where it starts.
    fn address(&self) -> u64;
    /// Its length in bytes.
    fn len(&self) -> u32;
    /// Whether it has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The tender does not keep to the rules, so that nobody knows whose a buffer is. The program can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It says that it consumed so many entries more than were submitted.
    Consumed(u32),
    /// It says that it answered so many reads, and fewer wait.
    Answered(u32),
    /// It answered a read with this mark, which nobody asked for.
    Answer(u32),
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Consumed(count) => {
                write!(f, "the tender consumed {count} entries, more than there are")
            }
            Self::Answered(count) => {
                write!(f, "the tender answered {count} reads, more than there are")
            }
            Self::Answer(mark) => {
                write!(f, "the tender answered read {mark}, which nobody asked for")
            }
        }
    }
}

/// An answer to a read.
#[derive(Debug)]
pub struct Answer<B> {
    /// The device that it was for.
    pub handle: u32,
    /// The room; it has a frame if the result says so.
    pub buffer: B,
    /// A result code of [`hvt_abi::hypercall`].
    pub result: i32,
    /// The frame's length in bytes, no more than the room.
    pub len: u32,
}

/// A read that waits for its answer.
#[derive(Debug)]
struct Read<B> {
    mark: u32,
    handle: u32,
    buffer: B,
}

/// The guest's side of the ring.
#[derive(Debug)]
pub struct Driver<S, B> {
    shared: S,
    /// How many entries were written, and how many of them the tender was told of.
    submitted: u32,
    published: u32,
    /// How many answers were taken.
    taken: u32,
    /// The entries that the tender is not known to have consumed, oldest first: the frame's buffer, or nothing for a read.
    entries: VecDeque<Option<B>>,
    /// How many of them are frames.
    writes: usize,
    /// Reads without an answer, oldest first.
    reads: VecDeque<Read<B>>,
}

impl<S: Shared, B: Buffer> Driver<S, B> {
    /// The guest's side of a ring that nobody has used.
    #[must_use]
    pub fn new(shared: S) -> Self {
        let (entries, reads) = (VecDeque::new(), VecDeque::new());
        Self { shared, submitted: 0, published: 0, taken: 0, entries, writes: 0, reads }
    }

    /// The same with indices that have gone far.
    #[cfg(test)]
    pub(super) fn starting_at(shared: S, index: u32) -> Self {
        Self { submitted: index, published: index, taken: index, ..Self::new(shared) }
    }

    /// The ring's memory.
    pub fn shared(&mut self) -> &mut S {
        &mut self.shared
    }

    /// How many frames are the tender's.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.writes
    }

    /// How many reads have no answer that was taken.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.reads.len()
    }

    /// Gives the first `len` bytes of a buffer to the tender to send. The tender is not told before [`Self::publish`].
    ///
    /// # Errors
    /// There is no slot; the buffer comes back.
    pub fn write(&mut self, handle: u32, buffer: B, len: u32) -> Result<(), B> {
        if self.entries.len() >= ENTRIES_MOST {
            return Err(buffer);
        }
        let (data, len) = (buffer.address(), len.min(buffer.len()));
        self.put(Entry { operation: NET_WRITE, handle, data, len, ..Entry::default() });
        self.entries.push_back(Some(buffer));
        self.writes += 1;
        Ok(())
    }

    /// Asks the tender for a frame. It answers at once, with a frame or with the word that there is none.
    ///
    /// # Errors
    /// There is no slot; the buffer comes back.
    pub fn read(&mut self, handle: u32, buffer: B) -> Result<(), B> {
        if self.entries.len() >= ENTRIES_MOST || self.reads.len() >= READS_MOST {
            return Err(buffer);
        }
        let mark = self.submitted;
        let (data, len) = (buffer.address(), buffer.len());
        self.put(Entry { operation: NET_READ, handle, data, len, ..Entry::default() });
        self.entries.push_back(None);
        self.reads.push_back(Read { mark, handle, buffer });
        Ok(())
    }

    fn put(&mut self, entry: Entry) {
        self.shared.put(slot(self.submitted), Entry { id: self.submitted, ..entry });
        self.submitted = self.submitted.wrapping_add(1);
    }

    /// Tells the tender of all entries, and wakes its thread if that sleeps.
    pub fn publish(&mut self) {
        if self.published == self.submitted {
            return;
        }
        self.published = self.submitted;
        self.shared.store(Index::Submitted, self.published);
        // The tender's thread stores its wish before it looks for entries a last time. If our load came before our store,
        // both could miss the other, and it would sleep on these entries.
        self.shared.barrier();
        if self.shared.load(Index::NeedsKick) != 0 {
            self.shared.kick();
        }
    }

    /// Takes back the buffers of frames that were sent.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn reclaim(&mut self, mut back: impl FnMut(B)) -> Result<(), Broken> {
        let told = self.entries.len() - distance(self.published, self.submitted);
        let known = self.published.wrapping_sub(length(told));
        let count = distance(known, self.shared.load(Index::Consumed));
        if count > told {
            return Err(Broken::Consumed(length(count)));
        }
        for buffer in self.entries.drain(..count).flatten() {
            self.writes -= 1;
            back(buffer);
        }
        Ok(())
    }

    /// Takes the next answer to a read, if there is one.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn answer(&mut self) -> Result<Option<Answer<B>>, Broken> {
        let waiting = distance(self.taken, self.shared.load(Index::Answered));
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.reads.len() {
            return Err(Broken::Answered(length(waiting)));
        }
        let commit = self.shared.answer(slot(self.taken));
        // The first one, from any tender that there is; the ABI lets a tender choose.
        let place = self.reads.iter().position(|read| read.mark == commit.id);
        let read = place.and_then(|place| self.reads.remove(place));
        let Read { handle, buffer, .. } = read.ok_or(Broken::Answer(commit.id))?;
        self.taken = self.taken.wrapping_add(1);
        self.shared.store(Index::Taken, self.taken);
        let len = commit.len.min(buffer.len());
        Ok(Some(Answer { handle, buffer, result: commit.ret, len }))
    }
}

/// From an index to its slot.
fn slot(index: u32) -> usize {
    (index & MASK) as usize
}

/// From one index to a later one.
fn distance(from: u32, to: u32) -> usize {
    to.wrapping_sub(from) as usize
}

/// A count that an index can hold.
fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

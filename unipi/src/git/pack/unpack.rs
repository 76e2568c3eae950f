//! Takes a pack apart while it arrives.

use std::collections::HashMap;

use bytes::Bytes;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::delta::Delta;
use super::{ObjectHasher, PackError};
use crate::git::generation::{Object, Objects};
use crate::git::pace::{Pace, SLICE};
use crate::git::{HashKind, Limits, ObjectId, ObjectKind};

/// What each object counts against [`Limits::unpacked_bytes`] besides its content: its place in the maps.
pub const OBJECT_OVERHEAD: u64 = 256;

/// Bytes of the pack's own header: `PACK`, version, number of objects.
const PACK_HEADER: usize = 12;

/// Unpacks one pack. Objects that the pack's deltas build on may come from `known`.
pub struct Unpacker<'known> {
    known: Option<&'known Objects>,
    hash: HashKind,
    limits: Limits,
    state: State,
    /// The header or trailer of which not all bytes are there yet.
    partial: Vec<u8>,
    inflate: Inflate,
    checksum: gix_hash::Hasher,
    /// Bytes taken so far.
    offset: u64,
    total: u32,
    done: u32,
    unpacked: u64,
    objects: Objects,
    ids: HashMap<u64, ObjectId>,
    waiting: HashMap<Base, Vec<Waiting>>,
    pace: Pace,
}

enum State {
    PackHeader,
    EntryHeader,
    Data(Entry),
    Trailer,
    End,
}

/// The entry whose data is arriving.
struct Entry {
    offset: u64,
    content: Content,
    data: Vec<u8>,
    filled: usize,
}

enum Content {
    Whole(ObjectKind, ObjectHasher),
    Delta(Base),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Base {
    Offset(u64),
    Id(ObjectId),
}

/// A delta whose base is not there yet.
struct Waiting {
    offset: u64,
    delta: Vec<u8>,
}

impl<'known> Unpacker<'known> {
    /// An unpacker of a pack whose object ids are of the kind `hash`.
    #[must_use]
    pub fn new(hash: HashKind, limits: &Limits, known: Option<&'known Objects>) -> Self {
        Self {
            known,
            hash,
            limits: *limits,
            state: State::PackHeader,
            partial: Vec::new(),
            inflate: Inflate::new(true, 15),
            checksum: gix_hash::hasher(hash),
            offset: 0,
            total: 0,
            done: 0,
            unpacked: 0,
            objects: Objects::new(),
            ids: HashMap::new(),
            waiting: HashMap::new(),
            pace: Pace::default(),
        }
    }

    /// Entries that have arrived, and how many the pack declares.
    #[must_use]
    pub fn progress(&self) -> (u32, u32) {
        (self.done, self.total)
    }

    /// Bytes of the pack that were taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Bytes that were made of it, as [`Limits::unpacked_bytes`] counts them.
    #[must_use]
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Whether the pack is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Takes the next piece of the pack, of any length.
    ///
    /// # Errors
    ///
    /// The pack is damaged or exceeds the limits. The unpacker is of no more use then.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), PackError> {
        let limit = self.limits.pack_bytes;
        if self.offset + piece.len() as u64 > limit {
            return Err(PackError::Limit { name: "pack_bytes", limit });
        }
        let mut input = piece;
        while !input.is_empty() {
            match &self.state {
                State::PackHeader => self.pack_header(&mut input)?,
                State::EntryHeader => self.entry_header(&mut input)?,
                State::Data(_) => self.data(&mut input).await?,
                State::Trailer => self.trailer(&mut input)?,
                State::End => return Err(PackError::Trailing),
            }
        }
        Ok(())
    }

    /// The objects, when the pack is complete.
    ///
    /// # Errors
    ///
    /// When it is not, or when a delta's base never came.
    pub fn finish(self) -> Result<Objects, PackError> {
        if !self.is_complete() {
            return Err(PackError::Truncated(self.offset));
        }
        let orphans: usize = self.waiting.values().map(Vec::len).sum();
        if orphans > 0 {
            return Err(PackError::MissingBase(orphans));
        }
        Ok(self.objects)
    }

    /// Moves bytes from `input` until `wanted` are gathered.
    fn gather(&mut self, input: &mut &[u8], wanted: usize) -> bool {
        let (taken, rest) = input.split_at(input.len().min(wanted - self.partial.len()));
        self.partial.extend_from_slice(taken);
        self.offset += taken.len() as u64;
        *input = rest;
        self.partial.len() == wanted
    }

    fn pack_header(&mut self, input: &mut &[u8]) -> Result<(), PackError> {
        if !self.gather(input, PACK_HEADER) {
            return Ok(());
        }
        let header = std::mem::take(&mut self.partial);
        self.checksum.update(&header);
        let version = number(&header[4..8]);
        if header[..4] != *b"PACK" || !(version == 2 || version == 3) {
            return Err(PackError::NotAPack);
        }
        self.total = number(&header[8..]);
        if self.total > self.limits.objects {
            let limit = u64::from(self.limits.objects);
            return Err(PackError::Limit { name: "objects", limit });
        }
        self.next_entry();
        Ok(())
    }

    fn next_entry(&mut self) {
        self.state = if self.done == self.total { State::Trailer } else { State::EntryHeader };
    }

    fn entry_header(&mut self, input: &mut &[u8]) -> Result<(), PackError> {
        let wanted = self.partial.len() + 1;
        self.gather(input, wanted);
        let offset = self.offset - self.partial.len() as u64;
        let Some((kind, size, base)) = entry_header(&self.partial, offset, self.hash)? else {
            return Ok(());
        };
        self.checksum.update(&self.partial);
        self.partial.clear();
        self.allow(size + OBJECT_OVERHEAD)?;
        let size = usize::try_from(size).map_err(|_| PackError::EntryHeader(offset))?;
        let content = match (kind, base) {
            (Some(kind), _) => Content::Whole(kind, ObjectHasher::new(self.hash, kind, size)),
            (None, Some(base)) => Content::Delta(base),
            (None, None) => return Err(PackError::EntryHeader(offset)),
        };
        self.inflate.reset(true);
        // Zeroed memory comes untouched from the allocator, and the size is within the limit.
        self.state = State::Data(Entry { offset, content, data: vec![0; size], filled: 0 });
        Ok(())
    }

    /// Accounts for `bytes` of memory that an object is about to take.
    fn allow(&mut self, bytes: u64) -> Result<(), PackError> {
        let limit = self.limits.unpacked_bytes;
        self.unpacked = self
            .unpacked
            .checked_add(bytes)
            .filter(|sum| *sum <= limit)
            .ok_or(PackError::Limit { name: "unpacked_bytes", limit })?;
        Ok(())
    }

    async fn data(&mut self, input: &mut &[u8]) -> Result<(), PackError> {
        let State::Data(entry) = &mut self.state else {
            return Ok(());
        };
        let damaged = PackError::Data(entry.offset);
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let piece = &input[..input.len().min(SLICE)];
        // A full object still needs room for a byte that must not come, so that the stream's end is seen.
        let mut spare = [0_u8];
        let window_end = entry.data.len().min(entry.filled + SLICE);
        let is_full = entry.filled == entry.data.len();
        let window =
            if is_full { &mut spare[..] } else { &mut entry.data[entry.filled..window_end] };
        let status = self
            .inflate
            .decompress(piece, window, InflateFlush::NoFlush)
            .map_err(|_| PackError::Data(entry.offset))?;
        let taken = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX);
        let made = usize::try_from(self.inflate.total_out() - before_out).unwrap_or(usize::MAX);
        if is_full && made > 0 {
            return Err(damaged);
        }
        let new = entry.filled..entry.filled + made;
        if let Content::Whole(_, hasher) = &mut entry.content {
            hasher.update(&entry.data[new.clone()]);
        }
        entry.filled = new.end;
        self.checksum.update(&piece[..taken]);
        self.offset += taken as u64;
        *input = &input[taken..];
        self.pace.spend(taken + made).await;
        if status != Status::StreamEnd {
            // With input and room at hand, no progress means that there never will be any.
            return if taken == 0 && made == 0 { Err(damaged) } else { Ok(()) };
        }
        let State::Data(entry) = std::mem::replace(&mut self.state, State::EntryHeader) else {
            return Ok(());
        };
        if entry.filled != entry.data.len() {
            return Err(damaged);
        }
        self.done += 1;
        self.next_entry();
        self.complete(entry).await
    }

    /// Takes a complete entry: keeps it when it is an object, applies it when it is a delta whose base is there.
    async fn complete(&mut self, entry: Entry) -> Result<(), PackError> {
        let base = match entry.content {
            Content::Whole(kind, hasher) => {
                let object = Object { kind, data: Bytes::from(entry.data) };
                return self.keep(entry.offset, hasher.finish()?, object).await;
            }
            Content::Delta(base) => base,
        };
        let waiting = Waiting { offset: entry.offset, delta: entry.data };
        let found = match &base {
            Base::Offset(offset) => self.ids.get(offset).and_then(|id| self.objects.get(id)),
            Base::Id(id) => {
                self.objects.get(id).or_else(|| self.known.and_then(|known| known.get(id)))
            }
        };
        if let Some(object) = found.cloned() {
            let (id, object) = self.resolve(&object, &waiting).await?;
            return self.keep(waiting.offset, id, object).await;
        }
        self.waiting.entry(base).or_default().push(waiting);
        Ok(())
    }

    /// Keeps an object, and then everything that was waiting for it, directly or not.
    async fn keep(&mut self, offset: u64, id: ObjectId, object: Object) -> Result<(), PackError> {
        let mut ready = vec![(offset, id, object)];
        while let Some((offset, id, object)) = ready.pop() {
            let by_offset = self.waiting.remove(&Base::Offset(offset)).unwrap_or_default();
            let by_id = self.waiting.remove(&Base::Id(id)).unwrap_or_default();
            for waiting in by_offset.into_iter().chain(by_id) {
                let (id, object) = self.resolve(&object, &waiting).await?;
                ready.push((waiting.offset, id, object));
            }
            self.ids.insert(offset, id);
            // What the previous generation has already is not kept twice.
            let known = self.known.and_then(|known| known.get(&id)).cloned();
            self.objects.entry(id).or_insert_with(|| known.unwrap_or(object));
        }
        Ok(())
    }

    async fn resolve(
        &mut self,
        base: &Object,
        waiting: &Waiting,
    ) -> Result<(ObjectId, Object), PackError> {
        let wrong = |error| PackError::Delta { offset: waiting.offset, error };
        let delta = Delta::parse(&waiting.delta).map_err(wrong)?;
        self.allow(delta.result_size)?;
        let applied = delta.apply(&base.data, base.kind, self.hash, &mut self.pace).await;
        let (data, hasher) = applied.map_err(wrong)?;
        Ok((hasher.finish()?, Object { kind: base.kind, data: Bytes::from(data) }))
    }

    fn trailer(&mut self, input: &mut &[u8]) -> Result<(), PackError> {
        if !self.gather(input, self.hash.len_in_bytes()) {
            return Ok(());
        }
        let computed = self.checksum.clone().try_finalize().map_err(|_| PackError::Collision)?;
        if computed.as_slice() != self.partial.as_slice() {
            return Err(PackError::Checksum);
        }
        self.state = State::End;
        Ok(())
    }
}

/// Reads an entry's type, size and base once all bytes of them are in `bytes`.
#[expect(clippy::type_complexity, reason = "a private triple that is taken apart at once")]
fn entry_header(
    bytes: &[u8],
    offset: u64,
    hash: HashKind,
) -> Result<Option<(Option<ObjectKind>, u64, Option<Base>)>, PackError> {
    let Some((&first, mut rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut size = u64::from(first & 0x0f);
    let mut shift = 4;
    let mut more = first & 0x80 != 0;
    while more {
        let Some((&byte, after)) = rest.split_first() else {
            return Ok(None);
        };
        rest = after;
        if shift > 53 {
            return Err(PackError::EntryHeader(offset));
        }
        size |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        more = byte & 0x80 != 0;
    }
    let kind = match (first >> 4) & 7 {
        1 => ObjectKind::Commit,
        2 => ObjectKind::Tree,
        3 => ObjectKind::Blob,
        4 => ObjectKind::Tag,
        6 => {
            let Some(distance) = distance(rest, offset)? else {
                return Ok(None);
            };
            let base = offset
                .checked_sub(distance)
                .filter(|base| distance > 0 && *base >= PACK_HEADER as u64)
                .ok_or(PackError::BaseOutside(offset))?;
            return Ok(Some((None, size, Some(Base::Offset(base)))));
        }
        7 => {
            if rest.len() < hash.len_in_bytes() {
                return Ok(None);
            }
            let id = ObjectId::try_from(rest).map_err(|_| PackError::EntryHeader(offset))?;
            return Ok(Some((None, size, Some(Base::Id(id)))));
        }
        number => return Err(PackError::UnknownType { offset, number }),
    };
    Ok(Some((Some(kind), size, None)))
}

/// The distance back to a delta's base: seven bits per byte, the most significant first, each continuation plus one.
fn distance(rest: &[u8], offset: u64) -> Result<Option<u64>, PackError> {
    let mut value = 0_u64;
    for (index, &byte) in rest.iter().enumerate() {
        if index > 8 {
            return Err(PackError::EntryHeader(offset));
        }
        if index > 0 {
            value += 1;
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, byte| (value << 8) | u32::from(*byte))
}

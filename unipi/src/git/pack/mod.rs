//! Packs (gitformat-pack): many objects in one stream, some of them as deltas of others.
//!
//! A pack is unpacked while it arrives, so that it never lies in memory as a whole: [`Unpacker::push`] takes the pieces.
//! Deltas whose base is not there yet wait for it by offset or id; each is applied exactly once, when its base is
//! complete, so the work is linear in what was sent plus what it unpacks to. Nothing here recurses.

mod delta;
mod unpack;
mod write;

pub use delta::DeltaError;
pub use unpack::{OBJECT_OVERHEAD, Unpacker};
pub use write::write;

use super::{ObjectId, ObjectKind};

/// Why a pack is refused. Every case but [`PackError::Limit`] means damage or malice on the sender's side.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackError {
    /// It does not begin with `PACK` and a known version.
    #[error("it does not begin as a pack of version 2 or 3")]
    NotAPack,
    /// An entry has a type number that does not exist.
    #[error("the entry at {offset} has the unknown type {number}")]
    UnknownType {
        /// Where, in bytes from the pack's start.
        offset: u64,
        /// The type number.
        number: u8,
    },
    /// An entry's size or base distance is longer than any real one.
    #[error("the entry at {0} has an oversized header")]
    EntryHeader(u64),
    /// A delta's base would lie before the pack's start or in itself.
    #[error("the delta at {0} names a base outside the pack")]
    BaseOutside(u64),
    /// An entry's compressed data is damaged, or longer or shorter than declared.
    #[error("the data of the entry at {0} is damaged")]
    Data(u64),
    /// A delta's instructions are wrong.
    #[error("the delta at {offset} is wrong: {error}")]
    Delta {
        /// Where, in bytes from the pack's start.
        offset: u64,
        /// What is wrong.
        error: DeltaError,
    },
    /// Deltas whose base never came.
    #[error("{0} deltas have no base")]
    MissingBase(usize),
    /// The pack ends early.
    #[error("it ends after {0} bytes, too early")]
    Truncated(u64),
    /// There are bytes after the pack's end.
    #[error("something follows its end")]
    Trailing,
    /// The checksum at its end does not fit its content.
    #[error("its checksum does not fit")]
    Checksum,
    /// An object that is made to collide with another under SHA-1.
    #[error("it contains an object crafted for a hash collision")]
    Collision,
    /// A limit of [`super::Limits`] was met.
    #[error("{}", super::limits::exceeded(name, *limit))]
    Limit {
        /// The limit's name, as the field of [`super::Limits`].
        name: &'static str,
        /// Its value.
        limit: u64,
    },
}

/// Computes an object's id piece by piece.
pub(super) struct ObjectHasher(gix_hash::Hasher);

impl ObjectHasher {
    pub(super) fn new(hash: gix_hash::Kind, kind: ObjectKind, size: usize) -> Self {
        let mut hasher = gix_hash::hasher(hash);
        hasher.update(&gix_object::encode::loose_header(kind, size as u64));
        Self(hasher)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Result<ObjectId, PackError> {
        self.0.try_finalize().map_err(|_| PackError::Collision)
    }
}

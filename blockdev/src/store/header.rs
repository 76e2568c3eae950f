//! The store's own two header sectors, before redb's area: what this device is, and how long redb's file is.
//!
//! redb believes it has a file whose length changes; a device has none, so the length is kept here. The two copies are
//! written in turn, each with a higher generation; the valid one with the highest generation counts. A crash during a
//! write therefore leaves the one before.

use sha2::{Digest, Sha256};

use crate::device::{BlockDevice, DeviceError};

const MAGIC: &[u8; 8] = b"\x89bdstore";
/// The version of the format that this program writes and reads.
const VERSION: u32 = 1;
/// Offsets of the fields, integers little-endian.
mod field {
    pub(super) const VERSION: usize = 8;
    pub(super) const STATE: usize = 12;
    pub(super) const GENERATION: usize = 16;
    pub(super) const LENGTH: usize = 24;
    pub(super) const DIGEST: usize = 32;
    pub(super) const END: usize = 64;
}

/// Whether the first transaction was completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Formatting has begun. There is nothing in it that anyone relies on.
    Creating,
    /// In use.
    Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) state: State,
    pub(super) generation: u64,
    /// Bytes of redb's emulated file.
    pub(super) length: u64,
}

/// What the header sectors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// No trace of a store.
    Nothing,
    /// Our magic, but no valid copy.
    Damaged,
    /// A format of the future.
    Newer(u32),
    /// The copy that counts.
    Valid(Header),
}

/// Bytes of one header copy: redb's page size, or a sector where that is larger.
pub(super) fn slot_len(device: &dyn BlockDevice) -> u64 {
    u64::from(device.sector_size()).max(4096)
}

/// Where redb's area begins.
pub(super) fn area_start(device: &dyn BlockDevice) -> u64 {
    2 * slot_len(device)
}

impl Header {
    pub(super) fn find(device: &dyn BlockDevice) -> Result<Found, DeviceError> {
        let mut found = Found::Nothing;
        for slot in 0..2 {
            let offset = slot * slot_len(device);
            if offset + slot_len(device) > device.capacity() {
                break;
            }
            let mut sector = vec![0; device.sector_size() as usize];
            device.read(offset, &mut sector)?;
            found = match (found, Self::parse(&sector)) {
                (Found::Valid(a), Found::Valid(b)) if b.generation < a.generation => {
                    Found::Valid(a)
                }
                (_, Found::Valid(b)) => Found::Valid(b),
                (Found::Nothing, other) => other,
                (Found::Damaged, other @ Found::Newer(_)) => other,
                (found, _) => found,
            };
        }
        Ok(found)
    }

    fn parse(sector: &[u8]) -> Found {
        if !sector.starts_with(MAGIC) || sector.len() < field::END {
            return Found::Nothing;
        }
        if Sha256::digest(&sector[..field::DIGEST]).as_slice() != &sector[field::DIGEST..field::END]
        {
            return Found::Damaged;
        }
        let u32_at = |at: usize| sector[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        let u64_at = |at: usize| sector[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let state = match (u32_at(field::VERSION), u32_at(field::STATE)) {
            (VERSION, 1) => State::Creating,
            (VERSION, 2) => State::Ready,
            (VERSION, _) => return Found::Damaged,
            (newer, _) => return Found::Newer(newer),
        };
        Found::Valid(Self {
            state,
            generation: u64_at(field::GENERATION),
            length: u64_at(field::LENGTH),
        })
    }

    /// Writes this header into the slot of its generation, and makes it durable.
    pub(super) fn write(&self, device: &dyn BlockDevice) -> Result<(), DeviceError> {
        let mut sector = vec![0; device.sector_size() as usize];
        sector[..MAGIC.len()].copy_from_slice(MAGIC);
        let state: u32 = match self.state {
            State::Creating => 1,
            State::Ready => 2,
        };
        sector[field::VERSION..field::STATE].copy_from_slice(&VERSION.to_le_bytes());
        sector[field::STATE..field::GENERATION].copy_from_slice(&state.to_le_bytes());
        sector[field::GENERATION..field::LENGTH].copy_from_slice(&self.generation.to_le_bytes());
        sector[field::LENGTH..field::DIGEST].copy_from_slice(&self.length.to_le_bytes());
        let digest = Sha256::digest(&sector[..field::DIGEST]);
        sector[field::DIGEST..field::END].copy_from_slice(&digest);
        device.write(self.generation % 2 * slot_len(device), &sector)?;
        device.flush()
    }
}

//! The superblock: one sector that says where the data begins, how long it is and what it hashes to.

use sha2::{Digest, Sha256};

use super::{Copy, V1Error};
use crate::device::BlockDevice;

/// Version, big-endian u16, always 1.
const VERSION: usize = 0;
/// Number of superblock writes, big-endian u64.
const COUNTER: usize = 8;
/// When it was written, in the original's units.
const TIMESTAMP: usize = 16;
/// First data sector, 0 for none.
const FIRST: usize = 24;
/// Data length in bytes.
const LENGTH: usize = 32;
/// SHA-256 of the data.
const DATA_DIGEST: usize = 40;
/// The last bytes of the sector: SHA-256 of all bytes before them.
const DIGEST_LEN: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) counter: u64,
    pub(super) timestamp: u64,
    pub(super) first: u64,
    pub(super) length: u64,
    pub(super) digest: [u8; DIGEST_LEN],
}

impl Superblock {
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        let (content, digest) = sector.split_at_checked(sector.len().checked_sub(DIGEST_LEN)?)?;
        let version = content.get(VERSION..VERSION + 2)?;
        if version != [0, 1] || Sha256::digest(content).as_slice() != digest {
            return None;
        }
        Some(Self {
            counter: number(content, COUNTER)?,
            timestamp: number(content, TIMESTAMP)?,
            first: number(content, FIRST)?,
            length: number(content, LENGTH)?,
            digest: content.get(DATA_DIGEST..DATA_DIGEST + DIGEST_LEN)?.try_into().ok()?,
        })
    }

    pub(super) fn emit(&self, sector_size: usize) -> Vec<u8> {
        let mut content = vec![0; sector_size - DIGEST_LEN];
        content[VERSION..VERSION + 2].copy_from_slice(&1u16.to_be_bytes());
        for (at, value) in [
            (COUNTER, self.counter),
            (TIMESTAMP, self.timestamp),
            (FIRST, self.first),
            (LENGTH, self.length),
        ] {
            content[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        content[DATA_DIGEST..DATA_DIGEST + DIGEST_LEN].copy_from_slice(&self.digest);
        let digest = Sha256::digest(&content);
        content.extend_from_slice(&digest);
        content
    }
}

/// The copy that counts, and which one should be rewritten, if any.
///
/// Equal counters: either. Otherwise the newer one, or the only valid one.
pub(super) fn select(device: &dyn BlockDevice) -> Result<(Superblock, Option<Copy>), V1Error> {
    let sectors = device.sectors();
    if sectors < 2 {
        return Err(V1Error::NoSuperblock);
    }
    let first = Superblock::parse(&read_sector(device, 0)?);
    let last = Superblock::parse(&read_sector(device, sectors - 1)?);
    match (first, last) {
        (None, None) => Err(V1Error::NoSuperblock),
        (Some(first), None) => Ok((first, Some(Copy::Last))),
        (None, Some(last)) => Ok((last, Some(Copy::First))),
        (Some(first), Some(last)) => Ok(match first.counter.cmp(&last.counter) {
            std::cmp::Ordering::Equal => (first, None),
            std::cmp::Ordering::Less => (last, Some(Copy::First)),
            std::cmp::Ordering::Greater => (first, Some(Copy::Last)),
        }),
    }
}

pub(super) fn read_sector(device: &dyn BlockDevice, sector: u64) -> Result<Vec<u8>, V1Error> {
    let mut buffer = vec![0; device.sector_size() as usize];
    device.read(sector.saturating_mul(u64::from(device.sector_size())), &mut buffer)?;
    Ok(buffer)
}

pub(super) fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

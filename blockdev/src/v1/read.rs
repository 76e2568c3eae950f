//! Reading: the superblock that counts, then the chain of data sectors, all of it bounded by the device.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::superblock::{Superblock, number, read_sector, select};
use super::{Copy, MAX_DATA_LEN, V1Error};
use crate::device::BlockDevice;

/// Bytes of a data sector that hold the number of the next one.
pub(super) const LINK_LEN: usize = 8;

/// What a device of the original's holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1Image {
    /// How often the superblock was written.
    pub counter: u64,
    /// When it was last written, in the original's units (see [`timestamp`](super::timestamp)).
    pub timestamp: u64,
    /// The data: DER, or nothing on a fresh device.
    pub data: Vec<u8>,
    /// The copy of the superblock that is older than the other or damaged. Harmless: the original rewrites it.
    pub stale: Option<Copy>,
}

/// Whether the device carries a valid superblock of the original's. Its data may still be damaged.
///
/// # Errors
/// [`V1Error::Device`] when it cannot be read.
pub fn probe(device: &dyn BlockDevice) -> Result<bool, V1Error> {
    match select(device) {
        Ok(_) => Ok(true),
        Err(V1Error::NoSuperblock) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads the data and proves it by its checksum. Never writes.
///
/// # Errors
/// What is wrong with superblock, chain or data. Memory and time are bounded by the device's size and
/// [`MAX_DATA_LEN`].
pub fn read(device: &dyn BlockDevice) -> Result<V1Image, V1Error> {
    let (superblock, stale) = select(device)?;
    let mut data = Vec::new();
    for sector in chain(device, &superblock)? {
        data.extend_from_slice(&read_sector(device, sector)?[LINK_LEN..]);
    }
    data.truncate(usize::try_from(superblock.length).unwrap_or(usize::MAX));
    // A fresh device of the original's has no data and no digest of it.
    if superblock.length > 0 && Sha256::digest(&data).as_slice() != superblock.digest {
        return Err(V1Error::Checksum);
    }
    let Superblock { counter, timestamp, .. } = superblock;
    Ok(V1Image { counter, timestamp, data, stale })
}

/// The numbers of the data sectors, in the order of the data.
pub(super) fn chain(
    device: &dyn BlockDevice,
    superblock: &Superblock,
) -> Result<Vec<u64>, V1Error> {
    let payload = u64::from(device.sector_size()) - LINK_LEN as u64;
    let last = device.sectors().saturating_sub(2);
    let (length, most) = (superblock.length, last.saturating_mul(payload).min(MAX_DATA_LEN));
    if length > most {
        return Err(V1Error::Length { length, most });
    }
    let mut sectors = Vec::new();
    let mut seen = HashSet::new();
    let mut next = superblock.first;
    while next != 0 {
        if next > last {
            return Err(V1Error::OutOfRange { sector: next, last });
        }
        if !seen.insert(next) {
            return Err(V1Error::Loop(next));
        }
        sectors.push(next);
        if sectors.len() as u64 > length.div_ceil(payload) {
            break;
        }
        next = number(&read_sector(device, next)?, 0).unwrap_or(0);
    }
    if sectors.len() as u64 != length.div_ceil(payload) {
        return Err(V1Error::ChainLength { found: sectors.len() as u64 * payload, length });
    }
    Ok(sectors)
}

//! Writing, in the original's order: data into free sectors, then the superblock in the last sector, then the first.
//!
//! A crash at any point leaves the data before or after, because a superblock only ever names sectors that are already
//! durable, and the sectors that the other copy names are not touched.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::read::{LINK_LEN, chain, read};
use super::superblock::{Superblock, select};
use super::{MAX_DATA_LEN, V1Error};
use crate::device::BlockDevice;

/// The original's timestamp: days × 86,000 × 10⁹ + nanoseconds of the day. A day of 86,000 seconds is a slip of the
/// original's, kept because it is on disks; it only informs.
pub fn timestamp(seconds_since_1970: u64, nanoseconds: u32) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let (day, second) = (seconds_since_1970 / 86_400, seconds_since_1970 % 86_400);
    day.saturating_mul(86_000 * SECOND)
        .saturating_add(second * SECOND)
        .saturating_add(u64::from(nanoseconds))
}

/// Writes `data` so that the original can read it, with `counter` in both copies of the superblock and
/// [`timestamp`] of now as `now`.
///
/// The sectors of data that is there are spared until the new ones are durable, when `counter` is larger than the one
/// on the device; any other content of the device is overwritten without asking.
///
/// # Errors
/// [`V1Error::TooSmall`] before anything is written, [`V1Error::Length`] above [`MAX_DATA_LEN`], or the device's.
pub fn write(device: &dyn BlockDevice, data: &[u8], counter: u64, now: u64) -> Result<(), V1Error> {
    place(device, data, counter, now, &mut free_sectors(device)?.into_iter())?;
    Ok(())
}

/// Writes the data that is on the device once more, into the last free sectors, and returns the number of the first
/// sector that is now needed. Everything before it may be overwritten: the copy in the last sector still names the data.
pub(crate) fn relocate(device: &dyn BlockDevice) -> Result<u64, V1Error> {
    let image = read(device)?;
    let counter = image.counter.saturating_add(1);
    let mut free = free_sectors(device)?.into_iter().rev();
    let used = place(device, &image.data, counter, image.timestamp, &mut free)?;
    Ok(used.into_iter().min().unwrap_or_else(|| device.sectors() - 1))
}

fn place(
    device: &dyn BlockDevice,
    data: &[u8],
    counter: u64,
    timestamp: u64,
    free: &mut dyn ExactSizeIterator<Item = u64>,
) -> Result<Vec<u64>, V1Error> {
    if data.len() as u64 > MAX_DATA_LEN {
        return Err(V1Error::Length { length: data.len() as u64, most: MAX_DATA_LEN });
    }
    let sector_size = device.sector_size() as usize;
    let needed = data.len().div_ceil(sector_size - LINK_LEN);
    if needed > free.len() {
        return Err(V1Error::TooSmall { needed: needed as u64, free: free.len() as u64 });
    }
    let sectors: Vec<u64> = free.take(needed).collect();
    for (index, piece) in data.chunks(sector_size - LINK_LEN).enumerate() {
        let next = sectors.get(index + 1).copied().unwrap_or(0);
        let mut sector = next.to_be_bytes().to_vec();
        sector.extend_from_slice(piece);
        sector.resize(sector_size, 0);
        write_sector(device, sectors[index], &sector)?;
    }
    device.flush()?;
    let superblock = Superblock {
        counter,
        timestamp,
        first: sectors.first().copied().unwrap_or(0),
        length: data.len() as u64,
        digest: Sha256::digest(data).into(),
    }
    .emit(sector_size);
    for sector in [device.sectors() - 1, 0] {
        write_sector(device, sector, &superblock)?;
        device.flush()?;
    }
    Ok(sectors)
}

/// The data sectors that the current superblock does not name, in ascending order.
fn free_sectors(device: &dyn BlockDevice) -> Result<Vec<u64>, V1Error> {
    if device.sectors() < 2 {
        return Err(V1Error::TooSmall { needed: 2, free: device.sectors() });
    }
    let used: HashSet<u64> = match select(device) {
        // A damaged chain holds nothing that could be spared.
        Ok((superblock, _)) => chain(device, &superblock).unwrap_or_default().into_iter().collect(),
        Err(V1Error::NoSuperblock) => HashSet::new(),
        Err(error) => return Err(error),
    };
    // The data never needs more than this many sectors beside the ones in use.
    let payload = u64::from(device.sector_size()) - LINK_LEN as u64;
    let enough = MAX_DATA_LEN.div_ceil(payload) + used.len() as u64;
    let last = device.sectors() - 1;
    let candidates: Vec<u64> = match last.saturating_sub(1) <= 2 * enough {
        true => (1..last).collect(),
        // On a huge device both ends are offered, not millions of sectors between them.
        false => (1..=enough).chain(last - enough..last).collect(),
    };
    Ok(candidates.into_iter().filter(|sector| !used.contains(sector)).collect())
}

fn write_sector(device: &dyn BlockDevice, sector: u64, bytes: &[u8]) -> Result<(), V1Error> {
    Ok(device.write(sector * u64::from(device.sector_size()), bytes)?)
}

//! The device: an array of sectors, of which only whole ones are read and written.
//!
//! A write is durable once a later [`BlockDevice::flush`] has returned without error. Until then a crash may keep any
//! part of it, and parts of different writes in any order; a sector's 512-byte pieces are each old or new.

mod fault;
mod file;
mod memory;

use std::fmt;

pub use fault::{FaultDevice, FaultPlan, SplitMix64};
pub use file::FileDevice;
pub use memory::MemoryDevice;

/// The smallest sector, in bytes; every sector size is a power-of-two multiple of it.
pub const MIN_SECTOR_SIZE: u32 = 512;
/// The largest sector, in bytes.
pub const MAX_SECTOR_SIZE: u32 = 65_536;

/// A block device.
///
/// Offsets and lengths are in bytes and must be multiples of the sector size; [`check_range`] says so for every
/// implementation alike. All calls may come from several threads at once; concurrent writes to one sector leave either.
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Bytes per sector: a power of two from [`MIN_SECTOR_SIZE`] to [`MAX_SECTOR_SIZE`].
    fn sector_size(&self) -> u32;

    /// Number of whole sectors.
    fn sectors(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset`.
    ///
    /// # Errors
    /// [`DeviceError::Range`] for a bad range, otherwise what the device answers.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceError>;

    /// Writes `data` at `offset`. It is durable after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// As [`read`](Self::read); after an error the range holds old and new sectors in any mixture.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError>;

    /// Makes every write that has returned durable.
    ///
    /// # Errors
    /// What the device answers; it is then unknown which writes are durable.
    fn flush(&self) -> Result<(), DeviceError>;

    /// Size in bytes.
    fn capacity(&self) -> u64 {
        self.sectors().saturating_mul(u64::from(self.sector_size()))
    }
}

/// Why a device did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The caller's mistake: outside the device, or not whole sectors.
    #[error("{length} bytes at {offset} are not whole sectors within a device of {capacity} bytes")]
    Range {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Bytes in the device.
        capacity: u64,
    },
    /// Another process uses the device.
    #[error(
        "another process uses {0}: stop it first (for a disk: unmount it), or give this one a storage of its own"
    )]
    Locked(String),
    /// There is no such file, and creating it was not asked for.
    #[error("{0} does not exist: check the path, or ask for it to be created with a size")]
    Missing(String),
    /// The storage under the device has no room left (a sparse file on a full disk).
    #[error("the storage under the device is full: free space on it")]
    Full,
    /// The device or the system failed.
    #[error("{doing}: {message}")]
    Io {
        /// What was being done, with the path where there is one.
        doing: String,
        /// What the system said.
        message: String,
        /// The kind, for programs.
        kind: std::io::ErrorKind,
    },
}

impl DeviceError {
    /// Wraps what the system said while `doing` something.
    pub fn io(doing: impl Into<String>, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
            kind => Self::Io { doing: doing.into(), message: error.to_string(), kind },
        }
    }
}

/// Checks that a request covers whole sectors inside `device`.
///
/// # Errors
/// [`DeviceError::Range`] when it does not.
pub fn check_range(
    device: &(impl BlockDevice + ?Sized),
    offset: u64,
    length: usize,
) -> Result<(), DeviceError> {
    let sector = u64::from(device.sector_size());
    let (length, capacity) = (length as u64, device.capacity());
    let fits = offset.checked_add(length).is_some_and(|end| end <= capacity);
    if fits && offset.is_multiple_of(sector) && length.is_multiple_of(sector) {
        Ok(())
    } else {
        Err(DeviceError::Range { offset, length, capacity })
    }
}

/// Whether a number can be a sector size.
pub fn is_sector_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (MIN_SECTOR_SIZE..=MAX_SECTOR_SIZE).contains(&bytes)
}

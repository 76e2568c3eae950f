//! The block layout of the original tlstunnel (version 1): read for migration, written for export.
//!
//! Two copies of a superblock, in the first and in the last sector, name a chain of data sectors. This module knows
//! sectors, superblocks and the chain; what the data means (DER) is not its business. Reading never writes: a stale or
//! damaged copy is reported, not repaired.

mod read;
mod superblock;
mod write;

pub use read::{V1Image, probe, read};
pub use write::{timestamp, write};

pub(crate) use write::relocate;

use crate::device::DeviceError;

/// The most data, in bytes, that is read or written. The original held a few kilobytes.
pub const MAX_DATA_LEN: u64 = 64 << 20;

/// One of the two copies of the superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// The one in the first sector.
    First,
    /// The one in the last sector.
    Last,
}

/// Why a device does not hold readable data of the original's, or cannot take it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum V1Error {
    /// Neither copy of the superblock is valid: it is another content, or both are damaged.
    #[error("there is no valid v1 superblock in the first or the last sector")]
    NoSuperblock,
    /// The superblock claims more data than the device or this program holds.
    #[error("the superblock claims {length} bytes of data, of which at most {most} can be")]
    Length {
        /// Bytes claimed.
        length: u64,
        /// The most that can be.
        most: u64,
    },
    /// The chain leaves the data sectors.
    #[error("the data chain leads to sector {sector}, outside the data sectors 1 to {last}")]
    OutOfRange {
        /// Where it leads.
        sector: u64,
        /// The last data sector.
        last: u64,
    },
    /// The chain comes back to a sector.
    #[error("the data chain comes back to sector {0}")]
    Loop(u64),
    /// The chain is longer or shorter than the data.
    #[error("the data chain ends after {found} bytes, where {length} are claimed")]
    ChainLength {
        /// Bytes that the chain holds at most.
        found: u64,
        /// Bytes claimed.
        length: u64,
    },
    /// The data is not what was written.
    #[error("the data does not match its SHA-256 checksum: it is damaged")]
    Checksum,
    /// The data to write needs more sectors than are free.
    #[error("the data needs {needed} free sectors and there are {free}: use a larger device")]
    TooSmall {
        /// Sectors needed.
        needed: u64,
        /// Sectors free.
        free: u64,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

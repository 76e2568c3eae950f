//! What can go wrong, who is to blame, and what to do about it.

use crate::device::DeviceError;
use crate::v1::V1Error;

/// Why a transaction did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no room for what the transaction adds. Nothing changed, and the store goes on working.
    #[error(
        "the store is full ({capacity} bytes): delete something, which still works, or move to a larger device"
    )]
    Full {
        /// Bytes that the store can hold.
        capacity: u64,
    },
    /// The caller's mistake: a key or value beyond the limits.
    #[error("{what} of {length} bytes is longer than the limit of {limit}")]
    TooLong {
        /// `a key` or `a value`.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// The device failed. A read may be repeated. After a failed write, the transaction may or may not have happened:
    /// read to find out, or repeat it.
    #[error("the device of the store failed: {0}")]
    Device(#[from] DeviceError),
    /// What is on the device is not what was written.
    #[error("the store is damaged: {0}; restore it from an export, or format the device anew")]
    Corrupt(String),
    /// The engine stopped after a failure in another transaction. Repeat this one.
    #[error("the transaction was interrupted by a failure in another one: repeat it")]
    Interrupted,
}

/// Why a device was not opened as a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The device holds something else, which is left as it is.
    #[error(
        "the device holds no store; its content looks like {looks_like}. Nothing was changed: name the right device, or ask for it to be formatted, which erases it"
    )]
    Foreign {
        /// What the content seems to be.
        looks_like: String,
    },
    /// The device is blank and formatting it was not allowed.
    #[error("the device is blank: ask for it to be formatted")]
    Blank,
    /// The device cannot hold a store.
    #[error("the device has {capacity} bytes; a store needs at least {needed}: use a larger one")]
    TooSmall {
        /// Bytes in the device.
        capacity: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The device is smaller than when the store was written: it was cut off, or copied in part.
    #[error(
        "the device has {capacity} bytes, but its store reaches up to {needed}: it was cut off"
    )]
    Truncated {
        /// Bytes in the device.
        capacity: u64,
        /// Bytes that the store reaches up to.
        needed: u64,
    },
    /// The store is of a later version of this program.
    #[error("the store has format version {0}, which is newer than this program: update it")]
    Version(u32),
    /// The original's data could not be read, so nothing was changed.
    #[error("the original's data cannot be migrated: {0}")]
    V1(#[from] V1Error),
    /// Store or device failed on the way.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DeviceError> for OpenError {
    fn from(error: DeviceError) -> Self {
        Self::Store(error.into())
    }
}

impl StoreError {
    /// Whether redb's handle is of no more use after this.
    pub(super) fn is_fatal_for_handle(&self) -> bool {
        !matches!(self, Self::TooLong { .. })
    }
}

impl From<redb::StorageError> for StoreError {
    fn from(error: redb::StorageError) -> Self {
        match error {
            redb::StorageError::Io(error) => from_io(error),
            redb::StorageError::Corrupted(what) => Self::Corrupt(what),
            redb::StorageError::PreviousIo
            | redb::StorageError::DatabaseClosed
            | redb::StorageError::LockPoisoned(_) => Self::Interrupted,
            redb::StorageError::ValueTooLarge(length) => {
                Self::TooLong { what: "a value", length, limit: super::MAX_VALUE_LEN }
            }
            other => Self::Corrupt(other.to_string()),
        }
    }
}

fn from_io(error: std::io::Error) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(own) => own,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::Corrupt(error.to_string())
        }
        Err(error) => StoreError::Device(DeviceError::io("store", &error)),
    }
}

impl From<redb::TransactionError> for StoreError {
    fn from(error: redb::TransactionError) -> Self {
        match error {
            redb::TransactionError::Storage(error) => error.into(),
            _ => Self::Interrupted,
        }
    }
}

impl From<redb::CommitError> for StoreError {
    fn from(error: redb::CommitError) -> Self {
        match error {
            redb::CommitError::Storage(error) => error.into(),
            _ => Self::Interrupted,
        }
    }
}

impl From<redb::TableError> for StoreError {
    fn from(error: redb::TableError) -> Self {
        match error {
            redb::TableError::Storage(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

impl From<redb::DatabaseError> for StoreError {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::Storage(error) => error.into(),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

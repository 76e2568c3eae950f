//! Block devices: files and raw devices.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use hvt_abi::hypercall::{RESULT_INVALID, RESULT_OK, RESULT_UNSPECIFIED};
use hvt_abi::manifest::BlockProperties;
use vm_memory::VolatileSlice;

use super::{AttachError, Complaint, transfer};

/// A block device of the guest.
#[derive(Debug)]
pub struct BlockDevice {
    name: String,
    file: File,
    properties: BlockProperties,
    complaint: Complaint,
    traffic: Traffic,
}

/// What went through a device.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes that the guest read.
    pub read_bytes: AtomicU64,
    /// Bytes that it wrote.
    pub written_bytes: AtomicU64,
}

impl BlockDevice {
    /// Opens and locks a file or raw device.
    ///
    /// # Errors
    /// When it can't be opened for reading and writing, another process has locked it, or its size is not a multiple of
    /// the block size.
    pub fn open(name: &str, path: &Path, block_size: u16) -> Result<Self, AttachError> {
        let fail = |why: String| AttachError { what: format!("--block:{name}"), why };
        let shown = path.display();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| fail(format!("{shown}: {e}")))?;
        // SAFETY: the descriptor is open and the call touches no memory.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            return Err(fail(match error.kind() {
                io::ErrorKind::WouldBlock => {
                    format!("{shown} is in use by another process (it holds a lock)")
                }
                _ => format!("{shown} can't be locked: {error}"),
            }));
        }
        Self::new(name, file, block_size).map_err(|why| fail(format!("{shown}: {why}")))
    }

    /// A device of an open file.
    ///
    /// # Errors
    /// When the file's size is not a multiple of the block size, or it is empty.
    pub fn new(name: &str, mut file: File, block_size: u16) -> Result<Self, String> {
        let capacity = file.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
        let size = u64::from(block_size);
        if capacity < size || !capacity.is_multiple_of(size) {
            return Err(format!(
                "its size of {capacity} bytes is not a multiple of the block size {size}, at least one block; \
                 truncate -s makes a file of a size"
            ));
        }
        let properties = BlockProperties { capacity, block_size };
        let complaint = Complaint::about("block device", name);
        let traffic = Traffic::default();
        Ok(Self { name: name.to_owned(), file, properties, complaint, traffic })
    }

    /// Its name in the manifest.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What went through it.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What the guest learns of it.
    #[must_use]
    pub fn properties(&self) -> BlockProperties {
        self.properties
    }

    /// Whether `len` bytes at `offset` are within the device.
    #[must_use]
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        let capacity = self.properties.capacity;
        offset < capacity && offset.checked_add(len).is_some_and(|end| end <= capacity)
    }

    /// Fills the slice from the device. The answer is a result code of the ABI.
    pub fn read(&self, offset: u64, slice: &VolatileSlice<'_>) -> i32 {
        if !self.contains(offset, slice.len() as u64) {
            return RESULT_INVALID;
        }
        self.traffic.read_bytes.fetch_add(slice.len() as u64, Ordering::Relaxed);
        self.answer("read", transfer::read_exact_at(self.file.as_fd(), slice, offset))
    }

    /// Writes the slice to the device. The answer is a result code of the ABI.
    pub fn write(&self, offset: u64, slice: &VolatileSlice<'_>) -> i32 {
        if !self.contains(offset, slice.len() as u64) {
            return RESULT_INVALID;
        }
        self.traffic.written_bytes.fetch_add(slice.len() as u64, Ordering::Relaxed);
        self.answer("write", transfer::write_all_at(self.file.as_fd(), slice, offset))
    }

    /// Puts everything written onto stable storage. The answer is a result code of the ABI.
    pub fn flush(&self) -> i32 {
        self.answer("flush", self.file.sync_data())
    }

    fn answer(&self, what: &str, result: io::Result<()>) -> i32 {
        match result {
            Ok(()) => RESULT_OK,
            Err(error) => {
                self.complaint.once(what, &error);
                RESULT_UNSPECIFIED
            }
        }
    }
}

impl AsFd for BlockDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

//! A device in memory, for tests and for a gateway that keeps nothing.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use super::{BlockDevice, DeviceError, check_range, is_sector_size};

/// A device in memory; its content ends with it.
pub struct MemoryDevice {
    sector_size: u32,
    bytes: RwLock<Vec<u8>>,
    len: usize,
}

impl MemoryDevice {
    /// A device of zeros of at least `capacity` bytes, rounded up to whole sectors of 512 bytes.
    pub fn new(capacity: usize) -> Self {
        Self::from_image(vec![0; capacity.next_multiple_of(512)], 512)
    }

    /// A device that holds `image`, padded with zeros to whole sectors. A `sector_size` that no device can have counts
    /// as 512.
    pub fn from_image(mut image: Vec<u8>, sector_size: u32) -> Self {
        let sector_size = if is_sector_size(sector_size) { sector_size } else { 512 };
        image.resize(image.len().next_multiple_of(sector_size as usize), 0);
        Self { sector_size, len: image.len(), bytes: RwLock::new(image) }
    }

    /// A copy of the content.
    pub fn image(&self) -> Vec<u8> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl BlockDevice for MemoryDevice {
    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn sectors(&self) -> u64 {
        self.len as u64 / u64::from(self.sector_size)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        let start = self.index(offset, buffer.len())?;
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let start = self.index(offset, data.len())?;
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDevice").field("capacity", &self.len).finish_non_exhaustive()
    }
}

impl MemoryDevice {
    fn index(&self, offset: u64, length: usize) -> Result<usize, DeviceError> {
        check_range(self, offset, length)?;
        usize::try_from(offset).map_err(|_| DeviceError::Range {
            offset,
            length: length as u64,
            capacity: self.len as u64,
        })
    }
}

//! Any range of bytes on a device that transfers whole blocks.
//!
//! The middle of a range goes in one call straight from or to the caller's memory; a partial first or last block goes
//! through one block of bounce memory, read before it is written.

use core::fmt;

/// A device that transfers whole blocks. Ranges are checked by [`read()`] and [`write()`] before a call.
pub trait Blocks {
    /// Bytes in a block, a power of two.
    fn block_size(&self) -> usize;
    /// Size of the device in bytes, a multiple of the block size.
    fn capacity(&self) -> u64;
    /// Fills `buffer`, whole blocks, from `offset`, a multiple of the block size.
    ///
    /// # Errors
    /// [`DeviceFailed`] when the host reports an error.
    fn read_blocks(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceFailed>;
    /// Writes `data`, whole blocks, to `offset`, a multiple of the block size.
    ///
    /// # Errors
    /// [`DeviceFailed`] when the host reports an error.
    fn write_blocks(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceFailed>;
}

/// The host could not read or write its side of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFailed;

impl fmt::Display for DeviceFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host reports an error of the device")
    }
}

/// The largest block size, in bytes; the size of the bounce memory.
pub const MAX_BLOCK: usize = 32 * 1024;

/// Reads up to `buffer.len()` bytes from `offset` and says how many: fewer at the end of the device, none behind it.
///
/// # Errors
/// [`DeviceFailed`] when the device reports an error.
pub fn read(
    device: &mut impl Blocks,
    bounce: &mut [u8],
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize, DeviceFailed> {
    let total = clip(device.capacity(), offset, buffer.len());
    let mut done = 0;
    while done < total {
        let part = Part::next(device.block_size(), offset + done as u64, total - done);
        let target = &mut buffer[done..done + part.len];
        if part.whole {
            device.read_blocks(part.block, target)?;
        } else {
            let bounce = &mut bounce[..device.block_size()];
            device.read_blocks(part.block, bounce)?;
            target.copy_from_slice(&bounce[part.skip..part.skip + part.len]);
        }
        done += part.len;
    }
    Ok(total)
}

/// Writes up to `data.len()` bytes to `offset` and says how many: fewer at the end of the device, none behind it.
///
/// # Errors
/// [`DeviceFailed`] when the device reports an error; what lies in front of the failed block is then written.
pub fn write(
    device: &mut impl Blocks,
    bounce: &mut [u8],
    offset: u64,
    data: &[u8],
) -> Result<usize, DeviceFailed> {
    let total = clip(device.capacity(), offset, data.len());
    let mut done = 0;
    while done < total {
        let part = Part::next(device.block_size(), offset + done as u64, total - done);
        let source = &data[done..done + part.len];
        if part.whole {
            device.write_blocks(part.block, source)?;
        } else {
            let bounce = &mut bounce[..device.block_size()];
            device.read_blocks(part.block, bounce)?;
            bounce[part.skip..part.skip + part.len].copy_from_slice(source);
            device.write_blocks(part.block, bounce)?;
        }
        done += part.len;
    }
    Ok(total)
}

/// A piece of a range: whole blocks, or a part of one.
struct Part {
    block: u64,
    skip: usize,
    len: usize,
    whole: bool,
}

impl Part {
    fn next(block_size: usize, offset: u64, len: usize) -> Self {
        let size = block_size as u64;
        let block = offset - offset % size;
        // Less than a block, so it fits.
        let skip = usize::try_from(offset % size).unwrap_or(0);
        if skip == 0 && len >= block_size {
            return Self { block, skip, len: len - len % block_size, whole: true };
        }
        Self { block, skip, len: len.min(block_size - skip), whole: false }
    }
}

fn clip(capacity: u64, offset: u64, len: usize) -> usize {
    usize::try_from(capacity.saturating_sub(offset)).map_or(len, |room| room.min(len))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

    use proptest::prelude::*;

    use super::*;

    struct Disk {
        bytes: Vec<u8>,
        calls: usize,
        broken_from: u64,
    }

    impl Blocks for Disk {
        fn block_size(&self) -> usize {
            512
        }

        fn capacity(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_blocks(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceFailed> {
            self.check(offset, buffer.len())?;
            let start = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
            Ok(())
        }

        fn write_blocks(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceFailed> {
            self.check(offset, data.len())?;
            let start = usize::try_from(offset).unwrap();
            self.bytes[start..start + data.len()].copy_from_slice(data);
            Ok(())
        }
    }

    impl Disk {
        fn new(blocks: usize) -> Self {
            let bytes = (0..blocks * 512).map(|i| (i % 253) as u8).collect();
            Self { bytes, calls: 0, broken_from: u64::MAX }
        }

        fn check(&mut self, offset: u64, len: usize) -> Result<(), DeviceFailed> {
            self.calls += 1;
            assert!(offset.is_multiple_of(512) && len.is_multiple_of(512) && len > 0);
            if offset + len as u64 > self.broken_from { Err(DeviceFailed) } else { Ok(()) }
        }
    }

    proptest! {
        #[test]
        fn any_range_reads_and_writes_as_a_plain_array(
            operations in proptest::collection::vec((any::<bool>(), 0_u64..9000, 0_usize..5000, any::<u8>()), 1..30)
        ) {
            let mut disk = Disk::new(16);
            let mut model = disk.bytes.clone();
            let mut bounce = vec![0; MAX_BLOCK];
            for (is_write, offset, len, fill) in operations {
                let start = usize::try_from(offset).unwrap().min(model.len());
                let end = (start + len).min(model.len());
                if is_write {
                    let count = write(&mut disk, &mut bounce, offset, &vec![fill; len]).unwrap();
                    prop_assert_eq!(count, end - start);
                    model[start..end].fill(fill);
                    prop_assert_eq!(&disk.bytes, &model);
                } else {
                    let mut buffer = vec![0; len];
                    let count = read(&mut disk, &mut bounce, offset, &mut buffer).unwrap();
                    prop_assert_eq!(count, end - start);
                    prop_assert_eq!(&buffer[..count], &model[start..end]);
                }
            }
        }
    }

    #[test]
    fn aligned_blocks_go_in_one_call() {
        let mut disk = Disk::new(64);
        assert_eq!(read(&mut disk, &mut [], 512, &mut vec![0; 16 * 512]), Ok(16 * 512));
        assert_eq!(write(&mut disk, &mut [], 0, &vec![1; 64 * 512]), Ok(64 * 512));
        assert_eq!(disk.calls, 2);
    }

    #[test]
    fn a_failing_device_is_an_error() {
        let mut disk = Disk::new(8);
        disk.broken_from = 1024;
        let mut bounce = vec![0; MAX_BLOCK];
        assert_eq!(read(&mut disk, &mut bounce, 1000, &mut [0; 100]), Err(DeviceFailed));
        assert_eq!(write(&mut disk, &mut bounce, 0, &[9; 1100]), Err(DeviceFailed));
        assert!(disk.bytes[..1024].iter().all(|&byte| byte == 9));
    }
}

//! A regular file or a raw block device as a device.
//!
//! The file is locked exclusively as long as the device lives, so that two processes never write one storage. In the
//! unikernel guest a device of the manifest appears as a file under `/dev`, where locking and changing the size answer
//! ENOSYS: there this goes on without a lock, because nobody else is in that machine who could open it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{BlockDevice, DeviceError, MIN_SECTOR_SIZE, check_range, is_sector_size};

/// A file or raw block device, exclusively locked, written durably at [`flush`](BlockDevice::flush).
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
    sector_size: u32,
    capacity: AtomicU64,
}

impl FileDevice {
    /// Opens an existing file or block device; its size is the capacity, rounded down to whole sectors.
    ///
    /// # Errors
    /// [`DeviceError::Missing`], [`DeviceError::Locked`], or what the system answered.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DeviceError> {
        let path = path.as_ref();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        // O_EXCL without O_CREAT asks the kernel to refuse a block device that is mounted or otherwise claimed.
        if std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device()) {
            options.custom_flags(flag(OFlags::EXCL));
        }
        let file = options.open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => DeviceError::Missing(path.display().to_string()),
            io::ErrorKind::ResourceBusy => DeviceError::Locked(path.display().to_string()),
            _ => failed("open", path, &e),
        })?;
        Self::from_file(file, path)
    }

    /// Opens `path`, or creates it as a sparse file of `capacity` bytes (rounded up to whole sectors), readable by its
    /// owner alone. An existing file keeps its size, except that an empty one is given `capacity`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_or_create(path: impl AsRef<Path>, capacity: u64) -> Result<Self, DeviceError> {
        let path = path.as_ref();
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => {
                let device = Self::from_file(file, path)?;
                device.extend_to(capacity)?;
                sync_parent(path)?;
                Ok(device)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let device = Self::open(path)?;
                if device.capacity() == 0 {
                    device.extend_to(capacity)?;
                }
                Ok(device)
            }
            Err(e) => Err(failed("create", path, &e)),
        }
    }

    /// Grows a regular file to at least `capacity` bytes, rounded up to whole sectors; the new part reads as zeros and
    /// takes no space until written. Does nothing when it is large enough.
    ///
    /// # Errors
    /// What the system answered: a raw device cannot grow.
    pub fn extend_to(&self, capacity: u64) -> Result<(), DeviceError> {
        let wanted = capacity.next_multiple_of(u64::from(self.sector_size));
        if wanted > self.capacity() {
            self.file.set_len(wanted).map_err(|e| failed("grow", &self.path, &e))?;
            self.file.sync_all().map_err(|e| failed("flush", &self.path, &e))?;
            self.capacity.store(wanted, Ordering::Release);
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn from_file(mut file: File, path: &Path) -> Result<Self, DeviceError> {
        locked(file.try_lock(), path)?;
        let kind = file.metadata().map_err(|e| failed("examine", path, &e))?.file_type();
        if kind.is_dir() {
            return Err(failed("open", path, &io::Error::from(io::ErrorKind::IsADirectory)));
        }
        // Metadata says zero for a block device; the position of its end is its size, and a regular file's too.
        let bytes = file.seek(SeekFrom::End(0)).map_err(|e| failed("measure", path, &e))?;
        let sector_size = if kind.is_block_device() {
            rustix::fs::ioctl_blksszget(&file)
                .ok()
                .filter(|size| is_sector_size(*size))
                .unwrap_or(MIN_SECTOR_SIZE)
        } else {
            MIN_SECTOR_SIZE
        };
        let capacity = AtomicU64::new(bytes - bytes % u64::from(sector_size));
        Ok(Self { file, path: path.to_owned(), sector_size, capacity })
    }
}

impl BlockDevice for FileDevice {
    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn sectors(&self) -> u64 {
        self.capacity.load(Ordering::Acquire) / u64::from(self.sector_size)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        check_range(self, offset, buffer.len())?;
        self.file.read_exact_at(buffer, offset).map_err(|e| failed("read", &self.path, &e))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        check_range(self, offset, data.len())?;
        self.file.write_all_at(data, offset).map_err(|e| failed("write", &self.path, &e))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.file.sync_data().map_err(|e| failed("flush", &self.path, &e))
    }
}

/// Judges what the system said to the wish for an exclusive lock.
fn locked(outcome: Result<(), TryLockError>, path: &Path) -> Result<(), DeviceError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(DeviceError::Locked(path.display().to_string())),
        Err(TryLockError::Error(e)) if e.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {
            Ok(())
        }
        Err(TryLockError::Error(e)) => Err(failed("lock", path, &e)),
    }
}

/// A new file's name survives a crash only once its directory is flushed too.
fn sync_parent(path: &Path) -> Result<(), DeviceError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| failed("flush the directory", parent, &e))
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> DeviceError {
    DeviceError::io(format!("cannot {doing} {}", path.display()), error)
}

fn flag(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_system_without_locks_is_taken_without_a_lock() {
        let answer = |errno: Errno| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            locked(Err(TryLockError::Error(error)), Path::new("/dev/storage"))
        };
        assert_eq!(answer(Errno::NOSYS), Ok(()));
        assert!(matches!(answer(Errno::NOLCK), Err(DeviceError::Io { .. })));
        assert!(matches!(answer(Errno::OPNOTSUPP), Err(DeviceError::Io { .. })));
        assert_eq!(
            locked(Err(TryLockError::WouldBlock), Path::new("disk")),
            Err(DeviceError::Locked("disk".to_owned()))
        );
    }
}

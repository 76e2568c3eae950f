//! What the fuzz targets in `fuzz/` and the property tests call. Not part of the interface.

use std::sync::Arc;

use crate::device::{BlockDevice, MemoryDevice};
use crate::store::{OpenOptions, Store, StoreError, Table};
use crate::v1;

/// Overwrites bytes at any offset; what lies outside the device is ignored.
pub fn patch(device: &MemoryDevice, offset: u64, bytes: &[u8]) {
    let sector = u64::from(device.sector_size());
    let start = offset - offset % sector;
    let length = usize::try_from(offset - start).unwrap_or(0) + bytes.len();
    let mut buffer = vec![0; length.next_multiple_of(device.sector_size() as usize)];
    if device.read(start, &mut buffer).is_ok() {
        let within = length - bytes.len();
        buffer[within..length].copy_from_slice(bytes);
        let _ = device.write(start, &buffer);
    }
}

/// Reads a disk image as the original's, and when it is one, writes it back and compares.
pub fn v1_read(image: &[u8]) {
    let device = MemoryDevice::from_image(image.to_vec(), 512);
    if let Ok(read) = v1::read(&device)
        && v1::write(&device, &read.data, read.counter.saturating_add(1), 0).is_ok()
    {
        assert_eq!(v1::read(&device).map(|again| again.data), Ok(read.data), "the data changed");
    }
}

/// Opens a device of arbitrary content and uses it where it opens.
pub fn open(device: Arc<MemoryDevice>) {
    let before = device.image();
    let options = OpenOptions { cache_bytes: 1 << 20, ..OpenOptions::default() };
    match Store::open(Arc::clone(&device) as Arc<dyn BlockDevice>, options) {
        Ok(store) => {
            let _ = store.read(|tx| tx.scan(Table("routes"), b"", None, 10));
            let _ = store.write(|tx| tx.put(Table("routes"), b"k", b"v"));
            let _: Result<bool, StoreError> = store.check();
        }
        Err(crate::OpenError::Foreign { .. } | crate::OpenError::Blank) => {
            assert!(device.image() == before, "a refused device was changed");
        }
        Err(_) => {}
    }
}

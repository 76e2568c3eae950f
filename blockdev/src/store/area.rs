//! redb's file on a device: an emulated length, unaligned access, and limits.
//!
//! redb doubles its file when it needs room. A length beyond [`Area::limit`] is refused as full; the engine then sets
//! the length to all that is allowed and opens redb again, so that no part of the device stays unused.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;
use super::header::{Header, State, area_start};
use crate::device::{BlockDevice, DeviceError};

/// redb's page size; lengths are multiples of it.
pub(super) const PAGE: u64 = 4096;
/// How much is filled with zeros at once, in bytes.
const FILL: u64 = 65_536;

#[derive(Debug)]
pub(super) struct Area {
    device: Arc<dyn BlockDevice>,
    header: Mutex<Header>,
    limit: AtomicU64,
}

impl Area {
    pub(super) fn new(device: Arc<dyn BlockDevice>, header: Header, limit: u64) -> Self {
        Self { device, header: Mutex::new(header), limit: AtomicU64::new(limit) }
    }

    pub(super) fn device(&self) -> &dyn BlockDevice {
        &*self.device
    }

    pub(super) fn len(&self) -> u64 {
        self.header().length
    }

    /// The longest that the emulated file may become, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Release);
    }

    pub(super) fn set_state(&self, state: State) -> Result<(), DeviceError> {
        let mut header = self.header();
        self.replace(&mut header, |h| h.state = state)
    }

    /// Sets the emulated length; what is added reads as zeros, and the change is durable.
    pub(super) fn set_len(&self, length: u64) -> Result<(), StoreError> {
        if length > self.limit() {
            return Err(StoreError::Full { capacity: self.limit() });
        }
        let mut header = self.header();
        if length > header.length {
            self.fill_with_zeros(header.length, length)?;
            self.device.flush()?;
        }
        Ok(self.replace(&mut header, |h| h.length = length)?)
    }

    fn header(&self) -> MutexGuard<'_, Header> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(
        &self,
        header: &mut Header,
        change: impl FnOnce(&mut Header),
    ) -> Result<(), DeviceError> {
        let mut next = Header { generation: header.generation.saturating_add(1), ..*header };
        change(&mut next);
        next.write(&*self.device)?;
        *header = next;
        Ok(())
    }

    fn fill_with_zeros(&self, from: u64, to: u64) -> Result<(), DeviceError> {
        let piece = |at: u64| usize::try_from(FILL.min(to - at)).unwrap_or(0);
        if from >= to {
            return Ok(());
        }
        // Not a constant, which would be in the program's file.
        let zeros = vec![0; piece(from)];
        for at in (from..to).step_by(zeros.len()) {
            self.write(at, &zeros[..piece(at)])?;
        }
        Ok(())
    }

    /// The sectors of the device that cover `length` bytes at `offset` of the area: where they begin, how many bytes
    /// lie before the asked ones, and how many they are in all.
    fn cover(&self, offset: u64, length: usize) -> (u64, usize, usize) {
        let sector = u64::from(self.device.sector_size());
        let start = area_start(&*self.device).saturating_add(offset);
        let first = start - start % sector;
        let end = start.saturating_add(length as u64).next_multiple_of(sector);
        let before = usize::try_from(start - first).unwrap_or(0);
        (first, before, usize::try_from(end - first).unwrap_or(usize::MAX))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), DeviceError> {
        let (first, before, covered) = self.cover(offset, out.len());
        if covered == out.len() {
            return self.device.read(first, out);
        }
        let mut sectors = vec![0; covered];
        self.device.read(first, &mut sectors)?;
        out.copy_from_slice(&sectors[before..before + out.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let (first, before, covered) = self.cover(offset, data.len());
        if covered == data.len() {
            return self.device.write(first, data);
        }
        let mut sectors = vec![0; covered];
        self.device.read(first, &mut sectors)?;
        sectors[before..before + data.len()].copy_from_slice(data);
        self.device.write(first, &sectors)
    }

    fn check(&self, offset: u64, length: usize) -> Result<(), io::Error> {
        let capacity = self.len();
        let length = length as u64;
        match offset.checked_add(length).is_some_and(|end| end <= capacity) {
            true => Ok(()),
            false => Err(failed(DeviceError::Range { offset, length, capacity })),
        }
    }
}

/// The handle that redb owns; another one is made each time redb is opened.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<Area>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.check(offset, out.len())?;
        self.0.read(offset, out).map_err(failed)
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        self.0.set_len(length).map_err(failed)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.device.flush().map_err(failed)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.check(offset, data.len())?;
        self.0.write(offset, data).map_err(failed)
    }
}

/// redb hands this back unchanged, so that the store's caller learns what the device said.
fn failed(error: impl Into<StoreError>) -> io::Error {
    io::Error::other(error.into())
}

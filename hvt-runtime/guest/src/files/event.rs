//! `eventfd`: a counter that is readable when it is not zero.

use super::{Errno, FileId, Files, IN, Kind, Mask, OUT};

/// The counter of an eventfd.
#[derive(Debug, Default)]
pub struct Event {
    /// What a read would take.
    pub count: u64,
    /// Whether a read takes one at a time (`EFD_SEMAPHORE`).
    pub semaphore: bool,
}

impl Event {
    pub(super) fn readiness(&self) -> Mask {
        (if self.count > 0 { IN } else { 0 }) | (if self.count < u64::MAX - 1 { OUT } else { 0 })
    }
}

impl Files {
    /// Reads an eventfd.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when the counter is zero.
    pub fn event_read(&mut self, id: FileId) -> Result<u64, Errno> {
        let Kind::Event(event) = &mut self.file(id)?.kind else { return Err(Errno::INVALID) };
        let taken = if event.semaphore { event.count.min(1) } else { event.count };
        if taken == 0 {
            return Err(Errno::AGAIN);
        }
        event.count -= taken;
        self.changed(id, OUT);
        Ok(taken)
    }

    /// Adds to an eventfd.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when the counter would overflow, [`Errno::INVALID`] for `u64::MAX`.
    pub fn event_write(&mut self, id: FileId, amount: u64) -> Result<(), Errno> {
        let Kind::Event(event) = &mut self.file(id)?.kind else { return Err(Errno::INVALID) };
        if amount == u64::MAX {
            return Err(Errno::INVALID);
        }
        let sum = event.count.checked_add(amount).filter(|&sum| sum < u64::MAX);
        event.count = sum.ok_or(Errno::AGAIN)?;
        self.changed(id, IN);
        Ok(())
    }
}

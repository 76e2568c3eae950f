//! The calls for block devices. They change nothing of the border's own, so two threads may serve them: the guest's, and
//! the one of the slot ([`super::slot`]).

use std::sync::Arc;

use hvt_abi::extension::{self, BlockCommit, BlockWrite};
use hvt_abi::hypercall::{self as number, BlockIo, RESULT_INVALID, RESULT_OK};

use super::{Misuse, buffer, structure};
use crate::device::Devices;
use crate::device::block::BlockDevice;
use crate::memory::GuestSpace;

/// Serves the calls for block devices of one guest.
#[derive(Clone, Debug)]
pub(super) struct BlockCalls {
    space: Arc<GuestSpace>,
    devices: Arc<Devices>,
    /// The extensions that the guest was offered.
    features: u32,
}

impl BlockCalls {
    pub(super) fn new(space: Arc<GuestSpace>, devices: Arc<Devices>, features: u32) -> Self {
        Self { space, devices, features }
    }

    /// Serves a call with the structure at `address`; any other call is misuse.
    pub(super) fn serve(&self, call: u16, address: u64) -> Result<(), Misuse> {
        let has = |feature| self.features & feature != 0;
        match call {
            number::BLOCK_WRITE => self.transfer(address, "block write", false),
            number::BLOCK_READ => self.transfer(address, "block read", true),
            extension::BLOCK_FLUSH if has(extension::FEATURE_BLOCK_FLUSH) => {
                self.block_flush(address)
            }
            extension::BLOCK_COMMIT if has(extension::FEATURE_BLOCK_COMMIT) => {
                self.block_commit(address)
            }
            _ => Err(Misuse::UnknownCall(call)),
        }
    }

    fn transfer(&self, address: u64, call: &'static str, read: bool) -> Result<(), Misuse> {
        let mut io: BlockIo = self.space.read(address).map_err(structure(call))?;
        io.ret = match self.devices.block(io.handle) {
            None => RESULT_INVALID,
            // A range outside the device is refused before the buffer is looked at, as stock tenders do.
            Some(device) if !device.contains(io.offset, io.len) => RESULT_INVALID,
            Some(device) if read => {
                let room = self.space.writable(io.data, io.len).map_err(buffer(call))?;
                device.read(io.offset, &room)
            }
            Some(device) => {
                let data = self.space.readable(io.data, io.len).map_err(buffer(call))?;
                device.write(io.offset, &data)
            }
        };
        io.pad = 0;
        self.space.write(address, io).map_err(structure(call))
    }

    fn block_flush(&self, address: u64) -> Result<(), Misuse> {
        let call = "block flush";
        let mut flush: extension::BlockFlush = self.space.read(address).map_err(structure(call))?;
        flush.ret = self.devices.block(flush.handle).map_or(RESULT_INVALID, |d| d.flush());
        flush.pad = 0;
        self.space.write(address, flush).map_err(structure(call))
    }

    fn block_commit(&self, address: u64) -> Result<(), Misuse> {
        let call = "block commit";
        let mut commit: BlockCommit = self.space.read(address).map_err(structure(call))?;
        // Refused before anything is written rather than after it.
        let size = size_of::<BlockCommit>() as u64;
        self.space.writable(address, size).map_err(structure(call))?;
        commit.ret = match self.devices.block(commit.handle) {
            Some(device) if commit.count <= extension::BLOCK_COMMIT_MAX => {
                self.commit(device, &commit)?
            }
            _ => RESULT_INVALID,
        };
        commit.pad = 0;
        self.space.write(address, commit).map_err(structure(call))
    }

    /// The writes of a commit, until one is not carried out, then its flush.
    fn commit(&self, device: &BlockDevice, commit: &BlockCommit) -> Result<i32, Misuse> {
        let array =
            |fault| Misuse::Pointer { call: "block commit", part: "its array of writes", fault };
        for i in 0..u64::from(commit.count) {
            let at = commit.writes.saturating_add(i * size_of::<BlockWrite>() as u64);
            let write: BlockWrite = self.space.read(at).map_err(array)?;
            if !device.contains(write.offset, write.len) {
                return Ok(RESULT_INVALID);
            }
            let data = self.space.readable(write.data, write.len);
            let code = device.write(write.offset, &data.map_err(buffer("block commit"))?);
            if code != RESULT_OK {
                return Ok(code);
            }
        }
        Ok(if commit.flush == 0 { RESULT_OK } else { device.flush() })
    }
}

//! The block devices of the manifest, as any range of bytes.
//!
//! Where the tender takes several writes in one call, they wait for each other ([`crate::behind`]); reads take what lies
//! around with them ([`crate::read_cache`]).

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::extension::{BLOCK_COMMIT_MAX, BlockWrite, FEATURE_BLOCK_COMMIT, FEATURE_BLOCK_FLUSH};
use hvt_abi::manifest::{BLOCK_BASIC, Entry};

use crate::behind::WriteBehind;
use crate::files::Errno;
use crate::read_cache::{PIECE, ReadCache};
use crate::sectors::{self, Blocks, DeviceFailed, MAX_BLOCK};

use super::single::Single;
use super::{console, hypercall, start};

/// One device. The tender's handle is its index in the manifest.
#[derive(Debug)]
struct Device {
    name: &'static [u8],
    handle: u64,
    capacity: u64,
    block_size: usize,
    behind: WriteBehind,
    known: ReadCache,
    /// A write that had been accepted failed since the last flush.
    failed: bool,
}

#[derive(Debug)]
struct Devices {
    all: Vec<Device>,
    bounce: Vec<u8>,
}

static DEVICES: Single<Devices> = Single::new(Devices { all: Vec::new(), bounce: Vec::new() });
static TOLD_NO_FLUSH: AtomicBool = AtomicBool::new(false);

/// Takes the attached block devices of the manifest.
pub(super) fn start(entries: &'static [Entry]) {
    let blocks =
        entries.iter().enumerate().filter(|(_, e)| e.kind == BLOCK_BASIC && e.attached != 0);
    let all: Vec<Device> = blocks
        .map(|(index, entry)| {
            let end = entry.name.iter().position(|&byte| byte == 0).unwrap_or(entry.name.len());
            let block_size = usize::from(entry.block().block_size);
            if !block_size.is_power_of_two() || block_size > MAX_BLOCK {
                console::fatal(format_args!(
                    "block device {index} has blocks of {block_size} bytes"
                ));
            }
            Device {
                name: &entry.name[..end],
                handle: index as u64,
                capacity: entry.block().capacity,
                block_size,
                behind: WriteBehind::new(BLOCK_COMMIT_MAX as usize),
                known: ReadCache::new(),
                failed: false,
            }
        })
        .collect();
    let largest = all.iter().map(|device| device.block_size).max().unwrap_or(0);
    DEVICES.with(|devices| *devices = Devices { all, bounce: vec![0; largest] });
}

impl Device {
    /// Takes what waits to the tender, and asks for a flush. What can't be written is lost, as in a page cache, and the
    /// next flush tells.
    fn write_out(&mut self, flush: bool) -> Result<(), DeviceFailed> {
        if self.behind.is_empty() && !flush {
            return Ok(());
        }
        let writes: Vec<BlockWrite> = self
            .behind
            .writes()
            .map(|(offset, data)| BlockWrite {
                offset,
                data: data.as_ptr() as u64,
                len: data.len() as u64,
            })
            .collect();
        // SAFETY: the writes name bytes of the queue, which stays as it is during the call.
        let done = unsafe { hypercall::block_commit(self.handle, &writes, flush) };
        self.behind.clear();
        self.done(done)
    }

    /// After a failure nobody knows what the device holds, so it has to be asked again.
    fn done(&mut self, done: bool) -> Result<(), DeviceFailed> {
        if done {
            return Ok(());
        }
        self.known.clear();
        Err(DeviceFailed)
    }

    /// Reads from the tender, after what waits for the same place.
    fn fetch(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceFailed> {
        if self.behind.covers(offset, buffer.len()) {
            self.write_out(false).inspect_err(|_| self.failed = true)?;
        }
        hypercall::block_read(self.handle, offset, buffer).then_some(()).ok_or(DeviceFailed)
    }
}

impl Blocks for Device {
    fn block_size(&self) -> usize {
        self.block_size
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read_blocks(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceFailed> {
        if buffer.len() >= PIECE {
            return self.fetch(offset, buffer);
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let (start, len) = ReadCache::piece_at(at, self.capacity);
            let rest = usize::try_from(start + len as u64 - at).unwrap_or(usize::MAX);
            let count = rest.min(buffer.len() - done);
            let part = &mut buffer[done..done + count];
            if !self.known.read(at, part) {
                let mut known = core::mem::take(&mut self.known);
                let learned = known.learn(start, len, |bytes| self.fetch(start, bytes));
                self.known = known;
                self.done(learned.is_ok())?;
                if !self.known.read(at, part) {
                    return Err(DeviceFailed);
                }
            }
            done += count;
        }
        Ok(())
    }

    fn write_blocks(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceFailed> {
        self.known.written(offset, data);
        if start::tender().features & FEATURE_BLOCK_COMMIT != 0 {
            if self.behind.accept(offset, data) {
                return Ok(());
            }
            self.write_out(false).inspect_err(|_| self.failed = true)?;
            if self.behind.accept(offset, data) {
                return Ok(());
            }
        }
        let written = hypercall::block_write(self.handle, offset, data);
        self.done(written)
    }
}

/// The index of the device with this name.
pub(super) fn find(name: &[u8]) -> Option<usize> {
    DEVICES.with(|devices| devices.all.iter().position(|device| device.name == name))
}

/// Size of the device and of its blocks, in bytes.
pub(super) fn geometry(index: usize) -> (u64, usize) {
    DEVICES.with(|devices| {
        devices.all.get(index).map_or((0, 512), |device| (device.capacity, device.block_size))
    })
}

/// Reads from a device.
pub(super) fn read(index: usize, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    DEVICES.with(|Devices { all, bounce }| {
        let device = all.get_mut(index).ok_or(Errno(libc::ENXIO))?;
        sectors::read(device, bounce, offset, buffer).map_err(|DeviceFailed| Errno(libc::EIO))
    })
}

/// Writes to a device; nothing fits behind its end.
pub(super) fn write(index: usize, offset: u64, data: &[u8]) -> Result<usize, Errno> {
    let written = DEVICES.with(|Devices { all, bounce }| {
        let device = all.get_mut(index).ok_or(Errno(libc::ENXIO))?;
        sectors::write(device, bounce, offset, data).map_err(|DeviceFailed| Errno(libc::EIO))
    })?;
    if written == 0 && !data.is_empty() { Err(Errno(libc::ENOSPC)) } else { Ok(written) }
}

/// Makes what was written durable. A stock tender has no such call: there the host's page cache decides, which survives
/// a crash of the guest and of the tender, but not of the host. That is said once.
pub(super) fn flush(index: usize) -> Result<(), Errno> {
    if start::tender().features & FEATURE_BLOCK_FLUSH == 0 {
        if !TOLD_NO_FLUSH.swap(true, Ordering::Relaxed) {
            console::say(format_args!(
                "this tender can't flush block devices: a crash of the host may lose what was written last"
            ));
        }
        return Ok(());
    }
    let done = DEVICES.with(|devices| {
        let device = devices.all.get_mut(index).ok_or(Errno(libc::ENXIO))?;
        let lost = core::mem::take(&mut device.failed);
        let flushed = if start::tender().features & FEATURE_BLOCK_COMMIT != 0 {
            device.write_out(true).is_ok()
        } else {
            hypercall::block_flush(device.handle)
        };
        Ok(flushed && !lost)
    })?;
    if done { Ok(()) } else { Err(Errno(libc::EIO)) }
}

/// Takes all writes that wait to the tender: before the processor waits, and before the program ends.
pub(super) fn write_out() {
    DEVICES.with(|devices| {
        for device in &mut devices.all {
            if device.write_out(false).is_err() {
                device.failed = true;
            }
        }
    });
}

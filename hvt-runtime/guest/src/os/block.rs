//! The block devices of the manifest, as any range of bytes.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::extension::FEATURE_BLOCK_FLUSH;
use hvt_abi::manifest::{BLOCK_BASIC, Entry};

use crate::files::Errno;
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
            }
        })
        .collect();
    let largest = all.iter().map(|device| device.block_size).max().unwrap_or(0);
    DEVICES.with(|devices| *devices = Devices { all, bounce: vec![0; largest] });
}

impl Blocks for &Device {
    fn block_size(&self) -> usize {
        self.block_size
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read_blocks(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceFailed> {
        hypercall::block_read(self.handle, offset, buffer).then_some(()).ok_or(DeviceFailed)
    }

    fn write_blocks(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceFailed> {
        hypercall::block_write(self.handle, offset, data).then_some(()).ok_or(DeviceFailed)
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
        let mut device = all.get(index).ok_or(Errno(libc::ENXIO))?;
        sectors::read(&mut device, bounce, offset, buffer).map_err(|DeviceFailed| Errno(libc::EIO))
    })
}

/// Writes to a device; nothing fits behind its end.
pub(super) fn write(index: usize, offset: u64, data: &[u8]) -> Result<usize, Errno> {
    let written = DEVICES.with(|Devices { all, bounce }| {
        let mut device = all.get(index).ok_or(Errno(libc::ENXIO))?;
        sectors::write(&mut device, bounce, offset, data).map_err(|DeviceFailed| Errno(libc::EIO))
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
    let handle = DEVICES.with(|devices| devices.all.get(index).map(|device| device.handle));
    let handle = handle.ok_or(Errno(libc::ENXIO))?;
    if hypercall::block_flush(handle) { Ok(()) } else { Err(Errno(libc::EIO)) }
}

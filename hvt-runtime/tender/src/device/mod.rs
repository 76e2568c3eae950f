//! What a guest is connected to: block devices, network devices, the console.
//!
//! A device gets slices of guest memory that are already checked ([`crate::memory`]) and knows nothing of hypercalls.
//! A failure of the host behind a device is answered to the guest and told once on standard error; it never ends the
//! tender.

pub mod block;
pub mod console;
pub(crate) mod merge;
pub mod net;
pub mod offload;
pub mod pcap;
pub mod ring;
mod segment;
mod split;
mod stream;
pub mod tap;
pub mod transfer;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use block::BlockDevice;
use net::NetDevice;

use crate::manifest::{Kind, Manifest};
use crate::options::Options;

/// Why a device of the command line can't be attached.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct AttachError {
    /// The option.
    pub what: String,
    /// What is wrong and what helps.
    pub why: String,
}

/// One device.
#[derive(Debug)]
pub enum Device {
    /// A block device.
    Block(BlockDevice),
    /// A network device.
    Net(NetDevice),
}

/// All devices, by handle.
#[derive(Debug, Default)]
pub struct Devices {
    slots: Vec<Option<Device>>,
}

impl Devices {
    /// Devices in their slots; the index is the handle.
    #[must_use]
    pub fn new(slots: Vec<Option<Device>>) -> Self {
        Self { slots }
    }

    /// Attaches what the manifest asks for, which the command line must name. Offload only for a guest that understands it.
    ///
    /// # Errors
    /// Says which device, what is wrong and what helps.
    pub fn attach(
        manifest: &Manifest,
        options: &Options,
        understands_offload: bool,
    ) -> Result<Self, AttachError> {
        let mut slots: Vec<Option<Device>> = manifest.entries().iter().map(|_| None).collect();
        for (handle, kind, name) in manifest.devices() {
            let device = match kind {
                Kind::Block => options.blocks.get(name).map(|option| {
                    BlockDevice::open(name, &option.path, option.sector_size).map(Device::Block)
                }),
                Kind::Net => options
                    .nets
                    .get(name)
                    .map(|option| tap::attach(name, option, understands_offload).map(Device::Net)),
            };
            slots[handle] = device.transpose()?;
        }
        Ok(Self { slots })
    }

    /// The block device of a handle, if it is one.
    #[must_use]
    pub fn block(&self, handle: u64) -> Option<&BlockDevice> {
        match self.slot(handle)? {
            Device::Block(device) => Some(device),
            Device::Net(_) => None,
        }
    }

    /// The network device of a handle, if it is one.
    #[must_use]
    pub fn net(&self, handle: u64) -> Option<&NetDevice> {
        match self.slot(handle)? {
            Device::Net(device) => Some(device),
            Device::Block(_) => None,
        }
    }

    /// All network devices with their handles.
    pub fn nets(&self) -> impl Iterator<Item = (usize, &NetDevice)> {
        self.slots.iter().enumerate().filter_map(|(handle, slot)| match slot {
            Some(Device::Net(device)) => Some((handle, device)),
            _ => None,
        })
    }

    /// Bit `1 << handle` for each network device.
    #[must_use]
    pub fn net_set(&self) -> u64 {
        self.nets().map(|(handle, _)| 1 << handle).sum()
    }

    /// Bit `1 << handle` for each network device with offload.
    #[must_use]
    pub fn offload_set(&self) -> u64 {
        self.nets().filter(|(_, net)| net.has_offload()).map(|(handle, _)| 1 << handle).sum()
    }

    /// All devices with their handles.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Device)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| slot.as_ref().map(|d| (i, d)))
    }

    fn slot(&self, handle: u64) -> Option<&Device> {
        self.slots.get(usize::try_from(handle).ok()?)?.as_ref()
    }
}

impl Device {
    /// The descriptor behind the device.
    #[must_use]
    pub fn raw_fd(&self) -> i32 {
        match self {
            Self::Block(device) => device.as_fd().as_raw_fd(),
            Self::Net(device) => device.as_fd().as_raw_fd(),
        }
    }
}

/// The most failures of one device that are told.
const MAX_COMPLAINTS: u32 = 16;

/// Tells about failures of a device, the same one in a row once, and not more than [`MAX_COMPLAINTS`]: a guest can provoke
/// as many as it likes.
#[derive(Debug)]
struct Complaint {
    device: String,
    last: AtomicI32,
    told: AtomicU32,
}

impl Complaint {
    fn about(kind: &str, name: &str) -> Self {
        Self { device: format!("{kind} {name}"), last: AtomicI32::new(0), told: AtomicU32::new(0) }
    }

    fn once(&self, what: &str, error: &io::Error) {
        let code = error.raw_os_error().unwrap_or(-1);
        if self.last.swap(code, Ordering::Relaxed) != code {
            self.say(&format!("{what}: {error}"));
        }
    }

    fn say(&self, what: &str) {
        // The counter stays near its limit, so it never wraps.
        let told = self.told.load(Ordering::Relaxed);
        if told < MAX_COMPLAINTS {
            self.told.store(told + 1, Ordering::Relaxed);
            console::message(&format!("{}: {what}", self.device));
        }
    }
}

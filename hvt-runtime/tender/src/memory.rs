//! The guest's memory, as the tender may touch it.
//!
//! A guest names memory by address and length. Both are claims: [`GuestSpace::readable`] and [`GuestSpace::writable`] are
//! the only way from a claim to bytes, and they refuse what is outside the guest's memory and what the guest itself may
//! not read or write. So a guest can't make the tender write into its program text for it.
//!
//! The bytes are shared with running guest code, so they are never borrowed as Rust references: what comes out is a
//! [`VolatileSlice`], whose accesses are volatile copies or system calls.

use std::ops::Range;

use hvt_abi::{PAGE_SIZE, boot, exchange, extension, hypercall, manifest};
use vm_memory::{ByteValued, Bytes, MmapRegion, VolatileMemory, VolatileSlice};

/// Why an address that a guest gave is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerFault {
    /// Some of the bytes are in no memory of the guest.
    #[error("{len} bytes at {address:#x} are not within the guest's memory")]
    Outside {
        /// The address as the guest gave it.
        address: u64,
        /// The length as the guest gave it.
        len: u64,
    },
    /// The tender was to write where the guest may not.
    #[error("{len} bytes at {address:#x} are in memory that the guest may not write")]
    ReadOnly {
        /// The address as the guest gave it.
        address: u64,
        /// The length as the guest gave it.
        len: u64,
    },
}

/// A stretch of memory that the guest may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Guest addresses.
    pub addresses: Range<u64>,
    /// Whether the guest may write there; it may read everywhere that is named.
    pub write: bool,
}

/// Memory of a guest, and what of it the guest may name in its calls.
#[derive(Debug)]
pub struct GuestSpace {
    region: MmapRegion,
    /// The guest address of the region's first byte.
    base: u64,
    /// Sorted, not overlapping. Empty until [`GuestSpace::permit`].
    permissions: Vec<Permission>,
}

impl GuestSpace {
    /// Memory whose first byte has the guest address `base`. A guest may name none of it yet.
    #[must_use]
    pub fn new(region: MmapRegion, base: u64) -> Self {
        Self { region, base, permissions: Vec::new() }
    }

    /// Says what the guest may name from now on. Stretches that overlap or are out of order are the caller's mistake and
    /// make the later ones unreachable, never more reachable.
    pub fn permit(&mut self, permissions: Vec<Permission>) {
        self.permissions = permissions;
    }

    /// The end of the memory, as a guest address.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.base + self.region.size() as u64
    }

    /// The mapping itself, for the machine that runs the guest.
    #[must_use]
    pub fn region(&self) -> &MmapRegion {
        &self.region
    }

    /// The guest address of the mapping's first byte.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Bytes for the loader, which acts before the guest and is not bound by its permissions.
    ///
    /// # Errors
    /// When they are not all within the memory.
    pub fn loader_slice(&self, address: u64, len: u64) -> Result<VolatileSlice<'_>, PointerFault> {
        let outside = PointerFault::Outside { address, len };
        let offset = address.checked_sub(self.base).ok_or(outside)?;
        let offset = usize::try_from(offset).map_err(|_| outside)?;
        let len = usize::try_from(len).map_err(|_| outside)?;
        self.region.get_slice(offset, len).map_err(|_| outside)
    }

    /// Writes a value for the guest to find; see [`GuestSpace::loader_slice`].
    ///
    /// # Errors
    /// When it does not fit into the memory.
    pub fn loader_write<T: Wire>(&self, address: u64, value: T) -> Result<(), PointerFault> {
        let len = size_of::<T>() as u64;
        self.loader_slice(address, len)?
            .write_obj(Plain(value), 0)
            .map_err(|_| PointerFault::Outside { address, len })
    }

    /// Bytes that the guest may read. No bytes are always readable, whatever the address.
    ///
    /// # Errors
    /// When a byte of them isn't.
    pub fn readable(&self, address: u64, len: u64) -> Result<VolatileSlice<'_>, PointerFault> {
        self.slice(address, len, false)
    }

    /// Bytes that the guest may write. No bytes are always writable, whatever the address.
    ///
    /// # Errors
    /// When a byte of them isn't.
    pub fn writable(&self, address: u64, len: u64) -> Result<VolatileSlice<'_>, PointerFault> {
        self.slice(address, len, true)
    }

    /// Copies a structure that the guest may read.
    ///
    /// # Errors
    /// When a byte of it isn't readable.
    pub fn read<T: Wire>(&self, address: u64) -> Result<T, PointerFault> {
        let len = size_of::<T>() as u64;
        let slice = self.readable(address, len)?;
        let Plain(value) = slice.read_obj(0).map_err(|_| PointerFault::Outside { address, len })?;
        Ok(value)
    }

    /// Copies a structure to where the guest may write.
    ///
    /// # Errors
    /// When a byte of it isn't writable.
    pub fn write<T: Wire>(&self, address: u64, value: T) -> Result<(), PointerFault> {
        let len = size_of::<T>() as u64;
        let slice = self.writable(address, len)?;
        slice.write_obj(Plain(value), 0).map_err(|_| PointerFault::Outside { address, len })
    }

    /// Gives whole pages back to the host; they read as zero afterwards. Whether they are whole pages.
    ///
    /// # Errors
    /// When the guest may not write all of them.
    pub fn release(&self, address: u64, len: u64) -> Result<bool, PointerFault> {
        let slice = self.writable(address, len)?;
        if !address.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return Ok(false);
        }
        let guard = slice.ptr_guard_mut();
        // SAFETY: the pages are inside the guest's mapping, which is private and anonymous, and the guest may write them,
        // so that they become zero is nothing that it could not have done itself. Nobody holds references to them.
        let result =
            unsafe { libc::madvise(guard.as_ptr().cast(), slice.len(), libc::MADV_DONTNEED) };
        Ok(result == 0 || len == 0)
    }

    fn slice(
        &self,
        address: u64,
        len: u64,
        write: bool,
    ) -> Result<VolatileSlice<'_>, PointerFault> {
        if len == 0 {
            return self.loader_slice(self.base, 0);
        }
        let end = address.checked_add(len).ok_or(PointerFault::Outside { address, len })?;
        // A buffer may reach over neighbouring stretches, say from .data into the heap.
        let mut at = address;
        for permission in &self.permissions {
            if permission.addresses.contains(&at) {
                if write && !permission.write {
                    return Err(PointerFault::ReadOnly { address, len });
                }
                at = permission.addresses.end;
                if at >= end {
                    return self.loader_slice(address, len);
                }
            }
        }
        Err(PointerFault::Outside { address, len })
    }
}

/// The structures of the ABI that cross the border as plain bytes.
pub trait Wire: Copy + Default + Send + Sync + private::Sealed {}

/// Makes a [`Wire`] type known to `vm-memory`.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: only the types listed below are `Wire`; each is `repr(C)` with fields of integers and arrays of integers, whose
// sizes and offsets `hvt-abi` asserts to leave no padding, so every bit pattern is a value and every byte initialised.
unsafe impl<T: Wire> ByteValued for Plain<T> {}

mod private {
    pub trait Sealed {}
}

macro_rules! wire {
    ($($t:ty),* $(,)?) => { $(impl private::Sealed for $t {} impl Wire for $t {})* };
}

wire!(
    u64,
    boot::BootInfo,
    boot::BootExtension,
    exchange::Exchange,
    exchange::Frame,
    extension::BlockCommit,
    extension::BlockFlush,
    extension::BlockWrite,
    extension::MemoryRelease,
    hypercall::Walltime,
    hypercall::Puts,
    hypercall::Poll,
    hypercall::BlockIo,
    hypercall::NetIo,
    hypercall::Halt,
    hypercall::TrapFrame,
    manifest::Header,
    manifest::Entry,
);

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> GuestSpace {
        let mut space = GuestSpace::new(MmapRegion::new(0x10000).unwrap(), 0);
        space.permit(vec![
            Permission { addresses: 0x1000..0x2000, write: false },
            Permission { addresses: 0x2000..0x4000, write: true },
            Permission { addresses: 0x4000..0x5000, write: true },
            Permission { addresses: 0x6000..0x10000, write: true },
        ]);
        space
    }

    #[test]
    fn a_claim_is_good_only_where_every_byte_is() {
        let space = space();
        for (address, len, read, write) in [
            (0x1000, 0x1000, true, false),
            (0x1fff, 2, true, false),
            (0x2000, 0x3000, true, true),
            (0x0fff, 2, false, false),
            (0x4fff, 2, false, false),
            (0x5000, 1, false, false),
            (0xffff, 1, true, true),
            (0xffff, 2, false, false),
            (0x1_0000, 1, false, false),
            (u64::MAX, 1, false, false),
            (u64::MAX, u64::MAX, false, false),
            (0x2000, u64::MAX, false, false),
            (0x2000, u64::MAX - 0x2000, false, false),
            (0, 0, true, true),
            (u64::MAX, 0, true, true),
        ] {
            assert_eq!(space.readable(address, len).is_ok(), read, "read {address:#x}+{len:#x}");
            assert_eq!(space.writable(address, len).is_ok(), write, "write {address:#x}+{len:#x}");
            if let Ok(slice) = space.readable(address, len) {
                assert_eq!(slice.len() as u64, len);
            }
        }
    }

    #[test]
    fn nothing_may_be_named_before_it_is_permitted() {
        let space = GuestSpace::new(MmapRegion::new(0x10000).unwrap(), 0x10000);
        assert!(space.readable(0x10000, 1).is_err());
        assert!(space.loader_slice(0xffff, 1).is_err());
        assert!(space.loader_slice(0x1ffff, 1).is_ok());
        assert!(space.loader_slice(0x1ffff, 2).is_err());
    }

    #[test]
    fn structures_travel_whole() {
        let space = space();
        let poll = hypercall::Poll { timeout_nsecs: 1, ready_set: 2, ret: -3, pad: 0 };
        space.write(0x3ff8, poll).unwrap();
        assert_eq!(space.read::<hypercall::Poll>(0x3ff8), Ok(poll));
        assert!(matches!(space.write(0x1ff8, poll), Err(PointerFault::ReadOnly { .. })));
        assert!(matches!(space.write(0x4ff8, poll), Err(PointerFault::Outside { .. })));
    }
}

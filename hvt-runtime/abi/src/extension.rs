//! What we add to Solo5's ABI.
//!
//! Each piece has a bit. An image names the bits that it understands in its [`crate::note::GuestNote`]; the tender puts
//! those of them that it offers into [`crate::boot::BootInfo::host_features`]. A piece may be used only when its bit is
//! there. So a stock tender never sees an extension (it sets none of these bits), and a stock image never meets one (it
//! has no note). Bits 1 to 15 are left to Solo5.

use core::mem::{offset_of, size_of};

/// Start the guest at ring 3, with page rights by segment and guard pages; without the bit in its note a guest starts at
/// ring 0, as Solo5 does it.
pub const FEATURE_RING3: u32 = 1 << 16;
/// [`crate::boot::BootExtension`] is behind the boot information.
pub const FEATURE_BOOT_EXTENSION: u32 = 1 << 17;
/// [`BLOCK_FLUSH`] is there. Without it a write is durable whenever the host's page cache gets to it.
pub const FEATURE_BLOCK_FLUSH: u32 = 1 << 18;
/// A request to stop is told by [`POLL_SHUTDOWN`]. A guest without this bit is ended by the first SIGTERM.
pub const FEATURE_SHUTDOWN: u32 = 1 << 19;
/// [`EXCHANGE`] is there, see [`crate::exchange`]. Offload is possible only for a guest that names this bit.
pub const FEATURE_EXCHANGE: u32 = 1 << 20;
/// There is no virtual machine: the guest is a process under a seccomp filter. It must not use `out`, but call
/// [`crate::boot::BootExtension::process_call`], a [`ProcessCall`]. The bit comes together with
/// [`FEATURE_BOOT_EXTENSION`]. A guest that does not name it can't be started this way.
pub const FEATURE_PROCESS: u32 = 1 << 21;

/// [`MEMORY_RELEASE`] is there.
pub const FEATURE_MEMORY_RELEASE: u32 = 1 << 22;

/// [`BLOCK_COMMIT`] is there.
pub const FEATURE_BLOCK_COMMIT: u32 = 1 << 23;

/// [`crate::slot`] is there: calls for block devices without leaving the machine. The bit comes together with
/// [`FEATURE_BOOT_EXTENSION`]; [`crate::boot::BootExtension::block_slot`] says where the slot lies.
pub const FEATURE_BLOCK_SLOT: u32 = 1 << 24;

/// All bits that this version of the crate knows.
pub const FEATURES_KNOWN: u32 = FEATURE_RING3
    | FEATURE_BOOT_EXTENSION
    | FEATURE_BLOCK_FLUSH
    | FEATURE_SHUTDOWN
    | FEATURE_EXCHANGE
    | FEATURE_PROCESS
    | FEATURE_MEMORY_RELEASE
    | FEATURE_BLOCK_COMMIT
    | FEATURE_BLOCK_SLOT;

/// The function at [`crate::boot::BootExtension::process_call`]: hypercall `number` with the structure at `argument`.
///
/// It is called by the C convention, needs 256 bytes of stack, preserves what the convention preserves, and may be called
/// with any FS base, which it leaves as it was.
pub type ProcessCall = extern "C" fn(number: u64, argument: u64);

/// The bit in [`crate::hypercall::Poll::ready_set`] that tells a request to stop. No device can have it: handle 0 is the
/// manifest's reserved entry. It counts in `ret`, wakes a waiting poll, and is reported by one poll per request: the
/// guest remembers it. The guest should finish its work and halt; a second request ends it.
pub const POLL_SHUTDOWN: u64 = 1 << 0;

/// Hypercall: everything written to a block device is on stable storage when the call returns; [`BlockFlush`].
pub const BLOCK_FLUSH: u16 = 9;
/// Hypercall: send frames, wait, receive frames; [`crate::exchange::Exchange`].
pub const EXCHANGE: u16 = 10;

/// Hypercall: the host may have pages back; [`MemoryRelease`].
pub const MEMORY_RELEASE: u16 = 11;

/// Hypercall: several writes to a block device, and then possibly a flush; [`BlockCommit`].
pub const BLOCK_COMMIT: u16 = 12;

/// Hypercall without a structure: wakes the tender's thread of [`crate::slot`]. It does not leave the machine.
pub const SLOT_WAKE: u16 = 13;

/// Hypercall without a structure: waits until the call in [`crate::slot`] is served.
pub const SLOT_WAIT: u16 = 14;

/// The most writes in one [`BlockCommit`].
pub const BLOCK_COMMIT_MAX: u32 = 256;

/// [`BLOCK_COMMIT`]: what a transaction of a database does, with one exit instead of one for each page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BlockCommit {
    /// In: index of the device in the manifest.
    pub handle: u64,
    /// In: address of `count` [`BlockWrite`]s, which are carried out in order.
    pub writes: u64,
    /// In: how many, at most [`BLOCK_COMMIT_MAX`].
    pub count: u32,
    /// In: 1 to put everything onto stable storage afterwards, as [`BLOCK_FLUSH`] does; 0 not to.
    pub flush: u32,
    /// Out: a result code of [`crate::hypercall`]. After anything but OK the writes before the one that could not be
    /// carried out are done, those after it are not, nothing was flushed, and which one it was is not told.
    pub ret: i32,
    /// Always zero.
    pub pad: u32,
}

/// One write of a [`BlockCommit`]; the fields are those of [`crate::hypercall::BlockIo`]. The tender copies it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BlockWrite {
    /// In: where on the device, in bytes.
    pub offset: u64,
    /// In: address of the data.
    pub data: u64,
    /// In: its length in bytes.
    pub len: u64,
}

/// [`BLOCK_FLUSH`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BlockFlush {
    /// In: index of the device in the manifest.
    pub handle: u64,
    /// Out: a result code of [`crate::hypercall`]. After [`crate::hypercall::RESULT_UNSPECIFIED`] it is unknown which of
    /// the earlier writes are durable.
    pub ret: i32,
    /// Always zero.
    pub pad: u32,
}

/// [`MEMORY_RELEASE`]: the pages read as zero afterwards and take no memory of the host until they are touched again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryRelease {
    /// In: address of the first page, a multiple of [`crate::PAGE_SIZE`].
    pub address: u64,
    /// In: bytes, a multiple of [`crate::PAGE_SIZE`]. All of them must be writable to the guest.
    pub len: u64,
    /// Out: [`crate::hypercall::RESULT_OK`], or [`crate::hypercall::RESULT_INVALID`] for what is not whole pages.
    pub ret: i32,
    /// Always zero.
    pub pad: u32,
}

/// The first stack's size in bytes when the note leaves it to the tender.
pub const DEFAULT_STACK_SIZE: u64 = 1 << 20;

/// The most bytes of arguments and of environment that the tender passes, each, with their zero bytes.
pub const ARGS_MAX: usize = 128 * 1024;

const _: () = {
    assert!(size_of::<BlockFlush>() == 16);
    assert!(offset_of!(BlockFlush, ret) == 8);
    assert!(size_of::<BlockCommit>() == 32);
    assert!(offset_of!(BlockCommit, writes) == 8);
    assert!(offset_of!(BlockCommit, count) == 16);
    assert!(offset_of!(BlockCommit, flush) == 20);
    assert!(offset_of!(BlockCommit, ret) == 24);
    assert!(size_of::<BlockWrite>() == 24);
    assert!(offset_of!(BlockWrite, data) == 8);
    assert!(offset_of!(BlockWrite, len) == 16);
    assert!(size_of::<MemoryRelease>() == 24);
    assert!(offset_of!(MemoryRelease, len) == 8);
    assert!(offset_of!(MemoryRelease, ret) == 16);
};

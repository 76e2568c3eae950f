//! The hypercalls and their structures (Solo5's `hvt_abi.h`).
//!
//! A call is one 32-bit `out` to port [`port`]`(number)` with the address of the call's structure in `eax`. The tender
//! reads and writes the structure in place and resumes the guest. Any other port, width or direction ends the guest, and
//! so does a structure or buffer that is not wholly inside the guest's memory.

use core::mem::{offset_of, size_of};

/// The port of hypercall number zero (`HVT_HYPERCALL_PIO_BASE`).
pub const PORT_BASE: u16 = 0x500;

/// The current time of day; [`Walltime`].
pub const WALLTIME: u16 = 1;
/// Text to the console; [`Puts`].
pub const PUTS: u16 = 2;
/// Wait for a network device; [`Poll`].
pub const POLL: u16 = 3;
/// Write to a block device; [`BlockIo`].
pub const BLOCK_WRITE: u16 = 4;
/// Read from a block device; [`BlockIo`].
pub const BLOCK_READ: u16 = 5;
/// Send one frame; [`NetIo`].
pub const NET_WRITE: u16 = 6;
/// Receive one frame; [`NetIo`].
pub const NET_READ: u16 = 7;
/// End the guest; [`Halt`].
pub const HALT: u16 = 8;

/// The port of a hypercall.
#[must_use]
pub const fn port(number: u16) -> u16 {
    PORT_BASE + number
}

/// The call did what it was asked for (`SOLO5_R_OK` in `solo5.h`).
pub const RESULT_OK: i32 = 0;
/// Nothing to read now (`SOLO5_R_AGAIN`).
pub const RESULT_AGAIN: i32 = 1;
/// The handle or the range is not valid for the call (`SOLO5_R_EINVAL`).
pub const RESULT_INVALID: i32 = 2;
/// Any other failure (`SOLO5_R_EUNSPEC`). A stock hvt tender never answers it, it ends the guest; ours answers it when the
/// host reports an error for a device, so that a guest can go on without that device.
pub const RESULT_UNSPECIFIED: i32 = 3;

/// [`WALLTIME`] (`struct hvt_hc_walltime`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Walltime {
    /// Out: nanoseconds since 1970-01-01 00:00 UTC.
    pub nsecs: u64,
}

/// [`PUTS`] (`struct hvt_hc_puts`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Puts {
    /// In: address of the text.
    pub data: u64,
    /// In: its length in bytes.
    pub len: u64,
}

/// [`POLL`] (`struct hvt_hc_poll`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Poll {
    /// In: how long to wait at most, in nanoseconds from the call.
    pub timeout_nsecs: u64,
    /// Out: bit `1 << handle` for each network device that has a frame to read. Bit 0, whose handle no device has, is
    /// [`crate::extension::POLL_SHUTDOWN`].
    pub ready_set: u64,
    /// Out: how many bits are set; zero after a timeout.
    pub ret: i32,
    /// Always zero.
    pub pad: u32,
}

/// [`BLOCK_WRITE`] and [`BLOCK_READ`] (`struct hvt_hc_block_write`, `struct hvt_hc_block_read`).
///
/// Stock tenders check that `[offset, offset + len)` is inside the device and nothing else: several blocks in one call
/// are fine. A guest keeps to multiples of the block size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BlockIo {
    /// In: index of the device in the manifest.
    pub handle: u64,
    /// In: where on the device, in bytes.
    pub offset: u64,
    /// In: address of the buffer.
    pub data: u64,
    /// In: length of the buffer in bytes. A read leaves it as it is: a call transfers all or fails.
    pub len: u64,
    /// Out: [`RESULT_OK`], [`RESULT_INVALID`] or [`RESULT_UNSPECIFIED`].
    pub ret: i32,
    /// Always zero.
    pub pad: u32,
}

/// [`NET_WRITE`] and [`NET_READ`] (`struct hvt_hc_net_write`, `struct hvt_hc_net_read`). A frame is an Ethernet frame with
/// its 14-byte header and without checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NetIo {
    /// In: index of the device in the manifest.
    pub handle: u64,
    /// In: address of the frame or of room for it.
    pub data: u64,
    /// In: length in bytes. Out of a read: the frame's length; what does not fit is lost.
    pub len: u64,
    /// Out: [`RESULT_OK`], [`RESULT_AGAIN`] (no frame), [`RESULT_INVALID`] or [`RESULT_UNSPECIFIED`].
    pub ret: i32,
    /// Always zero.
    pub pad: u32,
}

/// [`HALT`] (`struct hvt_hc_halt`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Halt {
    /// In: zero, or the address of a [`TrapFrame`] in [`HALT_COOKIE_SIZE`] readable bytes, for the core file.
    pub cookie: u64,
    /// In: the status that the tender exits with, of which the host sees the low eight bits.
    pub exit_status: i32,
    /// Always zero.
    pub pad: u32,
}

/// How many bytes must be readable at [`Halt::cookie`] (`HVT_HALT_COOKIE_MAX`).
pub const HALT_COOKIE_SIZE: u64 = 512;

/// The exit status by which a guest says that it gave up; the tender then writes a core file if asked to
/// (`SOLO5_EXIT_ABORT` in `solo5.h`).
pub const EXIT_ABORT: i32 = 255;

/// What a cookie points to: the state at a fault that the guest itself caught (`struct trap_frame` in the bindings'
/// `cpu_x86_64.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TrapFrame {
    /// The faulting address.
    pub cr2: u64,
    /// The error code.
    pub error_code: u64,
    /// The instruction pointer.
    pub rip: u64,
    /// The code segment.
    pub cs: u64,
    /// The flags.
    pub rflags: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// The stack segment.
    pub ss: u64,
}

const _: () = {
    assert!(size_of::<Walltime>() == 8);
    assert!(size_of::<Puts>() == 16);
    assert!(offset_of!(Puts, len) == 8);
    assert!(size_of::<Poll>() == 24);
    assert!(offset_of!(Poll, ready_set) == 8);
    assert!(offset_of!(Poll, ret) == 16);
    assert!(size_of::<BlockIo>() == 40);
    assert!(offset_of!(BlockIo, offset) == 8);
    assert!(offset_of!(BlockIo, data) == 16);
    assert!(offset_of!(BlockIo, len) == 24);
    assert!(offset_of!(BlockIo, ret) == 32);
    assert!(size_of::<NetIo>() == 32);
    assert!(offset_of!(NetIo, data) == 8);
    assert!(offset_of!(NetIo, len) == 16);
    assert!(offset_of!(NetIo, ret) == 24);
    assert!(size_of::<Halt>() == 16);
    assert!(offset_of!(Halt, exit_status) == 8);
    assert!(size_of::<TrapFrame>() == 56);
};

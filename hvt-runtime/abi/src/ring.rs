//! The shared ring for network devices (Solo5's `hvt_ring.h`, release 0.11 and later).
//!
//! One ring serves all network devices. The guest submits [`Entry`]s and the tender's I/O thread consumes them in order.
//! A write is fire and forget: no commit follows, and its buffer may be used again once [`Ring::ent_head`] has passed it.
//! A read is answered with one [`Commit`] at once, with [`crate::hypercall::RESULT_AGAIN`] when there is no frame; the
//! guest keeps at most [`ENTRIES`] reads without a consumed answer.
//!
//! Nobody tells the guest when a frame comes: it asks by a read, or learns of it from a `POLL`, which in turn does not end
//! when an answer was written.
//!
//! Indices run freely and wrap at 2³²; the slot is `index & MASK`. Each side publishes its own index with release order
//! and reads the other's with acquire order. To sleep, the tender sets [`Ring::needs_kick`], puts a full barrier and looks
//! at `ent_tail` once more; the guest publishes `ent_tail`, puts a full barrier and, when `needs_kick` is set, writes to
//! [`KICK_PORT`].

use core::mem::{offset_of, size_of};

/// Slots of each of the two queues (`HVT_RING_SIZE`).
pub const ENTRIES: u32 = 1024;
/// From an index to its slot (`HVT_RING_MASK`).
pub const MASK: u32 = ENTRIES - 1;
/// A 32-bit `out` of any value to this port wakes the I/O thread without leaving the virtual machine
/// (`HVT_RING_KICK_PIO_BASE`). Only valid when the ring was offered: the guest is ended otherwise.
pub const KICK_PORT: u16 = 0x600;

/// Operation: send a frame (`HVT_RING_NET_WRITE`).
pub const NET_WRITE: u32 = 1;
/// Operation: receive a frame (`HVT_RING_NET_READ`).
pub const NET_READ: u32 = 2;

/// A submission, written by the guest (`struct hvt_ring_entry`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// [`NET_WRITE`] or [`NET_READ`]; anything else is skipped.
    pub operation: u32,
    /// Index of the device in the manifest.
    pub handle: u32,
    /// Address of the frame or of room for it.
    pub data: u64,
    /// Its length in bytes.
    pub len: u32,
    /// The guest's own mark, repeated in the commit.
    pub id: u32,
    /// Always zero.
    pub reserved: u64,
}

/// The answer to a read, written by the tender (`struct hvt_ring_commit`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Commit {
    /// The mark of the submission.
    pub id: u32,
    /// A result code of [`crate::hypercall`].
    pub ret: i32,
    /// The frame's length in bytes.
    pub len: u32,
    /// Always zero.
    pub reserved: u32,
}

/// The memory at [`crate::boot::BootInfo::net_ring`] (`struct hvt_ring`). It lies above
/// [`crate::boot::BootInfo::mem_size`], so no buffer can be inside it.
#[derive(Debug)]
#[repr(C)]
pub struct Ring {
    /// Guest: how many entries it has submitted.
    pub ent_tail: u32,
    /// Guest: how many commits it has consumed.
    pub com_head: u32,
    /// The rest of the guest's cache line.
    pub pad0: [u8; 56],
    /// Tender: how many entries it has consumed.
    pub ent_head: u32,
    /// Tender: how many commits it has written.
    pub com_tail: u32,
    /// Tender: other than zero while it sleeps and wants a kick.
    pub needs_kick: u32,
    /// The rest of the tender's cache line.
    pub pad1: [u8; 52],
    /// The submissions.
    pub entries: [Entry; ENTRIES as usize],
    /// The answers.
    pub commits: [Commit; ENTRIES as usize],
}

const _: () = {
    assert!(size_of::<Entry>() == 32);
    assert!(offset_of!(Entry, data) == 8);
    assert!(offset_of!(Entry, len) == 16);
    assert!(offset_of!(Entry, id) == 20);
    assert!(size_of::<Commit>() == 16);
    assert!(offset_of!(Commit, ret) == 4);
    assert!(offset_of!(Commit, len) == 8);
    assert!(size_of::<Ring>() == 49_280);
    assert!(offset_of!(Ring, com_head) == 4);
    assert!(offset_of!(Ring, ent_head) == 64);
    assert!(offset_of!(Ring, com_tail) == 68);
    assert!(offset_of!(Ring, needs_kick) == 72);
    assert!(offset_of!(Ring, entries) == 128);
    assert!(offset_of!(Ring, commits) == 32_896);
};

//! The slot ([`crate::extension::FEATURE_BLOCK_SLOT`]): calls for block devices that a thread of the tender serves while
//! the guest stays in its machine.
//!
//! Leaving a machine can cost more than a small call to a fast disk does. Where it does, a guest that makes such calls in
//! quick succession puts the call into the slot instead: the number of one of the hypercalls `BLOCK_WRITE`, `BLOCK_READ`,
//! `BLOCK_FLUSH` and `BLOCK_COMMIT` and the address of its structure. What the call does, what it answers and how a guest
//! is ended that gets it wrong is the same either way; the plain calls stay usable at any time.
//!
//! # Protocol
//!
//! There is one slot, of one [`Slot`], zero at the start, in a page of its own that no call may name as a buffer.
//!
//! 1. The guest writes [`Slot::call`] and [`Slot::argument`], then [`Slot::asked`], one more than before, with sequentially
//!    consistent order.
//! 2. The tender's thread reads `asked` with acquire order, then the call, each once; serves it; and writes the number that
//!    it read to [`Slot::served`] with release order.
//! 3. The guest looks at `served` until it is `asked`, for as long as that is cheaper than the other way: the hypercall
//!    [`crate::extension::SLOT_WAIT`] returns when it is. It serves the call itself when the thread has not begun, so a
//!    guest never depends on the thread getting a processor.
//!
//! The thread sleeps at first. Any 32 bits written to the port of [`crate::extension::SLOT_WAKE`] wake it. After
//! each call it looks at the slot for [`Slot::look_nsecs`], after a wake-up a few times longer, and changes [`Slot::beat`] with every look: a guest that sees it
//! change knows that the thread has a processor at this moment. When nothing came, the thread writes [`Slot::asleep`], puts
//! a full barrier, looks once more, and sleeps. So an idle guest costs nothing, and a call pays only when it follows the one
//! before within that time.
//!
//! A call with a number that is not one of the four ends the guest, as any misuse does: at its next `SLOT_WAIT`, and
//! nothing in the slot is served any more.
//!
//! A tender offers it only where it can pay: to a guest in a machine (a process leaves nothing), with a block device, and
//! with more than one processor for the two of them.

use core::mem::{offset_of, size_of};

/// The memory at [`crate::boot::BootExtension::block_slot`].
#[derive(Debug)]
#[repr(C)]
pub struct Slot {
    /// Guest: how many calls it has put here, modulo 2³².
    pub asked: u32,
    /// Guest: number of the hypercall.
    pub call: u32,
    /// Guest: address of the hypercall's structure.
    pub argument: u64,
    /// The rest of the guest's cache line.
    pub pad0: [u8; 48],
    /// Tender: the value of `asked` at the last call that was served.
    pub served: u32,
    /// Tender: other than zero while its thread sleeps, until it is woken.
    pub asleep: u32,
    /// Tender: for how long its thread looks for the next call, at most, in nanoseconds. It does not change.
    pub look_nsecs: u64,
    /// Tender: changes with every look of its thread.
    pub beat: u32,
    /// The rest of the tender's cache line.
    pub pad1: [u8; 44],
}

const _: () = {
    assert!(size_of::<Slot>() == 128);
    assert!(offset_of!(Slot, call) == 4);
    assert!(offset_of!(Slot, argument) == 8);
    assert!(offset_of!(Slot, served) == 64);
    assert!(offset_of!(Slot, asleep) == 68);
    assert!(offset_of!(Slot, look_nsecs) == 72);
    assert!(offset_of!(Slot, beat) == 80);
};

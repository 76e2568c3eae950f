//! Solo5's shared ring ([`hvt_abi::ring`]), the guest's side: for tenders that offer it and not our exchange.
//!
//! Frames cross it without leaving the machine: the tender has a thread that serves it. [`driver`] knows slots, indices and
//! whose a buffer is at the moment; [`mod@line`] knows when to send, when to ask for frames and when to wait. Memory, the
//! calls and the queues of frames are arguments, so both are tested on any host, and against the tender's own code in
//! `hvt-tender`.
//!
//! A buffer that was given to the ring is the tender's until the ring gives it back. Frames go out of the buffer that the
//! stack wrote them into and come into the buffer that the stack reads them from; nothing is copied here.

pub mod driver;
pub mod line;
#[cfg(test)]
mod tests;

use hvt_abi::boot::{BootInfo, FEATURE_RING_IO};

/// The ring's address, if the tender offers one.
///
/// A tender older than Solo5 0.11 has the manifest where the bit and the address are now; the bit then reads as set, and
/// the address as zero. So both are asked.
#[must_use]
pub fn offered(info: &BootInfo) -> Option<u64> {
    (info.host_features & FEATURE_RING_IO != 0 && info.net_ring != 0).then_some(info.net_ring)
}

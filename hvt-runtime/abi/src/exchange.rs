//! The exchange ([`crate::extension::FEATURE_EXCHANGE`]): frames in both directions in one call.
//!
//! One [`Exchange`] does three things in this order:
//!
//! 1. It sends the [`Frame`]s at [`Exchange::send`], in order, to the device that each one names.
//! 2. When a time limit is given, it waits until a device of [`Exchange::receive_set`] has a frame, a device of
//!    [`Exchange::writable_set`] takes frames again, a request to stop comes in, or the time is over. A signal of the host
//!    can end the wait early, with nothing to tell.
//! 3. It receives frames from the devices of [`Exchange::receive_set`] into the rooms at [`Exchange::receive`], taking
//!    from devices in turns, until they are empty or the rooms are full.
//!
//! A guest that has work to do calls it with a time limit of zero, or not at all; one that has nothing to do calls it
//! with the time to its next timer. The plain calls (`NET_READ`, `NET_WRITE`, `POLL`) stay usable on devices without
//! offload; on a device with offload `NET_READ` and `NET_WRITE` answer [`crate::hypercall::RESULT_INVALID`].
//!
//! # Memory
//!
//! The tender copies the structure, and each descriptor once when it gets to it, so it does not matter when the guest
//! changes them during the call. The bytes of frames go between the guest's memory and the host's kernel without a copy in
//! the tender, except on a stream socket (passt). The structure, both arrays and every room must be writable to the guest
//! and every frame readable, else the guest is ended; of the rooms that stay empty only the first is looked at. The arrays
//! may not overlap the structure or each other if the guest wants to make sense of the answer.
//!
//! # Bounds
//!
//! At most [`MAX_FRAMES`] in each direction, of at most [`MAX_FRAME_LEN`] bytes each: one call moves at most 16 MiB either
//! way.

use core::mem::{offset_of, size_of};

/// The most frames in each direction of one call.
pub const MAX_FRAMES: u32 = 256;

/// The longest frame in bytes: an Ethernet header with a VLAN tag and 65,535 bytes, which is what segmentation offload
/// makes of a packet. A room for frames of a device without offload needs the device's MTU and 18 bytes.
pub const MAX_FRAME_LEN: u32 = 18 + 65_535;

/// The argument of [`crate::extension::EXCHANGE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exchange {
    /// In: address of `send_count` [`Frame`]s to send. Any address when there are none.
    pub send: u64,
    /// In: address of `receive_count` [`Frame`]s that name rooms. Any address when there are none.
    pub receive: u64,
    /// In: how long to wait at most in step 2, in nanoseconds from the start of the wait. Zero does not wait.
    pub timeout_nsecs: u64,
    /// In: bit `1 << handle` for each network device to wait for and receive from. Other bits are ignored.
    pub receive_set: u64,
    /// In: bit `1 << handle` for each network device whose being able to send again ends the wait. Of use after
    /// [`crate::hypercall::RESULT_AGAIN`] for a frame; a device that can take frames ends the wait at once. Other bits are
    /// ignored.
    pub writable_set: u64,
    /// Out: bit `1 << handle` for each device of `receive_set` that may have more frames to receive: it was not found
    /// empty. With no rooms that makes the call a `POLL`. Bit 0 is [`crate::extension::POLL_SHUTDOWN`], with the same
    /// meaning: told once per request, by whichever of the two calls comes first.
    pub ready_set: u64,
    /// In: how many frames to send, at most [`MAX_FRAMES`].
    pub send_count: u32,
    /// In: how many rooms there are, at most [`MAX_FRAMES`].
    pub receive_count: u32,
    /// Out: how many frames were sent. Only when it is below `send_count` is there a [`Frame::status`] to look at.
    pub sent: u32,
    /// Out: how many rooms were filled: the first so many.
    pub received: u32,
    /// Out: [`crate::hypercall::RESULT_OK`], or [`crate::hypercall::RESULT_INVALID`] when a count is too large; then
    /// nothing was done and the other results are zero.
    pub ret: i32,
    /// Always zero.
    pub pad: u32,
}

/// A frame to send, or room for one to receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    /// In: address of the frame's first byte, that of its Ethernet header, or of room for it. Nothing precedes the frame,
    /// with or without offload.
    pub data: u64,
    /// In: length of the frame in bytes, without a checksum of its own (14 to [`MAX_FRAME_LEN`]), or of the room. Out of a
    /// receive: length of the frame in the room.
    pub len: u32,
    /// In: index in the manifest of the device to send to. Out of a receive: the device that it came from.
    pub handle: u16,
    /// Out: a result code of [`crate::hypercall`]. For a frame to send it is written only when the frame was not sent, so
    /// the guest puts zero there before: AGAIN when the device takes no more now; INVALID for a wrong device, length or
    /// offload, or a frame that the host refuses; UNSPECIFIED when the host fails (a link that is down). For a received
    /// frame it is always written: OK, or INVALID when the frame was longer than the room and lost its end.
    pub status: u16,
    /// In for a frame to send, out of a receive; all zero on a device without offload.
    pub offload: Offload,
    /// Fills the structure. The guest leaves zero; the tender writes zero with a received frame.
    pub pad: [u8; 6],
}

/// What a frame leaves to the other side: the fields of `struct virtio_net_hdr` (virtio 1.2, section 5.1.6), little endian.
///
/// Only on devices in [`crate::boot::BootExtension::net_offload`], which whoever started the tender has declared to be
/// trusted: a received frame with [`Offload::NEEDS_CSUM`] carries no checksum over its data, so nobody can check it. The
/// guest may send frames with a checksum left out, and TCP segments longer than the MTU (IPv4 and IPv6, with
/// [`Offload::NEEDS_CSUM`]); it must be ready to receive both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offload {
    /// [`Offload::NEEDS_CSUM`] and, only in received frames, [`Offload::DATA_VALID`].
    pub flags: u8,
    /// [`Offload::GSO_NONE`], or [`Offload::GSO_TCPV4`] or [`Offload::GSO_TCPV6`], these possibly with
    /// [`Offload::GSO_ECN`].
    pub gso_type: u8,
    /// With GSO: length of all headers up to the TCP payload, in bytes. A hint: read it from the frame.
    pub hdr_len: u16,
    /// With GSO: the payload of each segment, in bytes. The sender keeps it within the MTU and the peer's MSS.
    pub gso_size: u16,
    /// With [`Offload::NEEDS_CSUM`]: where the bytes start that the checksum covers, from the frame's first byte.
    pub csum_start: u16,
    /// With [`Offload::NEEDS_CSUM`]: where the checksum goes, from `csum_start`. The field holds the sum over the pseudo
    /// header.
    pub csum_offset: u16,
}

impl Offload {
    /// The checksum is not there yet.
    pub const NEEDS_CSUM: u8 = 1;
    /// The host has checked the checksum.
    pub const DATA_VALID: u8 = 2;
    /// One packet.
    pub const GSO_NONE: u8 = 0;
    /// To be cut into TCP segments over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// To be cut into TCP segments over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// The segments take part in ECN: CWR only in the first.
    pub const GSO_ECN: u8 = 0x80;
}

const _: () = {
    assert!(size_of::<Exchange>() == 72);
    assert!(offset_of!(Exchange, receive) == 8);
    assert!(offset_of!(Exchange, timeout_nsecs) == 16);
    assert!(offset_of!(Exchange, receive_set) == 24);
    assert!(offset_of!(Exchange, writable_set) == 32);
    assert!(offset_of!(Exchange, ready_set) == 40);
    assert!(offset_of!(Exchange, send_count) == 48);
    assert!(offset_of!(Exchange, receive_count) == 52);
    assert!(offset_of!(Exchange, sent) == 56);
    assert!(offset_of!(Exchange, received) == 60);
    assert!(offset_of!(Exchange, ret) == 64);
    assert!(size_of::<Frame>() == 32);
    assert!(offset_of!(Frame, len) == 8);
    assert!(offset_of!(Frame, handle) == 12);
    assert!(offset_of!(Frame, status) == 14);
    assert!(offset_of!(Frame, offload) == 16);
    assert!(offset_of!(Frame, pad) == 26);
    assert!(size_of::<Offload>() == 10);
    assert!(offset_of!(Offload, gso_type) == 1);
    assert!(offset_of!(Offload, hdr_len) == 2);
    assert!(offset_of!(Offload, gso_size) == 4);
    assert!(offset_of!(Offload, csum_start) == 6);
    assert!(offset_of!(Offload, csum_offset) == 8);
};

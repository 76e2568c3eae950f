//! Frames: number, type and body under one tag.
//!
//! ```text
//! length (4) | sequence number (8) | type (1) | body | tag (32)
//! ```
//!
//! Integers are big-endian. The length counts everything after itself. The tag is HMAC-SHA256 with the sender's MAC key
//! over all the bytes of the frame before it, so that it covers length, number, type and body; the direction is in the
//! key.

use super::{FRAME_OVERHEAD, MAX_FRAME_BYTES};
use crate::mac::{self, TAG_LEN};

/// Offsets of the header's fields.
mod field {
    use std::ops::Range;

    pub(super) const LENGTH: Range<usize> = 0..4;
    pub(super) const SEQUENCE: Range<usize> = 4..12;
    pub(super) const KIND: usize = 12;
}

/// The bytes before the body.
pub(super) const HEADER_LEN: usize = 13;
/// The bytes of the length field, which does not count itself.
pub(super) const LENGTH_LEN: usize = 4;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The client holds the key; no body, number 0.
    ClientProof = 0x01,
    /// A request in JSON.
    Request = 0x02,
    /// The server holds the key; no body, number 0.
    ServerProof = 0x81,
    /// A reply in JSON, with the number of its request.
    Reply = 0x82,
    /// The client's proof does not hold.
    Refusal = 0xff,
}

/// A whole frame as it arrived. Nothing in it is to be believed before [`Frame::verify`].
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// How many bytes the frame that starts with `start` has, as far as `start` tells; `Err` has the length that is
    /// below [`FRAME_OVERHEAD`] or above `max`.
    pub(super) fn wanted(start: &[u8], max: usize) -> Result<usize, u64> {
        let Some(Ok(length)) = start.get(field::LENGTH).map(<[u8; 4]>::try_from) else {
            return Ok(LENGTH_LEN);
        };
        let total = u64::from(u32::from_be_bytes(length)) + LENGTH_LEN as u64;
        match usize::try_from(total) {
            Ok(total) if (FRAME_OVERHEAD..=max).contains(&total) => Ok(total),
            _ => Err(total),
        }
    }

    /// Takes a whole frame, whose length [`Self::wanted`] told.
    ///
    /// # Panics
    /// The accessors panic on fewer than [`FRAME_OVERHEAD`] bytes; [`Self::wanted`] never asks for fewer.
    pub(super) const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Whether the holder of this key made it.
    pub(super) fn verify(&self, key: &[u8]) -> bool {
        let (tagged, tag) = self.bytes.split_at(self.bytes.len() - TAG_LEN);
        mac::verify(key, &[tagged], tag)
    }

    pub(super) fn sequence(&self) -> u64 {
        let mut number = [0; 8];
        number.copy_from_slice(&self.bytes[field::SEQUENCE]);
        u64::from_be_bytes(number)
    }

    pub(super) fn is(&self, kind: Kind) -> bool {
        self.bytes[field::KIND] == kind as u8
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..self.bytes.len() - TAG_LEN]
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Writes a frame, unless it would have more than `max` bytes; `Err` has how many.
pub(super) fn emit(
    key: &[u8],
    sequence: u64,
    kind: Kind,
    body: &[u8],
    max: usize,
) -> Result<Vec<u8>, usize> {
    let total = FRAME_OVERHEAD.saturating_add(body.len());
    let length = match u32::try_from(total - LENGTH_LEN) {
        Ok(length) if total <= max => length,
        _ => return Err(total),
    };
    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(body);
    let tag = mac::tag(key, &[&bytes]);
    bytes.extend_from_slice(&tag);
    Ok(bytes)
}

/// Writes a proof: a frame with number 0 and no body.
pub(super) fn proof(key: &[u8], kind: Kind) -> Vec<u8> {
    emit(key, 0, kind, &[], MAX_FRAME_BYTES).unwrap_or_default()
}

/// The frame that stands in place of a server's proof when there will be none.
pub(super) const fn refusal() -> [u8; FRAME_OVERHEAD] {
    let mut bytes = [0; FRAME_OVERHEAD];
    // The length: 45 bytes less the 4 of the field itself.
    bytes[3] = 41;
    bytes[field::KIND] = Kind::Refusal as u8;
    bytes
}

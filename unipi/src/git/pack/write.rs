//! Writes a pack: every object whole, compressed, in the order given.

use zlib_rs::{Deflate, DeflateFlush, Status};

use super::PackError;
use crate::git::generation::Object;
use crate::git::pace::{Pace, SLICE};
use crate::git::{HashKind, ObjectKind};

/// A pack of `objects`, as [`super::Unpacker`] or any git reads it: the form in which a generation is stored.
///
/// # Errors
///
/// [`PackError::Limit`] when there are more objects than a pack can count, [`PackError::Collision`] when its bytes were
/// made to collide under SHA-1.
pub async fn write(hash: HashKind, objects: &[&Object]) -> Result<Vec<u8>, PackError> {
    let too_many = |_| PackError::Limit { name: "objects", limit: u64::from(u32::MAX) };
    let count = u32::try_from(objects.len()).map_err(too_many)?;
    let mut pack = b"PACK\0\0\0\x02".to_vec();
    pack.extend_from_slice(&count.to_be_bytes());
    let mut pace = Pace::default();
    // Level 1: site content is mostly compressed already, and a start must not wait for it.
    let mut deflate = Deflate::new(1, true, 15);
    let mut buffer = vec![0_u8; 64 << 10];
    for object in objects {
        entry_header(&mut pack, object.kind, object.data.len());
        deflate.reset();
        let mut rest = &object.data[..];
        loop {
            let piece = &rest[..rest.len().min(SLICE)];
            let flush = if piece.len() == rest.len() {
                DeflateFlush::Finish
            } else {
                DeflateFlush::NoFlush
            };
            let (before_in, before_out) = (deflate.total_in(), deflate.total_out());
            // Deflate has no error that valid buffers can meet; a stream cut short would be refused when the pack is read.
            let status = deflate.compress(piece, &mut buffer, flush).unwrap_or(Status::StreamEnd);
            let taken = usize::try_from(deflate.total_in() - before_in).unwrap_or(usize::MAX);
            let made = usize::try_from(deflate.total_out() - before_out).unwrap_or(usize::MAX);
            pack.extend_from_slice(&buffer[..made]);
            rest = &rest[taken..];
            pace.spend(taken + made).await;
            if status == Status::StreamEnd {
                break;
            }
        }
    }
    let mut checksum = gix_hash::hasher(hash);
    for piece in pack.chunks(SLICE) {
        checksum.update(piece);
        pace.spend(piece.len()).await;
    }
    let checksum = checksum.try_finalize().map_err(|_| PackError::Collision)?;
    pack.extend_from_slice(checksum.as_slice());
    Ok(pack)
}

fn entry_header(pack: &mut Vec<u8>, kind: ObjectKind, size: usize) {
    let number: u8 = match kind {
        ObjectKind::Commit => 1,
        ObjectKind::Tree => 2,
        ObjectKind::Blob => 3,
        ObjectKind::Tag => 4,
    };
    let mut first = (number << 4) | low_bits(size, 0x0f);
    let mut rest = size >> 4;
    while rest > 0 {
        pack.push(first | 0x80);
        first = low_bits(rest, 0x7f);
        rest >>= 7;
    }
    pack.push(first);
}

fn low_bits(value: usize, mask: u8) -> u8 {
    value.to_le_bytes()[0] & mask
}

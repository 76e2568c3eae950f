//! Deltas: an object described by what to copy from another and what to insert (gitformat-pack, "Deltified
//! representation").

use super::ObjectHasher;
use crate::git::pace::{Pace, SLICE};
use crate::git::{HashKind, ObjectKind};

/// What is wrong with a delta.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeltaError {
    /// It ends in the middle of its header or of an instruction.
    #[error("it ends early")]
    Truncated,
    /// A size is longer than 64 bits.
    #[error("a size is too long")]
    Size,
    /// It was made for a base of another size.
    #[error("its base has another size")]
    BaseSize,
    /// It copies from beyond its base.
    #[error("it copies from outside its base")]
    Copy,
    /// It uses the reserved instruction 0.
    #[error("it uses the reserved instruction")]
    Reserved,
    /// It makes more or fewer bytes than it declared.
    #[error("its result has not the declared size")]
    ResultSize,
}

/// A delta whose header was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delta<'a> {
    base_size: u64,
    pub(super) result_size: u64,
    instructions: &'a [u8],
}

impl<'a> Delta<'a> {
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, DeltaError> {
        let mut rest = data;
        let base_size = size(&mut rest)?;
        let result_size = size(&mut rest)?;
        Ok(Self { base_size, result_size, instructions: rest })
    }

    /// Applies the delta to `base`. The caller has checked that memory for the result is allowed.
    pub(super) async fn apply(
        &self,
        base: &[u8],
        kind: ObjectKind,
        hash: HashKind,
        pace: &mut Pace,
    ) -> Result<(Vec<u8>, ObjectHasher), DeltaError> {
        if base.len() as u64 != self.base_size {
            return Err(DeltaError::BaseSize);
        }
        let size = usize::try_from(self.result_size).map_err(|_| DeltaError::Size)?;
        let mut result = Vec::with_capacity(size);
        let mut hasher = ObjectHasher::new(hash, kind, size);
        let mut rest = self.instructions;
        while let Some((&instruction, after)) = rest.split_first() {
            rest = after;
            let piece = if instruction & 0x80 != 0 {
                let offset = number(&mut rest, instruction & 0x0f, 4)?;
                let length = number(&mut rest, (instruction >> 4) & 0x07, 3)?;
                let length = if length == 0 { 0x1_0000 } else { length };
                base.get(offset..).and_then(|from| from.get(..length)).ok_or(DeltaError::Copy)?
            } else if instruction != 0 {
                let (piece, after) =
                    rest.split_at_checked(usize::from(instruction)).ok_or(DeltaError::Truncated)?;
                rest = after;
                piece
            } else {
                return Err(DeltaError::Reserved);
            };
            if piece.len() > size - result.len() {
                return Err(DeltaError::ResultSize);
            }
            for slice in piece.chunks(SLICE) {
                result.extend_from_slice(slice);
                hasher.update(slice);
                pace.spend(slice.len() + 16).await;
            }
        }
        if result.len() == size { Ok((result, hasher)) } else { Err(DeltaError::ResultSize) }
    }
}

/// A size: seven bits per byte, the least significant first.
fn size(rest: &mut &[u8]) -> Result<u64, DeltaError> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(DeltaError::Truncated)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DeltaError::Size)
}

/// A number of up to `bytes` bytes, little-endian, of which `present` says which ones are there.
fn number(rest: &mut &[u8], present: u8, bytes: u32) -> Result<usize, DeltaError> {
    let mut value = 0_usize;
    for position in (0..bytes).filter(|position| present & (1 << position) != 0) {
        let (&byte, after) = rest.split_first().ok_or(DeltaError::Truncated)?;
        *rest = after;
        value |= usize::from(byte) << (8 * position);
    }
    Ok(value)
}

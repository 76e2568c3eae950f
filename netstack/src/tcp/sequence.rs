//! Positions in a stream, and the 32-bit sequence numbers that stand for them on the wire.
//!
//! Inside the engine an octet has a 64-bit position that never wraps around: the SYN is at
//! [`START`], the first octet of data one further. Numbers of the wire are read as the position
//! next to one that is known (RFC 9293 §3.4).

use crate::flow::low_word;
use crate::packet::distance;

/// A place in the stream of one direction.
pub(crate) type Position = u64;

/// Where the SYN is. High enough that numbers before it have positions too.
pub(crate) const START: Position = 1 << 32;

/// The numbers of one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    /// The initial sequence number.
    pub(crate) initial: u32,
}

impl Numbers {
    /// The number of a position.
    pub(crate) fn wire(self, position: Position) -> u32 {
        self.initial.wrapping_add(low_word(position))
    }

    /// The position of a number: of all that it may stand for, the one nearest to `near`.
    pub(crate) fn position(self, number: u32, near: Position) -> Position {
        near.saturating_add_signed(i64::from(distance(number, self.wire(near))))
    }
}

/// A difference of positions as a length in memory.
pub(crate) fn length(octets: u64) -> usize {
    usize::try_from(octets).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_the_wrap_of_numbers() {
        for initial in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX - 3, u32::MAX] {
            let numbers = Numbers { initial };
            assert_eq!(numbers.wire(START), initial);
            for far in [0, 1, 5, 1 << 31, (1 << 32) - 1, 1 << 32, (3 << 32) + 7] {
                let near = START + far;
                for step in [-0x7fff_ffff_i64, -1000, -1, 0, 1, 1000, 0x7fff_ffff] {
                    let position = near.saturating_add_signed(step);
                    assert_eq!(numbers.position(numbers.wire(position), near), position);
                }
            }
        }
    }
}

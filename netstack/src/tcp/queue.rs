//! A queue of octets whose memory is what it holds: pieces that come with data and go when they
//! are read or acknowledged. It never moves what it holds, and an empty queue owns nothing.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::sequence::{Position, length};

/// The smallest piece.
const PIECE_MIN: usize = 512;
/// The largest piece.
const PIECE_MAX: usize = 64 << 10;

#[derive(Debug)]
struct Piece {
    start: Position,
    octets: Vec<u8>,
}

/// Octets from one position in a stream to another.
#[derive(Debug)]
pub(crate) struct Queue {
    pieces: VecDeque<Piece>,
    start: Position,
    end: Position,
    held: usize,
}

impl Queue {
    /// An empty queue at a position.
    pub(crate) fn new(at: Position) -> Self {
        Self { pieces: VecDeque::new(), start: at, end: at, held: 0 }
    }

    /// The position of the first octet.
    pub(crate) fn start(&self) -> Position {
        self.start
    }

    /// The position after the last octet.
    pub(crate) fn end(&self) -> Position {
        self.end
    }

    pub(crate) fn len(&self) -> usize {
        length(self.end - self.start)
    }

    /// Memory in octets, room for more included.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Appends octets.
    pub(crate) fn push(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let room =
                self.pieces.back().map_or(0, |last| last.octets.capacity() - last.octets.len());
            if room == 0 {
                // Pieces grow with the queue, so that their number stays small.
                let capacity = octets.len().max(self.len()).clamp(PIECE_MIN, PIECE_MAX);
                let octets = Vec::with_capacity(capacity);
                self.held += octets.capacity();
                self.pieces.push_back(Piece { start: self.end, octets });
                continue;
            }
            let (now, later) = octets.split_at(room.min(octets.len()));
            if let Some(last) = self.pieces.back_mut() {
                last.octets.extend_from_slice(now);
            }
            self.end += now.len() as u64;
            octets = later;
        }
    }

    /// Copies octets from `position` on, which must be in the queue, and returns how many; fewer
    /// than asked for at the queue's end.
    pub(crate) fn copy(&self, position: Position, target: &mut [u8]) -> usize {
        let mut copied = 0;
        let mut index = self.pieces.partition_point(|piece| piece.start <= position);
        index = index.saturating_sub(1);
        let mut offset =
            self.pieces.get(index).map_or(0, |piece| length(position.saturating_sub(piece.start)));
        while copied < target.len()
            && let Some(piece) = self.pieces.get(index)
        {
            let source = piece.octets.get(offset..).unwrap_or_default();
            let count = source.len().min(target.len() - copied);
            target[copied..copied + count].copy_from_slice(&source[..count]);
            copied += count;
            index += 1;
            offset = 0;
        }
        copied
    }

    /// Forgets everything before `position`.
    pub(crate) fn release(&mut self, position: Position) {
        self.start = position.clamp(self.start, self.end);
        if self.start == self.end {
            self.pieces = VecDeque::new();
            self.held = 0;
            return;
        }
        while let Some(first) = self.pieces.front()
            && first.start + first.octets.len() as u64 <= self.start
        {
            self.held -= first.octets.capacity();
            self.pieces.pop_front();
        }
    }

    /// Goes on at `position` without the octets before it; the queue must be empty.
    pub(crate) fn skip_to(&mut self, position: Position) {
        self.release(self.end);
        (self.start, self.end) = (position, position);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_vector_would(
            steps in proptest::collection::vec((any::<bool>(), 0usize..9000), 1..60)
        ) {
            let mut queue = Queue::new(77);
            let mut model: Vec<u8> = Vec::new();
            let mut next = 0u8;
            for (push, count) in steps {
                if push {
                    let octets: Vec<u8> = (0..count).map(|n| next.wrapping_add(n as u8)).collect();
                    next = next.wrapping_add(count as u8).wrapping_add(1);
                    queue.push(&octets);
                    model.extend(octets);
                } else {
                    let from = count.min(model.len());
                    let mut target = vec![0; 3000];
                    let copied = queue.copy(queue.start() + from as u64, &mut target);
                    prop_assert_eq!(&target[..copied], &model[from..model.len().min(from + 3000)]);
                    queue.release(queue.start() + from as u64);
                    model.drain(..from);
                }
                prop_assert_eq!(queue.len(), model.len());
                // Only the first piece can be partly read, and only the last one partly filled.
                prop_assert!(queue.held() <= model.len() + 2 * PIECE_MAX);
                prop_assert!(!model.is_empty() || queue.held() == 0);
            }
        }
    }
}

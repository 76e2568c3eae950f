//! Received data that is ahead of a gap, and what selective acknowledgements say about it
//! (RFC 2018 §4, RFC 2883 §4).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::sequence::{Position, length};

/// Most stretches of data between gaps. A sender that makes more must send them again.
const ISLANDS_MAX: usize = 256;
/// How many blocks fit into a header beside a timestamp.
const BLOCKS: usize = 3;

/// A range of positions.
pub(crate) type Range = (Position, Position);

/// What became of data ahead of a gap.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is kept; the range of it that was there before, if any.
    Yes { duplicate: Option<Range> },
    /// There are too many gaps.
    No,
}

/// Data ahead of gaps.
#[derive(Debug, Default)]
pub(crate) struct Islands {
    islands: BTreeMap<Position, Vec<u8>>,
    /// Positions within the islands that changed last, the newest first; zero stands for none.
    recent: [Position; BLOCKS],
    held: usize,
}

impl Islands {
    pub(crate) fn is_empty(&self) -> bool {
        self.islands.is_empty()
    }

    /// Memory in octets.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Keeps data that begins at `start`.
    pub(crate) fn insert(&mut self, start: Position, data: &[u8]) -> Kept {
        let end = start + data.len() as u64;
        let before = self.islands.range(..=start).next_back();
        let touching = before.map(|(&key, octets)| (key, key + octets.len() as u64));
        let (key, mut island, mut duplicate) = match touching.filter(|&(_, until)| until >= start) {
            Some((key, until)) => {
                self.note(start);
                let duplicate = (until > start).then_some((start, until.min(end)));
                if until >= end {
                    return Kept::Yes { duplicate };
                }
                let mut island = self.take(key).unwrap_or_default();
                island.extend_from_slice(&data[length(until - start)..]);
                (key, island, duplicate)
            }
            None if self.islands.len() >= ISLANDS_MAX => return Kept::No,
            None => (start, data.to_vec(), None),
        };
        // Islands that begin within the new data, or right after it.
        let covered: Vec<_> = self.islands.range(start..=end).map(|(&key, _)| key).collect();
        for next in covered {
            let octets = self.take(next).unwrap_or_default();
            let until = next + octets.len() as u64;
            if next < end {
                duplicate.get_or_insert_with(|| (next, until.min(end)));
            }
            if until > end {
                island.extend_from_slice(&octets[length(end - next)..]);
            }
        }
        self.held += island.capacity();
        self.islands.insert(key, island);
        self.note(start);
        Kept::Yes { duplicate }
    }

    /// Takes the octets that continue a stream which has reached `next`; what lies before is
    /// dropped.
    pub(crate) fn follow(&mut self, next: Position) -> Option<Vec<u8>> {
        while let Some((&key, octets)) = self.islands.first_key_value() {
            if key > next {
                return None;
            }
            let known = length(next - key);
            let useful = known < octets.len();
            let mut octets = self.take(key).unwrap_or_default();
            if useful {
                octets.drain(..known);
                return Some(octets);
            }
        }
        None
    }

    /// Drops everything. What was selectively acknowledged may be asked for again (RFC 2018 §8).
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The blocks to report, the one that changed last first. `first` is a duplicate to report
    /// before them.
    pub(crate) fn blocks(&self, first: Option<Range>) -> [Option<Range>; BLOCKS] {
        let mut blocks = [None; BLOCKS];
        let mut count = 0;
        let recent = self.recent.iter().filter_map(|&at| self.around(at));
        for block in first.into_iter().chain(recent) {
            // A duplicate may be part of a block that follows: both are reported.
            if count < BLOCKS && !blocks.contains(&Some(block)) {
                blocks[count] = Some(block);
                count += 1;
            }
        }
        blocks
    }

    /// The island around a position.
    fn around(&self, at: Position) -> Option<Range> {
        let (&key, octets) = self.islands.range(..=at).next_back()?;
        let end = key + octets.len() as u64;
        (at < end).then_some((key, end))
    }

    fn take(&mut self, key: Position) -> Option<Vec<u8>> {
        let island = self.islands.remove(&key)?;
        self.held -= island.capacity();
        Some(island)
    }

    fn note(&mut self, at: Position) {
        let island = self.around(at);
        let mut recent = [at, 0, 0];
        let mut count = 1;
        for &other in &self.recent {
            if count < BLOCKS && other != 0 && self.around(other) != island {
                recent[count] = other;
                count += 1;
            }
        }
        self.recent = recent;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use proptest::prelude::*;

    use super::*;

    fn data(start: u64, end: u64) -> Vec<u8> {
        (start..end).map(|n| n as u8).collect()
    }

    #[test]
    fn blocks_are_reported_newest_first_and_duplicates_before_all() {
        let mut islands = Islands::default();
        for (start, end) in [(20, 30), (40, 50), (60, 70), (80, 90)] {
            let kept = islands.insert(start, &data(start, end));
            assert_eq!(kept, Kept::Yes { duplicate: None });
        }
        assert_eq!(islands.blocks(None), [Some((80, 90)), Some((60, 70)), Some((40, 50))]);
        assert_eq!(islands.insert(30, &data(30, 40)), Kept::Yes { duplicate: None });
        assert_eq!(islands.blocks(None), [Some((20, 50)), Some((80, 90)), Some((60, 70))]);
        let duplicate = Some((62, 68));
        assert_eq!(islands.insert(62, &data(62, 68)), Kept::Yes { duplicate });
        let expected = [duplicate, Some((60, 70)), Some((20, 50))];
        assert_eq!(islands.blocks(duplicate), expected);
    }

    #[test]
    fn islands_are_bounded() {
        let mut islands = Islands::default();
        let kept = (1..1000).filter(|n| islands.insert(n * 10, b"x") != Kept::No).count();
        assert_eq!(kept, ISLANDS_MAX);
        assert!(islands.held() < ISLANDS_MAX * 64);
    }

    proptest! {
        #[test]
        fn any_order_with_overlaps_gives_the_stream(
            pieces in proptest::collection::vec((0u64..400, 1u64..60), 1..80)
        ) {
            let mut islands = Islands::default();
            let mut known = [false; 500];
            let mut next = 0;
            for (start, count) in pieces {
                let end = start + count;
                if end <= next {
                    continue;
                }
                islands.insert(start.max(next), &data(start.max(next), end));
                known[start as usize..end as usize].fill(true);
                if start <= next {
                    while let Some(octets) = islands.follow(next) {
                        prop_assert_eq!(&octets, &data(next, next + octets.len() as u64));
                        next += octets.len() as u64;
                    }
                }
                let expected = known[next as usize..].iter().position(|k| !k).unwrap_or(0);
                prop_assert!(start > next || expected == 0, "the stream goes as far as it can");
                for (from, to) in islands.blocks(None).into_iter().flatten() {
                    prop_assert!(known[from as usize..to as usize].iter().all(|k| *k));
                }
            }
            if islands.is_empty() {
                prop_assert_eq!(islands.held(), 0);
            }
        }
    }
}

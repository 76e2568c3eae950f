//! What was read from a block device lately, so that reading next to it or again does not leave the machine.
//!
//! The guest is the device's only writer (the tender locks its file), so what is here stays true as long as every write
//! passes by. A small read takes the whole piece that it lies in: a store that opens reads one page after the other, and
//! a read costs the exit more than the bytes. It must not know how reads travel.

use alloc::vec;
use alloc::vec::Vec;

/// Bytes of a piece, which lies at a multiple of its size.
pub const PIECE: usize = 64 * 1024;
/// The most pieces of one device: 1 MiB.
pub const MOST_PIECES: usize = 16;

#[derive(Debug)]
struct Piece {
    start: u64,
    bytes: Vec<u8>,
    /// When it was used last, in uses of the cache.
    used: u64,
}

impl Piece {
    /// The part of a range that lies in this piece: from and to, in bytes of the piece.
    fn part(&self, offset: u64, len: usize) -> Option<(usize, usize)> {
        let from = offset.max(self.start);
        let to = offset.saturating_add(len as u64).min(self.start + self.bytes.len() as u64);
        let within = |at: u64| usize::try_from(at - self.start).ok();
        if from < to { Some((within(from)?, within(to)?)) } else { None }
    }
}

/// The pieces of one device.
#[derive(Debug, Default)]
pub struct ReadCache {
    pieces: Vec<Piece>,
    uses: u64,
}

impl ReadCache {
    /// Nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { pieces: Vec::new(), uses: 0 }
    }

    /// The piece that has a place: its start, and its length on a device of this capacity.
    #[must_use]
    pub fn piece_at(offset: u64, capacity: u64) -> (u64, usize) {
        let start = offset - offset % PIECE as u64;
        (start, usize::try_from(capacity - start).map_or(PIECE, |rest| rest.min(PIECE)))
    }

    /// Fills `buffer`, which lies in one piece, if that piece is known.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> bool {
        self.uses += 1;
        for piece in &mut self.pieces {
            if let Some((from, to)) = piece.part(offset, buffer.len())
                && to - from == buffer.len()
            {
                buffer.copy_from_slice(&piece.bytes[from..to]);
                piece.used = self.uses;
                return true;
            }
        }
        false
    }

    /// Learns a piece, which `fill` reads; the one that was not used for longest gives way.
    ///
    /// # Errors
    /// Those of `fill`; nothing is learned then.
    pub fn learn<E>(
        &mut self,
        start: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let oldest = self.pieces.iter().enumerate().min_by_key(|(_, piece)| piece.used);
        let mut bytes = match oldest.map(|(index, _)| index) {
            Some(index) if self.pieces.len() == MOST_PIECES => self.pieces.swap_remove(index).bytes,
            _ => vec![0; len],
        };
        bytes.resize(len, 0);
        fill(&mut bytes)?;
        self.pieces.push(Piece { start, bytes, used: self.uses });
        Ok(())
    }

    /// A write went by.
    pub fn written(&mut self, offset: u64, data: &[u8]) {
        for piece in &mut self.pieces {
            if let Some((from, to)) = piece.part(offset, data.len()) {
                let start = piece.start + from as u64;
                let Ok(skip) = usize::try_from(start - offset) else { continue };
                piece.bytes[from..to].copy_from_slice(&data[skip..skip + (to - from)]);
            }
        }
    }

    /// Forgets everything: a write failed, and nobody knows what the device holds.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 20 * PIECE + 512;

    /// Reads as the device does: by pieces, from the disk what is not known. How many bytes came from the disk.
    fn read(cache: &mut ReadCache, disk: &[u8], offset: usize, buffer: &mut [u8]) -> usize {
        let (mut done, mut fetched) = (0, 0);
        while done < buffer.len() {
            let at = (offset + done) as u64;
            let (start, len) = ReadCache::piece_at(at, disk.len() as u64);
            let begin = usize::try_from(start).unwrap();
            let count = (buffer.len() - done).min(begin + len - offset - done);
            if !cache.read(at, &mut buffer[done..done + count]) {
                let learned = cache.learn(start, len, |bytes| {
                    bytes.copy_from_slice(&disk[begin..begin + len]);
                    Ok::<(), ()>(())
                });
                learned.unwrap();
                fetched += len;
                assert!(cache.read(at, &mut buffer[done..done + count]));
            }
            done += count;
        }
        fetched
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_the_device_holds(
            operations in proptest::collection::vec((any::<bool>(), 0..SIZE, 1_usize..3000, any::<u8>()), 1..200)
        ) {
            let mut disk = vec![0; SIZE];
            let mut cache = ReadCache::new();
            for (is_write, offset, len, fill) in operations {
                let end = (offset + len).min(SIZE);
                if is_write {
                    disk[offset..end].fill(fill);
                    cache.written(offset as u64, &disk[offset..end]);
                } else {
                    let mut buffer = vec![0; end - offset];
                    read(&mut cache, &disk, offset, &mut buffer);
                    prop_assert_eq!(&buffer[..], &disk[offset..end]);
                }
                prop_assert!(cache.pieces.len() <= MOST_PIECES);
            }
        }
    }

    #[test]
    fn pages_in_a_row_are_one_read_and_the_oldest_piece_gives_way() {
        let disk = vec![7; SIZE];
        let mut cache = ReadCache::new();
        let mut page = [0; 4096];
        let row: usize =
            (0..PIECE / 4096).map(|n| read(&mut cache, &disk, n * 4096, &mut page)).sum();
        assert_eq!(row, PIECE);
        for n in 1..MOST_PIECES {
            read(&mut cache, &disk, n * PIECE, &mut page);
        }
        assert_eq!(read(&mut cache, &disk, 0, &mut page), 0, "used again");
        read(&mut cache, &disk, MOST_PIECES * PIECE, &mut page);
        assert_eq!(read(&mut cache, &disk, 0, &mut page), 0);
        assert_eq!(read(&mut cache, &disk, PIECE, &mut page), PIECE, "the oldest is gone");
        assert_eq!(read(&mut cache, &disk, 20 * PIECE, &mut page[..512]), 512, "the end");
    }

    #[test]
    fn a_piece_that_can_not_be_read_is_not_known() {
        let mut cache = ReadCache::new();
        assert_eq!(cache.learn(0, PIECE, |_| Err(5)), Err(5));
        assert!(!cache.read(0, &mut [0; 512]));
        cache.learn(0, PIECE, |_| Ok::<(), ()>(())).unwrap();
        assert!(cache.read(0, &mut [0; 512]));
        cache.clear();
        assert!(!cache.read(0, &mut [0; 512]));
    }
}

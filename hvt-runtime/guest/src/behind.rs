//! Writes to a block device that wait until they go to the tender together.
//!
//! As in a kernel's page cache, a write that was accepted is not yet on the device; a flush, a read of the same place, the
//! end of the program, or idleness takes it there. Order is kept, so what a power cut could leave is what it could leave
//! without the queue. It must not know how writes travel.

use alloc::vec::Vec;

/// The most bytes that wait. A transaction of the store is smaller; what is larger gains nothing from waiting.
pub const MOST_BYTES: usize = 256 * 1024;

/// A write that waits: where it goes, and where its bytes are in the queue.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    offset: u64,
    start: usize,
    len: usize,
}

/// The writes of one device that wait.
#[derive(Debug, Default)]
pub struct WriteBehind {
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    /// The most writes that wait.
    most: usize,
}

impl WriteBehind {
    /// An empty queue for at most so many writes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), waiting: Vec::new(), most }
    }

    /// Takes a write. False when there is no room: then the queue has to be written out, and a write that does not fit
    /// into an empty one goes by itself.
    #[must_use]
    pub fn accept(&mut self, offset: u64, data: &[u8]) -> bool {
        if self.bytes.len() + data.len() > MOST_BYTES {
            return false;
        }
        let full = self.waiting.len() == self.most;
        match self.waiting.last_mut() {
            Some(last) if last.offset + last.len as u64 == offset => last.len += data.len(),
            _ if full => return false,
            _ => {
                let (start, len) = (self.bytes.len(), data.len());
                self.waiting.push(Waiting { offset, start, len });
            }
        }
        self.bytes.extend_from_slice(data);
        true
    }

    /// Whether something waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something waits that goes to one of these places.
    #[must_use]
    pub fn covers(&self, offset: u64, len: usize) -> bool {
        let end = offset.saturating_add(len as u64);
        self.waiting
            .iter()
            .any(|write| write.offset < end && offset < write.offset + write.len as u64)
    }

    /// The writes in order.
    pub fn writes(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.waiting
            .iter()
            .map(|write| (write.offset, &self.bytes[write.start..write.start + write.len]))
    }

    /// Forgets the writes, which were written out.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn list(queue: &WriteBehind) -> Vec<(u64, usize, u8)> {
        queue
            .writes()
            .map(|(offset, bytes)| (offset, bytes.len(), bytes[bytes.len() - 1]))
            .collect()
    }

    #[test]
    fn writes_come_out_in_order_and_neighbours_as_one() {
        let mut queue = WriteBehind::new(3);
        assert!(queue.is_empty());
        for (offset, fill) in [(4096, 1), (8192, 2), (0, 3), (4096, 4), (8192, 5)] {
            assert!(queue.accept(offset, &[fill; 4096]));
        }
        assert_eq!(list(&queue), [(4096, 8192, 2), (0, 12288, 5)]);
        assert!(queue.accept(0, &[6; 512]));
        assert!(!queue.accept(4096, &[7; 512]), "a fourth write");
        assert!(queue.accept(512, &[8; 512]), "but it may go on");
        assert_eq!(list(&queue)[2], (0, 1024, 8));
        queue.clear();
        assert!(queue.is_empty() && list(&queue).is_empty());
    }

    #[test]
    fn no_more_waits_than_there_is_room_for() {
        let mut queue = WriteBehind::new(100);
        assert!(!queue.accept(0, &vec![1; MOST_BYTES + 1]));
        assert!(queue.accept(0, &vec![1; MOST_BYTES]));
        assert!(!queue.accept(MOST_BYTES as u64, &[1]));
    }

    #[test]
    fn places_that_wait_are_known() {
        let mut queue = WriteBehind::new(100);
        assert!(queue.accept(4096, &[1; 4096]) && queue.accept(0, &[1; 512]));
        for (offset, len, covered) in [
            (0, 1, true),
            (511, 1, true),
            (512, 1, false),
            (512, 3584, false),
            (512, 3585, true),
            (8191, 1, true),
            (8192, 1, false),
            (4096, 0, false),
            (u64::MAX, usize::MAX, false),
        ] {
            assert_eq!(queue.covers(offset, len), covered, "{offset} {len}");
        }
    }
}

//! Bytes that have arrived and not yet been used, held within a bound.
//!
//! Memory follows what has arrived, never what a peer announces: a frame that claims a megabyte and sends ten bytes
//! costs a few kilobytes at most.

/// The smallest allocation; it holds every handshake message and most requests.
const MIN_CAPACITY: usize = 512;

/// Collects the pieces of one unit (a hello, a frame) until it is whole.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// Moves bytes from the front of `input` until `wanted` are held. Returns whether they are.
    pub(crate) fn fill(&mut self, input: &mut &[u8], wanted: usize) -> bool {
        let missing = wanted.saturating_sub(self.bytes.len());
        let (now, later) = input.split_at(missing.min(input.len()));
        let needed = self.bytes.len() + now.len();
        if needed > self.bytes.capacity() {
            let roomy = needed.max(self.bytes.capacity().saturating_mul(2)).max(MIN_CAPACITY);
            self.bytes.reserve_exact(roomy.min(wanted).max(needed) - self.bytes.len());
        }
        self.bytes.extend_from_slice(now);
        *input = later;
        self.bytes.len() >= wanted
    }

    /// What is held.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the whole unit out; the next one begins.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Whether nothing of the next unit has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of memory in use.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_no_more_than_wanted_and_grows_with_what_arrives() {
        let mut buffer = Buffer::default();
        let data = vec![7_u8; 10_000];
        let mut input = &data[..];
        assert!(buffer.fill(&mut input, 4));
        assert_eq!((buffer.as_slice().len(), input.len()), (4, 9_996));
        let mut first = &input[..100];
        assert!(!buffer.fill(&mut first, 1 << 20));
        assert!(buffer.capacity() <= MIN_CAPACITY, "{}", buffer.capacity());
        let mut rest = &input[100..];
        assert!(!buffer.fill(&mut rest, 1 << 20));
        assert!(buffer.capacity() <= 2 * 10_000, "{}", buffer.capacity());
        assert_eq!(buffer.take().len(), 10_000);
        assert!(buffer.is_empty());
    }

    #[test]
    fn never_more_than_the_unit() {
        let mut buffer = Buffer::default();
        for _ in 0..3_000 {
            buffer.fill(&mut &[1_u8][..], 3_000);
            assert!(buffer.capacity() <= 3_000);
        }
        assert_eq!(buffer.as_slice().len(), 3_000);
    }
}

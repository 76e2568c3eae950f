//! Deliveries that were here before. Bounded: what is forgotten costs one look at the remote when it comes again.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};

/// Deliveries that are remembered.
pub const MAX_SEEN: usize = 256;

/// The newest deliveries, as digests: an id may be of any length.
#[derive(Debug, Default)]
pub(super) struct Seen(VecDeque<[u8; 32]>);

impl Seen {
    /// Whether `id` was not here before; it is from now on.
    pub(super) fn is_new(&mut self, id: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(id).into();
        if self.0.contains(&digest) {
            return false;
        }
        if self.0.len() == MAX_SEEN {
            self.0.pop_front();
        }
        self.0.push_back(digest);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut seen = Seen::default();
        let is_new = |seen: &mut Seen, n: usize| seen.is_new(&n.to_be_bytes());
        assert!((0..MAX_SEEN).all(|n| is_new(&mut seen, n)));
        assert!(!is_new(&mut seen, 0));
        assert!(is_new(&mut seen, MAX_SEEN));
        assert!(is_new(&mut seen, 0));
        assert_eq!(seen.0.len(), MAX_SEEN);
    }
}

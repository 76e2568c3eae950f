//! Random words that grow from a seed of the host's: ChaCha20 (RFC 8439) with fast key erasure.
//!
//! Each refill takes a new key from the front of the key stream and forgets the old one, and a word is forgotten when it is
//! given. So what is in memory at any time tells nothing of the words before. By itself it is as good as the seed; the
//! guest mixes its words with the processor's.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};

const KEY: usize = 32;
/// Two blocks of the cipher: the next key, and twelve words.
const STREAM: usize = 128;

/// Gives random words.
pub struct HostRandom {
    /// The key and what was not given yet; given bytes are zero.
    stream: [u8; STREAM],
    next: usize,
}

impl HostRandom {
    /// Words of this seed.
    #[must_use]
    pub fn new(seed: &[u8; KEY]) -> Self {
        let mut stream = [0; STREAM];
        stream[..KEY].copy_from_slice(seed);
        Self { stream, next: STREAM }
    }

    /// The next word.
    pub fn word(&mut self) -> u64 {
        if self.next == STREAM {
            self.refill();
        }
        let mut word = [0; 8];
        word.swap_with_slice(&mut self.stream[self.next..self.next + 8]);
        self.next += 8;
        u64::from_ne_bytes(word)
    }

    fn refill(&mut self) {
        let mut key = [0; KEY];
        key.swap_with_slice(&mut self.stream[..KEY]);
        // A key is used once, so the nonce need not differ. What was given is zero, and becomes the stream.
        ChaCha20::new(&key.into(), &[0; 12].into()).apply_keystream(&mut self.stream);
        self.next = KEY;
    }
}

/// Tells nothing of what is inside.
impl core::fmt::Debug for HostRandom {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HostRandom").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key stream of RFC 8439, appendix A.1, test vector 1: key and nonce zero, counter 0.
    const ZERO_KEY: [u8; 64] = [
        0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86, 0xbd,
        0x28, 0xbd, 0xd2, 0x19, 0xb8, 0xa0, 0x8d, 0xed, 0x1a, 0xa8, 0x36, 0xef, 0xcc, 0x8b, 0x77,
        0x0d, 0xc7, 0xda, 0x41, 0x59, 0x7c, 0x51, 0x57, 0x48, 0x8d, 0x77, 0x24, 0xe0, 0x3f, 0xb8,
        0xd8, 0x4a, 0x37, 0x6a, 0x43, 0xb8, 0xf4, 0x15, 0x18, 0xa1, 0x1c, 0xc3, 0x87, 0xb6, 0x69,
        0xb2, 0xee, 0x65, 0x86,
    ];

    #[test]
    fn words_are_the_key_stream_behind_the_next_key() {
        let mut random = HostRandom::new(&[0; KEY]);
        for word in ZERO_KEY[KEY..].chunks(8) {
            assert_eq!(random.word().to_ne_bytes(), word);
        }
        assert_eq!(random.stream[..KEY], ZERO_KEY[..KEY], "the next key");
        assert!(!format!("{random:?}").contains("76"), "it is not printed");
    }

    #[test]
    fn what_was_given_and_what_it_came_from_is_forgotten() {
        let seed = [7; KEY];
        let mut random = HostRandom::new(&seed);
        let mut given = Vec::new();
        for _ in 0..100 {
            given.push(random.word().to_ne_bytes());
            let holds = |bytes: &[u8]| random.stream.windows(bytes.len()).any(|w| w == bytes);
            assert!(!holds(&seed[..8]) && !given.iter().any(|word| holds(word)));
        }
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 100);
    }
}

//! HMAC-SHA256 (RFC 2104) over several pieces, and its check in constant time.

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The length of a tag in bytes.
pub(crate) const TAG_LEN: usize = 32;

const BLOCK_LEN: usize = 64;

/// The tag of the concatenation of `parts`. The key may have any length.
pub(crate) fn tag(key: &[u8], parts: &[&[u8]]) -> [u8; TAG_LEN] {
    compute(key, parts).finalize().into_bytes().into()
}

/// Whether `tag` is the tag of the concatenation of `parts`. Takes the same time wherever a wrong tag differs.
pub(crate) fn verify(key: &[u8], parts: &[&[u8]], tag: &[u8]) -> bool {
    compute(key, parts).verify_slice(tag).is_ok()
}

fn compute(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    // RFC 2104, section 2: a key longer than a block is hashed, a shorter one is filled with zeros.
    let mut block = Zeroizing::new([0; BLOCK_LEN]);
    match block.get_mut(..key.len()) {
        Some(start) => start.copy_from_slice(key),
        None => block[..TAG_LEN].copy_from_slice(&Sha256::digest(key)),
    }
    let mut mac = Hmac::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4231_vectors_with_a_short_and_a_long_key() {
        let short = tag(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(
            hex::encode(short),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let long = tag(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"]);
        assert_eq!(
            hex::encode(long),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
        assert!(verify(
            &[0xaa; 131],
            &[b"Test Using Larger Than Block-Size Key - Hash Key First"],
            &long
        ));
        assert!(!verify(b"Jefe", &[], &long));
        assert!(!verify(b"Jefe", &[b"what do ya want for nothing?"], &short[..31]));
    }
}

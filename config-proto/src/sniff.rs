//! Which version of the protocol a peer speaks, told by its first byte; both versions share one port.

/// The version that a first byte announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sniffed {
    /// The original's: a frame starts with a 64-bit length, whose first byte is 0 for every length within bounds.
    V1,
    /// Ours: a hello starts with [`crate::v2::MAGIC`].
    V2,
    /// Neither; close.
    Unknown,
}

/// Tells the version by the first byte that a client sent.
pub const fn sniff(first_byte: u8) -> Sniffed {
    match first_byte {
        0 => Sniffed::V1,
        first if first == crate::v2::MAGIC[0] => Sniffed::V2,
        _ => Sniffed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_one_meaning() {
        assert_eq!(sniff(0), Sniffed::V1);
        assert_eq!(sniff(b't'), Sniffed::V2);
        for other in (1..=u8::MAX).filter(|b| *b != b't') {
            assert_eq!(sniff(other), Sniffed::Unknown);
        }
    }
}

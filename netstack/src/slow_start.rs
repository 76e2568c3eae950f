//! The first window of a connection: ten segments (RFC 6928), doubling until something is lost.
//!
//! smoltcp's congestion control begins with two segments of 536 octets. So it is left out until
//! the first retransmission; before, the window that the peer offers is shown to the socket no
//! larger than slow start allows (RFC 5681 §3.1).

/// Slow start from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlowStart {
    window: u32,
}

/// RFC 6928 §2 for segments of 1,460 octets.
const FIRST: u32 = 14_600;
/// Beyond this, smoltcp's buffers are the limit.
const LAST: u32 = 1 << 24;

impl SlowStart {
    pub(crate) fn new() -> Self {
        Self { window: FIRST }
    }

    /// Notes that so many octets arrived.
    pub(crate) fn acknowledged(&mut self, octets: u32) {
        self.window = self.window.saturating_add(octets).min(LAST);
    }

    /// The window field to show for the peer's, whose unit is two to the power of `shift`. A window
    /// that is open stays open, if by one unit.
    pub(crate) fn limit(self, field: u16, shift: u8) -> u16 {
        field.min(u16::try_from(self.window >> shift).unwrap_or(u16::MAX).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_what_arrives_and_never_closes_an_open_one() {
        let mut start = SlowStart::new();
        assert_eq!(start.limit(65_535, 0), 14_600);
        start.acknowledged(14_600);
        assert_eq!(start.limit(65_535, 1), 14_600);
        assert_eq!(start.limit(9, 0), 9);
        assert_eq!(SlowStart::new().limit(3, 14), 1);
        assert_eq!(SlowStart::new().limit(0, 14), 0);
    }
}

//! What both sides agreed on in their SYNs: segment sizes (RFC 6691), window scale and timestamps
//! (RFC 7323), selective acknowledgements (RFC 2018).

use core::time::Duration;

use crate::flow::low_word;
use crate::half_open::Syn;
use crate::packet::distance;

/// After this time without a segment the peer's clock may have wrapped around (RFC 7323 §5.5).
const STAMP_STALE: Duration = Duration::from_secs(24 * 24 * 3600);

/// Timestamps of a connection. The clock ticks in milliseconds and begins anywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    offset: u32,
    recent: u32,
    recent_at: Duration,
}

impl Stamps {
    pub(crate) fn new(offset: u32) -> Self {
        Self { offset, recent: 0, recent_at: Duration::ZERO }
    }

    /// Where the clock began.
    pub(crate) fn offset(self) -> u32 {
        self.offset
    }

    /// The stamp of a segment that is sent now.
    pub(crate) fn now(self, now: Duration) -> u32 {
        stamp(self.offset, now)
    }

    /// The peer's newest stamp, which goes back to it.
    pub(crate) fn recent(self) -> u32 {
        self.recent
    }

    /// The time since a stamp of this side, if it can have been sent.
    pub(crate) fn since(self, echo: u32, now: Duration) -> Option<Duration> {
        let passed = u64::from(self.now(now).wrapping_sub(echo));
        (passed < 600_000).then(|| Duration::from_millis(passed))
    }

    /// Whether a segment with this stamp is older than what arrived (PAWS, RFC 7323 §5).
    pub(crate) fn is_old(self, value: u32, now: Duration) -> bool {
        distance(value, self.recent) < 0 && now < self.recent_at + STAMP_STALE
    }

    /// Takes the peer's stamp.
    pub(crate) fn update(&mut self, value: u32, now: Duration) {
        if !self.is_old(value, now) {
            (self.recent, self.recent_at) = (value, now);
        }
    }
}

/// The stamp at a time, of a clock with this offset.
pub(crate) fn stamp(offset: u32, now: Duration) -> u32 {
    offset.wrapping_add(low_word(u64::try_from(now.as_millis()).unwrap_or(0)))
}

/// What was agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// The shift of the peer's window field; none if it did not offer one.
    pub(crate) peer_scale: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) stamps: Option<Stamps>,
    /// The largest segment that the peer takes, and that the path carries; options included.
    pub(crate) peer_segment: usize,
    pub(crate) path_segment: usize,
}

impl Options {
    /// Takes the peer's SYN.
    pub(crate) fn agree(&mut self, syn: &Syn, now: Duration) {
        self.peer_scale = syn.window_scale;
        self.sack = syn.sack;
        self.peer_segment = usize::from(syn.segment_size);
        match syn.timestamp {
            Some(value) => {
                if let Some(stamps) = &mut self.stamps {
                    (stamps.recent, stamps.recent_at) = (value, now);
                }
            }
            None => self.stamps = None,
        }
    }

    /// Octets of data in a full segment with this many blocks of selective acknowledgement.
    pub(crate) fn segment(&self, blocks: usize) -> usize {
        let stamps = if self.stamps.is_some() { 10 } else { 0 };
        let sack = if blocks > 0 { 2 + 8 * blocks } else { 0 };
        let options = (stamps + sack).next_multiple_of(4);
        self.peer_segment.min(self.path_segment).saturating_sub(options).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_stamps_are_told_from_new_ones_across_the_wrap_and_forgotten_in_time() {
        let at = Duration::from_secs;
        let mut stamps = Stamps::new(7);
        stamps.recent = u32::MAX - 5;
        stamps.update(3, at(1));
        assert!(stamps.is_old(u32::MAX - 1, at(2)) && !stamps.is_old(3, at(2)));
        assert_eq!(stamps.recent(), 3);
        stamps.update(u32::MAX - 1, at(2));
        assert_eq!(stamps.recent(), 3);
        assert!(!stamps.is_old(u32::MAX - 1, at(1) + STAMP_STALE));
        let sent = stamps.now(at(5));
        assert_eq!(stamps.since(sent, at(6)), Some(at(1)));
        assert_eq!(stamps.since(sent.wrapping_add(5000), at(6)), None);
    }
}

//! What the sender is doing about losses: proportional rate reduction while it repairs (RFC 6937),
//! and the way back when a loss turns out to be none (RFC 3522, RFC 4015, RFC 3708).

use super::congestion::Congestion;
use super::sequence::Position;
use crate::packet::distance;

/// What the sender is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// Losses are repaired while acknowledgements arrive.
    Recovery,
    /// A timeout passed: everything is in doubt.
    Loss,
}

/// How it was before, and what would show that it need not have changed.
#[derive(Clone, Copy, Debug)]
struct Undo {
    congestion: Congestion,
    /// The timestamp of the first retransmission.
    stamp: Option<u32>,
    /// Octets sent again that the peer has not reported as duplicates.
    unproven: u64,
}

/// The repair of losses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovery {
    pub(crate) phase: Phase,
    /// Everything sent before this is part of the trouble.
    high: Position,
    flight: u64,
    delivered: u64,
    out: u64,
    /// One segment may be sent whatever the window says.
    pub(crate) force: bool,
    undo: Option<Undo>,
}

impl Recovery {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Open,
            high: 0,
            flight: 0,
            delivered: 0,
            out: 0,
            force: false,
            undo: None,
        }
    }

    /// Begins to repair; `flight` is what was unacknowledged, `sent` the newest position.
    pub(crate) fn enter(&mut self, congestion: &mut Congestion, flight: u64, sent: Position) {
        self.undo = Some(Undo { congestion: *congestion, stamp: None, unproven: 0 });
        congestion.reduce();
        *self = Self {
            phase: Phase::Recovery,
            high: sent,
            flight: flight.max(1),
            delivered: 0,
            out: 0,
            force: true,
            undo: self.undo,
        };
    }

    /// A timeout passed.
    pub(crate) fn time_out(&mut self, congestion: &mut Congestion, sent: Position) {
        match self.phase {
            // The window was reduced for this trouble already.
            Phase::Loss => {}
            Phase::Recovery => self.undo = None,
            Phase::Open => {
                self.undo = Some(Undo { congestion: *congestion, stamp: None, unproven: 0 });
                congestion.reduce();
            }
        }
        congestion.set_window(0);
        (self.phase, self.high, self.force) = (Phase::Loss, sent, true);
    }

    /// Notes what is sent; `stamp` is the timestamp on it.
    pub(crate) fn sent(&mut self, octets: u64, again: bool, stamp: Option<u32>) {
        self.out += octets;
        if again {
            self.force = false;
            if let Some(undo) = &mut self.undo {
                undo.unproven += octets;
                undo.stamp = undo.stamp.or(stamp);
            }
        }
    }

    /// Whether the acknowledgement with this echoed timestamp was caused by something older than
    /// the first retransmission, which was then not needed (RFC 3522 §3.2).
    pub(crate) fn was_early(&self, echo: Option<u32>) -> bool {
        let stamp = self.undo.as_ref().and_then(|undo| undo.stamp);
        matches!((stamp, echo), (Some(stamp), Some(echo)) if distance(echo, stamp) < 0)
    }

    /// The peer reports octets as duplicates; true if all that was sent again is (RFC 3708).
    pub(crate) fn duplicated(&mut self, octets: u64) -> bool {
        let Some(undo) = &mut self.undo else { return false };
        let proven = undo.unproven > 0 && octets >= undo.unproven;
        undo.unproven = undo.unproven.saturating_sub(octets);
        proven
    }

    /// Goes back to how it was.
    pub(crate) fn revert(&mut self, congestion: &mut Congestion) -> bool {
        let Some(undo) = self.undo.take() else { return false };
        let window = congestion.window().max(undo.congestion.window());
        *congestion = undo.congestion;
        congestion.set_window(window);
        self.phase = Phase::Open;
        self.force = false;
        true
    }

    /// Takes an acknowledgement that delivered so many octets; true if the repair is complete.
    pub(crate) fn acknowledged(
        &mut self,
        congestion: &mut Congestion,
        acknowledged: Position,
        delivered: u64,
        in_flight: u64,
        segment: u64,
    ) -> bool {
        if self.phase == Phase::Open {
            return false;
        }
        if acknowledged >= self.high {
            if self.phase == Phase::Recovery {
                congestion.set_window(congestion.threshold());
            }
            (self.phase, self.force) = (Phase::Open, false);
            return true;
        }
        if self.phase == Phase::Recovery {
            self.delivered += delivered;
            let threshold = congestion.threshold();
            // RFC 6937 §3.1, with the slow-start reduction bound.
            let allowed = if in_flight > threshold {
                let share = u128::from(self.delivered) * u128::from(threshold);
                let share = u64::try_from(share.div_ceil(u128::from(self.flight)));
                share.unwrap_or(u64::MAX).saturating_sub(self.out)
            } else {
                let bound = self.delivered.saturating_sub(self.out).max(delivered) + segment;
                bound.min(threshold - in_flight)
            };
            congestion.set_window(in_flight + allowed);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1000;

    #[test]
    fn the_window_shrinks_in_proportion_to_what_arrives() {
        let mut congestion = Congestion::new(SEGMENT);
        congestion.set_window(100 * SEGMENT);
        let mut recovery = Recovery::new();
        recovery.enter(&mut congestion, 100 * SEGMENT, 100 * SEGMENT);
        // One segment is lost, 99 arrive one by one; each arrival lets 0.7 leave.
        let (mut in_flight, mut sent) = (99 * SEGMENT, 0);
        for _ in 0..98 {
            in_flight -= SEGMENT;
            recovery.acknowledged(&mut congestion, 0, SEGMENT, in_flight, SEGMENT);
            while in_flight + SEGMENT <= congestion.window() {
                in_flight += SEGMENT;
                sent += 1;
                recovery.sent(SEGMENT, false, None);
            }
        }
        assert!((66..=72).contains(&sent), "{sent} segments were sent");
        assert!(recovery.acknowledged(&mut congestion, 100 * SEGMENT, 0, 0, SEGMENT));
        assert_eq!(congestion.window(), 70 * SEGMENT);
    }

    #[test]
    fn a_needless_repair_is_undone_by_an_older_echo_or_by_duplicates() {
        let begin = || {
            let mut congestion = Congestion::new(SEGMENT);
            let mut recovery = Recovery::new();
            recovery.time_out(&mut congestion, 5000);
            assert_eq!(congestion.window(), SEGMENT);
            recovery.sent(SEGMENT, true, Some(100));
            (congestion, recovery)
        };
        let (mut congestion, mut recovery) = begin();
        assert!(!recovery.was_early(Some(100)) && !recovery.was_early(None));
        assert!(recovery.was_early(Some(99)));
        assert!(recovery.revert(&mut congestion));
        assert_eq!((congestion.window(), recovery.phase), (10 * SEGMENT, Phase::Open));
        assert!(!recovery.revert(&mut congestion));
        let (_, mut recovery) = begin();
        assert!(!recovery.duplicated(400));
        assert!(recovery.duplicated(600));
    }
}

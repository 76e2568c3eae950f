//! RACK-TLP (RFC 8985): what was sent well before something that arrived is lost; and the tail-loss
//! probe, which makes something arrive when nothing follows.

use core::time::Duration;

use super::rtt::RoundTrip;
use super::scoreboard::{Record, Scoreboard};
use super::sequence::Position;

/// How long the peer may keep an acknowledgement back (RFC 8985 §7.2, §9).
const ACK_DELAY_MAX: Duration = Duration::from_millis(200);
/// The wait before a probe while the round trip is unknown (RFC 8985 §7.2).
const PROBE_UNKNOWN: Duration = Duration::from_secs(1);
/// For how many recoveries a wider reordering window holds (RFC 8985 §6.2 step 4).
const WIDE_RECOVERIES: u32 = 16;

/// The newest delivered segment, and what it tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rack {
    newest: Option<(Duration, Position)>,
    round_trip: Duration,
    /// The furthest position that arrived.
    furthest: Position,
    reordering: bool,
    width: u32,
    wide_for: u32,
    /// A duplicate widens the window once per round: until this is acknowledged.
    widened_until: Position,
}

impl Rack {
    pub(crate) fn new() -> Self {
        Self {
            newest: None,
            round_trip: Duration::ZERO,
            furthest: 0,
            reordering: false,
            width: 1,
            wide_for: 0,
            widened_until: 0,
        }
    }

    /// Notes a segment that arrived (RFC 8985 §6.2 steps 2 and 3). `original` says that its
    /// acknowledgement was caused by an earlier transmission than the last.
    pub(crate) fn delivered(
        &mut self,
        record: &Record,
        least: Option<Duration>,
        original: bool,
        now: Duration,
    ) {
        let trip = now.saturating_sub(record.sent_at);
        if record.again && (original || least.is_some_and(|least| trip < least)) {
            return;
        }
        if record.end > self.furthest {
            self.furthest = record.end;
        } else if !record.again {
            self.reordering = true;
        }
        if self.newest.is_none_or(|newest| !record.sent_before(newest)) {
            self.newest = Some((record.sent_at, record.end));
            self.round_trip = trip;
        }
    }

    /// The peer got something twice: what looked lost was late (step 4).
    pub(crate) fn duplicated(&mut self, acknowledged: Position, sent: Position) {
        self.reordering = true;
        if acknowledged >= self.widened_until {
            self.widened_until = sent;
            self.width = (self.width + 1).min(64);
            self.wide_for = WIDE_RECOVERIES;
        }
    }

    /// A recovery ended.
    pub(crate) fn recovered(&mut self) {
        self.wide_for = self.wide_for.saturating_sub(1);
        if self.wide_for == 0 {
            self.width = 1;
        }
    }

    /// Marks what must be lost (step 5), and returns whether anything was, and when to look again.
    pub(crate) fn detect(
        &self,
        board: &mut Scoreboard,
        trip: &RoundTrip,
        eager: bool,
        now: Duration,
    ) -> (bool, Option<Duration>) {
        let Some(newest) = self.newest else { return (false, None) };
        let window = self.window(trip, eager);
        let mut again: Option<Duration> = None;
        let lost = board.lose(|record| {
            if !record.sent_before(newest) {
                return false;
            }
            let expires = record.sent_at + self.round_trip + window;
            if expires > now {
                again = Some(again.map_or(expires, |at| at.max(expires)));
            }
            expires <= now
        });
        (lost, again)
    }

    /// The reordering window. `eager` when there is no doubt that something is lost: in recovery,
    /// or when three segments overtook.
    fn window(&self, trip: &RoundTrip, eager: bool) -> Duration {
        if !self.reordering && eager {
            return Duration::ZERO;
        }
        let least = trip.least().unwrap_or_default();
        (least * self.width / 4).min(trip.smoothed().unwrap_or_default())
    }
}

/// A tail-loss probe that is out (RFC 8985 §7.3, §7.4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) end: Position,
    /// It was an old segment, not a new one.
    pub(crate) again: bool,
}

/// How long to wait for an acknowledgement before a probe (RFC 8985 §7.2). `single` says that one
/// segment is out, for which the peer may wait before it acknowledges.
pub(crate) fn probe_wait(trip: &RoundTrip, single: bool) -> Duration {
    let Some(smoothed) = trip.smoothed() else { return PROBE_UNKNOWN };
    let wait = smoothed * 2 + if single { ACK_DELAY_MAX } else { Duration::from_millis(2) };
    wait.min(trip.timeout())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Ten segments, one per millisecond from 0 on, and a round trip of 40 ms.
    fn flight() -> (Rack, Scoreboard, RoundTrip) {
        let mut board = Scoreboard::default();
        for n in 0..10 {
            board.sent(n * 100, n * 100 + 100, ms(n));
        }
        let mut trip = RoundTrip::default();
        trip.sample(ms(40), ms(0));
        (Rack::new(), board, trip)
    }

    fn sack(rack: &mut Rack, board: &mut Scoreboard, range: (u64, u64), now: Duration) {
        board.sack(range, |record| rack.delivered(record, Some(ms(40)), false, now));
    }

    #[test]
    fn what_was_overtaken_is_lost_after_the_reordering_window_only() {
        let (mut rack, mut board, trip) = flight();
        sack(&mut rack, &mut board, (100, 200), ms(41));
        // A quarter of the round trip of grace: the first segment has until 0 + 40 + 10.
        assert_eq!(rack.detect(&mut board, &trip, false, ms(41)), (false, Some(ms(50))));
        assert_eq!(rack.detect(&mut board, &trip, false, ms(50)), (true, None));
        assert_eq!((board.lost(), board.first_lost()), (100, Some((0, 100))));
    }

    #[test]
    fn without_reordering_three_that_overtook_are_proof() {
        let (mut rack, mut board, trip) = flight();
        sack(&mut rack, &mut board, (200, 500), ms(44));
        assert!(rack.detect(&mut board, &trip, true, ms(44)).0);
        assert_eq!(board.lost(), 200);
    }

    #[test]
    fn seen_reordering_gives_grace_and_duplicates_more_of_it() {
        let (mut rack, mut board, trip) = flight();
        sack(&mut rack, &mut board, (100, 200), ms(41));
        sack(&mut rack, &mut board, (0, 100), ms(42));
        sack(&mut rack, &mut board, (400, 700), ms(46));
        assert_eq!(rack.detect(&mut board, &trip, true, ms(46)).1, Some(ms(3 + 40 + 10)));
        rack.duplicated(0, 1000);
        rack.duplicated(0, 1000);
        assert_eq!(rack.detect(&mut board, &trip, true, ms(46)).1, Some(ms(3 + 40 + 20)));
    }

    #[test]
    fn a_lost_retransmission_is_found_by_what_was_sent_after_it() {
        let (mut rack, mut board, trip) = flight();
        sack(&mut rack, &mut board, (100, 400), ms(43));
        assert!(rack.detect(&mut board, &trip, true, ms(43)).0);
        board.sent_again(0, 100, ms(43));
        board.sent(1000, 1100, ms(44));
        sack(&mut rack, &mut board, (1000, 1100), ms(84));
        assert!(rack.detect(&mut board, &trip, true, ms(84)).0);
        assert_eq!(board.first_lost(), Some((0, 100)));
    }
}

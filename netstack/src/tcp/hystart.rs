//! HyStart++ (RFC 9406): slow start ends when the round trip grows, before anything is lost.

use core::time::Duration;

use super::congestion::Arrival;
use super::sequence::Position;

/// RFC 9406 §4.3.
const THRESHOLD_MIN: Duration = Duration::from_millis(4);
const THRESHOLD_MAX: Duration = Duration::from_millis(16);
const SAMPLES: u32 = 8;
/// By how much slower conservative slow start grows, and for how many rounds.
const GROWTH_DIVISOR: u64 = 4;
const CONSERVATIVE_ROUNDS: u32 = 5;

/// The state of slow start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HyStart {
    round_end: Position,
    least: Option<Duration>,
    least_before: Option<Duration>,
    samples: u32,
    /// In conservative slow start: the least round trip when it began, and its rounds.
    conservative: Option<(Duration, u32)>,
}

impl HyStart {
    /// Takes an acknowledgement; returns by what growth is divided, and whether slow start is over.
    pub(crate) fn acknowledged(&mut self, arrival: &Arrival) -> (u64, bool) {
        if arrival.acknowledged >= self.round_end {
            self.round_end = arrival.sent;
            self.least_before = self.least.take().or(self.least_before);
            self.samples = 0;
            if let Some((_, rounds)) = &mut self.conservative {
                // The round in which it began counts as one.
                *rounds += 1;
                if *rounds >= CONSERVATIVE_ROUNDS {
                    return (GROWTH_DIVISOR, true);
                }
            }
        }
        if let Some(sample) = arrival.sample {
            self.samples += 1;
            self.least = Some(self.least.map_or(sample, |least| least.min(sample)));
            self.judge();
        }
        (if self.conservative.is_some() { GROWTH_DIVISOR } else { 1 }, false)
    }

    fn judge(&mut self) {
        let (Some(least), true) = (self.least, self.samples >= SAMPLES) else { return };
        match (self.conservative, self.least_before) {
            // The growth was not the path's: back to slow start.
            (Some((baseline, _)), _) if least < baseline => self.conservative = None,
            (None, Some(before)) => {
                let threshold = (before / 8).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
                if least >= before + threshold {
                    self.conservative = Some((least, 0));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of ten acknowledgements each, with these round trips in milliseconds; in which of
    /// them growth slowed down, and in which slow start ended.
    fn run(trips: &[u64]) -> (Option<usize>, Option<usize>) {
        let mut hystart = HyStart::default();
        let (mut slow, mut over) = (None, None);
        for (round, &trip) in trips.iter().enumerate() {
            for n in 0..10 {
                let arrival = Arrival {
                    octets: 1,
                    sample: Some(Duration::from_millis(trip)),
                    acknowledged: round as u64 * 10 + n,
                    sent: round as u64 * 10 + 10,
                    now: Duration::ZERO,
                    round_trip: Duration::from_millis(trip),
                };
                let (divisor, leave) = hystart.acknowledged(&arrival);
                if divisor > 1 {
                    slow.get_or_insert(round);
                }
                if leave {
                    over.get_or_insert(round);
                }
            }
        }
        (slow, over)
    }

    #[test]
    fn a_queue_that_builds_ends_slow_start_and_a_short_bump_does_not() {
        assert_eq!(run(&[50; 20]), (None, None));
        assert_eq!(run(&[50, 51, 54, 60, 75, 90, 90, 90, 90, 90, 90]), (Some(4), Some(9)));
        let (slow, over) = run(&[50, 50, 70, 51, 50, 50, 50, 50, 50, 50, 50]);
        assert_eq!((slow, over), (Some(2), None));
    }
}

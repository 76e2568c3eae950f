//! The congestion window: slow start from ten segments (RFC 6928) with an early way out
//! ([`HyStart`]), then CUBIC (RFC 9438). All arithmetic is on integers: octets and milliseconds.

use core::time::Duration;

use super::hystart::HyStart;
use super::sequence::Position;

/// Segments of the first window (RFC 6928 §2).
const INITIAL_SEGMENTS: u64 = 10;
/// The largest window that any peer can offer (RFC 7323 §2.3).
const WINDOW_MAX: u64 = 1 << 30;

/// The state of an epoch of congestion avoidance.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    since: Duration,
    /// The time from the epoch's begin to the plateau, in milliseconds ("K").
    plateau: i64,
    /// What Reno would have reached.
    reno: u64,
    reno_credit: u64,
    /// The window when the epoch began.
    begin: u64,
}

/// The congestion window of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Congestion {
    window: u64,
    threshold: u64,
    segment: u64,
    /// The window before the last reduction ("W_max").
    largest: u64,
    epoch: Option<Epoch>,
    credit: u64,
    hystart: HyStart,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Octets newly acknowledged.
    pub(crate) octets: u64,
    /// The round trip that it measured.
    pub(crate) sample: Option<Duration>,
    /// The oldest unacknowledged position now, and the newest sent.
    pub(crate) acknowledged: Position,
    pub(crate) sent: Position,
    pub(crate) now: Duration,
    /// The smoothed round trip.
    pub(crate) round_trip: Duration,
}

impl Congestion {
    pub(crate) fn new(segment: u64) -> Self {
        Self {
            window: INITIAL_SEGMENTS * segment,
            threshold: u64::MAX,
            segment,
            largest: 0,
            epoch: None,
            credit: 0,
            hystart: HyStart::default(),
        }
    }

    /// Octets that may be on their way.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn threshold(&self) -> u64 {
        self.threshold
    }

    /// The segment size changed: by the handshake, or because a path is narrower.
    pub(crate) fn set_segment(&mut self, segment: u64) {
        if self.window == INITIAL_SEGMENTS * self.segment {
            self.window = INITIAL_SEGMENTS * segment;
        }
        self.segment = segment;
        self.window = self.window.max(segment);
    }

    /// The handshake needed a second SYN: begin with one segment (RFC 5681 §3.1).
    pub(crate) fn begin_with_one(&mut self) {
        self.window = self.segment;
    }

    pub(crate) fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// Takes an acknowledgement while the window was used to the full.
    pub(crate) fn acknowledged(&mut self, arrival: &Arrival) {
        if self.in_slow_start() {
            let (divisor, leave) = self.hystart.acknowledged(arrival);
            self.window = (self.window + arrival.octets / divisor).min(WINDOW_MAX);
            if leave {
                self.threshold = self.window;
            }
            return;
        }
        self.avoid(arrival);
    }

    /// Congestion avoidance (RFC 9438 §4).
    fn avoid(&mut self, arrival: &Arrival) {
        let segment = self.segment;
        let window = self.window;
        let largest = self.largest.max(window);
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            since: arrival.now,
            plateau: plateau(largest - window, segment),
            reno: window,
            reno_credit: 0,
            begin: window,
        });
        let target = |at: Duration| {
            let elapsed = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
            cubic(largest, elapsed.saturating_sub(epoch.plateau), segment)
        };
        // Reno-friendly region (§4.3): alpha is 3·(1-β)/(1+β) = 9/17 until the old window is
        // reached, then one.
        let (numerator, denominator) =
            if epoch.reno < largest.max(epoch.begin) { (9, 17) } else { (1, 1) };
        epoch.reno_credit += arrival.octets * segment * numerator / denominator;
        epoch.reno += epoch.reno_credit / window;
        epoch.reno_credit %= window;

        let elapsed = arrival.now.saturating_sub(epoch.since);
        if target(elapsed) < epoch.reno {
            self.window = self.window.max(epoch.reno).min(WINDOW_MAX);
            return;
        }
        // §4.4: towards where the curve is one round trip from now, by at most a half per window.
        let goal = target(elapsed + arrival.round_trip).clamp(window, window + window / 2);
        self.credit += arrival.octets * (goal - window);
        self.window = (window + self.credit / window).min(WINDOW_MAX);
        self.credit %= window;
    }

    /// Something was lost: a smaller window from now on (RFC 9438 §4.6, §4.7).
    pub(crate) fn reduce(&mut self) {
        // Fast convergence: a window that fell short of the last leaves room for others.
        self.largest = if self.window < self.largest { self.window * 17 / 20 } else { self.window };
        self.threshold = (self.window * 7 / 10).max(2 * self.segment);
        (self.epoch, self.credit) = (None, 0);
        self.window = self.threshold;
    }

    /// Sets the window from outside: proportional rate reduction, or a timeout.
    pub(crate) fn set_window(&mut self, window: u64) {
        self.window = window.clamp(self.segment, WINDOW_MAX);
    }

    /// After a time without sending nothing is known of the path any more: half the window for
    /// each timeout that passed, down to the first window (RFC 9293 §3.8.2, RFC 2861).
    pub(crate) fn rested(&mut self, timeouts: u32) {
        let least = self.window.min(INITIAL_SEGMENTS * self.segment);
        if timeouts > 0 {
            self.threshold = self.threshold.max(self.window / 4 * 3);
            self.window = (self.window >> timeouts.min(32)).max(least);
            self.epoch = None;
        }
    }
}

/// The time to the plateau in milliseconds: the cube root of the distance over C = 0.4 (§4.2).
fn plateau(distance: u64, segment: u64) -> i64 {
    let cubed = u128::from(distance) * 10_000_000_000 / (4 * u128::from(segment.max(1)));
    i64::try_from(cube_root(cubed)).unwrap_or(i64::MAX)
}

/// The curve: `largest` + C·t³ segments, `from_plateau` in milliseconds.
fn cubic(largest: u64, from_plateau: i64, segment: u64) -> u64 {
    let t = i128::from(from_plateau.clamp(-1_000_000, 1_000_000));
    let change = t * t * t * 4 * i128::from(segment) / 10_000_000_000;
    u64::try_from((i128::from(largest) + change).max(0)).unwrap_or(WINDOW_MAX)
}

/// The integer cube root, bit by bit.
fn cube_root(value: u128) -> u128 {
    let mut root = 0u128;
    for bit in (0..41).rev() {
        let candidate = root | 1 << bit;
        if candidate * candidate * candidate <= value {
            root = candidate;
        }
    }
    root
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SEGMENT: u64 = 1000;

    fn arrival(octets: u64, now: u64) -> Arrival {
        Arrival {
            octets,
            sample: None,
            acknowledged: 0,
            sent: 0,
            now: Duration::from_millis(now),
            round_trip: Duration::from_millis(100),
        }
    }

    #[test]
    fn roots_are_exact() {
        for root in [0u128, 1, 2, 99, 12_345, 1 << 40] {
            let cube = root * root * root;
            assert_eq!(cube_root(cube), root);
            assert_eq!(cube_root(cube + root), root);
            assert_eq!(cube_root(cube.saturating_sub(1)), root.saturating_sub(1));
        }
    }

    #[test]
    fn slow_start_doubles_from_ten_segments() {
        let mut congestion = Congestion::new(SEGMENT);
        for window in [10, 20, 40, 80] {
            assert_eq!(congestion.window(), window * SEGMENT);
            congestion.acknowledged(&arrival(window * SEGMENT, 0));
        }
    }

    /// RFC 9438 §4.2: after a loss at 100 segments the window is back there after K seconds, in a
    /// curve that is flat around the plateau and steep after it.
    #[test]
    fn the_curve_returns_to_the_old_window_when_the_standard_says() {
        let mut congestion = Congestion::new(SEGMENT);
        congestion.set_window(1000 * SEGMENT);
        congestion.reduce();
        assert_eq!(congestion.window(), 700 * SEGMENT);
        let expected = 9085.6; // cbrt(300 / 0.4) seconds, in milliseconds
        let mut at = Vec::new();
        for round in 0..200 {
            at.push(congestion.window() / SEGMENT);
            congestion.acknowledged(&arrival(congestion.window(), round * 100));
        }
        let back = at.iter().position(|&window| window >= 999).unwrap();
        assert!((back as f64 * 100.0 - expected).abs() < 1500.0, "after {back} round trips");
        let (early, middle) = (at[20] - at[0], at[95] - at[80]);
        assert!(early > 10 * middle.max(1), "steep, then flat: {early} {middle}");
        assert!(at[199] > 1300, "and up again: {}", at[199]);
    }

    #[test]
    fn small_windows_grow_at_least_like_reno() {
        let mut congestion = Congestion::new(SEGMENT);
        congestion.set_window(20 * SEGMENT);
        congestion.reduce();
        // Ten milliseconds of round trip: the curve alone would take seconds.
        for round in 0..100 {
            congestion.acknowledged(&arrival(congestion.window(), round * 10));
        }
        let window = congestion.window() / SEGMENT;
        assert!((14 + 50..14 + 110).contains(&window), "{window} after a hundred round trips");
    }

    #[test]
    fn the_window_never_falls_below_a_segment_nor_grows_without_end() {
        let mut congestion = Congestion::new(SEGMENT);
        for _ in 0..50 {
            congestion.reduce();
        }
        assert_eq!(congestion.window(), 2 * SEGMENT);
        congestion.set_window(0);
        assert_eq!(congestion.window(), SEGMENT);
        for round in 0..1000 {
            congestion.acknowledged(&arrival(1 << 29, round * 1000));
        }
        assert_eq!(congestion.window(), WINDOW_MAX);
    }
}

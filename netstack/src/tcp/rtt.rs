//! The round-trip time and the retransmission timeout (RFC 6298).

use core::time::Duration;

/// The timeout before the first measurement (RFC 6298 §2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// The least that the timeout adds to the round trip. RFC 6298 §2.4 asks for a second in all; 200
/// milliseconds, which cover delayed acknowledgements, are what other systems use.
const MARGIN: Duration = Duration::from_millis(200);
/// The largest timeout (RFC 6298 §2.5).
const MOST: Duration = Duration::from_secs(60);
/// How long a minimum is believed, at least.
const MINIMUM_SPAN: Duration = Duration::from_secs(10);

/// What is known of the round trip.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
    backoff: u32,
    /// The minimum of this span and of the one before.
    least: Option<Duration>,
    least_before: Option<Duration>,
    span_since: Duration,
}

impl RoundTrip {
    /// Takes a measurement.
    pub(crate) fn sample(&mut self, sample: Duration, now: Duration) {
        // The clock's grain: a round trip of nothing would make timers fire at once.
        let sample = sample.max(Duration::from_micros(1));
        self.backoff = 0;
        match self.smoothed {
            None => (self.smoothed, self.variation) = (Some(sample), sample / 2),
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
        if now >= self.span_since + MINIMUM_SPAN {
            self.span_since = now;
            self.least_before = self.least.take();
        }
        self.least = Some(self.least.map_or(sample, |least| least.min(sample)));
    }

    /// The smoothed round trip.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The least round trip of late.
    pub(crate) fn least(&self) -> Option<Duration> {
        match (self.least, self.least_before) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Doubles the timeout, after it has passed.
    pub(crate) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(16);
    }

    /// Takes doublings back, when the peer proved to be there.
    pub(crate) fn reset_backoff(&mut self) {
        self.backoff = 0;
    }

    /// The retransmission timeout.
    pub(crate) fn timeout(&self) -> Duration {
        let base =
            self.smoothed.map_or(INITIAL, |smoothed| smoothed + (self.variation * 4).max(MARGIN));
        base.saturating_mul(1 << self.backoff).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_round_trip_and_doubles() {
        let ms = Duration::from_millis;
        let mut trip = RoundTrip::default();
        assert_eq!(trip.timeout(), ms(1000));
        trip.sample(ms(40), ms(0));
        assert_eq!(trip.timeout(), ms(240));
        trip.back_off();
        trip.back_off();
        assert_eq!(trip.timeout(), ms(960));
        for _ in 0..40 {
            trip.back_off();
        }
        assert_eq!(trip.timeout(), MOST);
        trip.sample(ms(600), ms(1));
        assert_eq!(trip.smoothed(), Some(ms(110)));
        assert_eq!(trip.timeout(), ms(110) + (ms(20) * 3 + ms(560)));
        assert_eq!(trip.least(), Some(ms(40)));
        trip.sample(ms(500), ms(11_000));
        trip.sample(ms(500), ms(22_000));
        assert_eq!(trip.least(), Some(ms(500)), "an old minimum is forgotten");
    }
}

//! When a certificate is renewed and when a failed attempt is repeated. Arithmetic only: no clock, no randomness.
//!
//! Times are seconds since 1970. Where something is spread, a [`Fraction`] says where in the range it falls; it comes from
//! a digest, so that a restart computes the same times again and nothing has to be stored for it.

use sha2::{Digest, Sha256};

/// The longest `Retry-After` that is believed, in seconds: a week.
pub const LONGEST_RETRY_AFTER: u64 = 7 * 86_400;
/// After a certificate was obtained, the next one for the same name is not ordered before this many seconds, whatever
/// dates and clock say: a clock that is years ahead must not order in a loop.
pub const PAUSE_AFTER_SUCCESS: i64 = 6 * 3600;

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

/// The time in which an authority suggests to renew (ARI: RFC 9773, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first second.
    pub start: i64,
    /// The last second.
    pub end: i64,
}

/// A place in a range: 0 is its start, `u32::MAX` its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction(pub u32);

impl Fraction {
    /// A place that depends on `seed` alone, evenly spread over different seeds.
    pub fn of(seed: &[u8]) -> Self {
        let digest = Sha256::digest(seed);
        Self(digest.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)))
    }

    /// This part of `length`, which is taken for 0 if it is negative.
    fn of_length(self, length: i64) -> i64 {
        let part = i128::from(length.max(0)) * i128::from(self.0) / i128::from(u32::MAX);
        i64::try_from(part).unwrap_or(i64::MAX)
    }
}

/// When to renew: within the authority's window where there is one, otherwise at two thirds of the lifetime, up to a
/// twenty-fourth of the lifetime earlier so that certificates of one day do not come due together. Never later than nine
/// tenths of the lifetime, whatever the authority suggests.
pub fn renew_at(validity: Validity, window: Option<Window>, place: Fraction) -> i64 {
    let lifetime = validity.not_after.saturating_sub(validity.not_before).max(0);
    let after = |part: i64| validity.not_before.saturating_add(part);
    let chosen = match window {
        Some(Window { start, end }) if start <= end => {
            start.saturating_add(place.of_length(end.saturating_sub(start)))
        }
        _ => after(lifetime / 3 * 2).saturating_sub(place.of_length(lifetime / 24)),
    };
    chosen.min(after(lifetime / 10 * 9))
}

/// Whether a certificate is so near its end that a person should know: within `alert` seconds of it, or in the last quarter
/// of a life so short that this is later. Renewal at two thirds should have happened by then.
pub fn is_ending(validity: Validity, alert: i64, now: i64) -> bool {
    let lifetime = validity.not_after.saturating_sub(validity.not_before).max(0);
    validity.not_after.saturating_sub(now) < alert.min(lifetime / 4)
}

/// How fast attempts are repeated after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The authority does not answer, or not yet: an attempt costs nobody much.
    Unreachable,
    /// Storage, keys, or what came is not right.
    Local,
    /// The authority says no. Public ones allow five failed validations of a name in an hour.
    Refused,
    /// The authority says: too many.
    RateLimited,
}

impl Pace {
    /// The first and the longest wait, in seconds.
    pub fn bounds(self) -> (u64, u64) {
        match self {
            Self::Unreachable => (5, 3600),
            Self::Local => (60, 3600),
            Self::Refused => (300, 86_400),
            Self::RateLimited => (3600, 86_400),
        }
    }
}

/// Seconds to wait after `failures` failures in a row (1 or more): doubled with each, up to the pace's longest, never less
/// than the authority asked for, and up to a quarter longer by `place`.
pub fn wait_after(pace: Pace, failures: u32, retry_after: Option<u64>, place: Fraction) -> i64 {
    let (first, longest) = pace.bounds();
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let asked = retry_after.unwrap_or(0).min(LONGEST_RETRY_AFTER);
    let wait = i64::try_from(doubled.min(longest).max(asked)).unwrap_or(i64::MAX / 2);
    wait.saturating_add(place.of_length(wait / 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn two_thirds_of_ninety_days() {
        let validity = Validity { not_before: 0, not_after: 90 * DAY };
        assert_eq!(renew_at(validity, None, Fraction(0)), 60 * DAY);
        assert_eq!(renew_at(validity, None, Fraction(u32::MAX)), 60 * DAY - 90 * DAY / 24);
        let window = Window { start: 10 * DAY, end: 12 * DAY };
        assert_eq!(renew_at(validity, Some(window), Fraction(0)), 10 * DAY);
        assert_eq!(renew_at(validity, Some(window), Fraction(u32::MAX)), 12 * DAY);
        let late = Window { start: 89 * DAY, end: 400 * DAY };
        assert_eq!(renew_at(validity, Some(late), Fraction(7)), 81 * DAY);
        let crossed = Window { start: 5, end: 4 };
        assert_eq!(renew_at(validity, Some(crossed), Fraction(0)), 60 * DAY);
    }

    #[test]
    fn ending_depends_on_threshold_and_life() {
        let long = Validity { not_before: 0, not_after: 90 * DAY };
        let at = |validity, days| is_ending(validity, 14 * DAY, days * DAY);
        assert!(!at(long, 76) && at(long, 77) && at(long, 100));
        let short = Validity { not_before: 0, not_after: 8 * DAY };
        assert!(!at(short, 6) && at(short, 7));
    }

    fn pace() -> impl Strategy<Value = Pace> {
        prop_oneof![
            Just(Pace::Unreachable),
            Just(Pace::Local),
            Just(Pace::Refused),
            Just(Pace::RateLimited)
        ]
    }

    proptest! {
        #[test]
        fn renewal_is_before_the_end(
            start in -1_000_000_000..4_000_000_000_i64, length in 1000..1_000_000_000_i64,
            window in proptest::option::of((any::<i64>(), any::<i64>())), place: u32,
        ) {
            let validity = Validity { not_before: start, not_after: start + length };
            let window = window.map(|(start, end)| Window { start, end });
            let at = renew_at(validity, window, Fraction(place));
            prop_assert!(at < validity.not_after);
            if window.is_none() {
                prop_assert!(at > start + length / 2);
            }
        }

        #[test]
        fn waits_grow_and_respect_the_authority(
            pace in pace(), failures in 1..u32::MAX, retry in proptest::option::of(any::<u64>()),
            place: u32,
        ) {
            let wait = wait_after(pace, failures, retry, Fraction(place));
            let (first, longest) = pace.bounds();
            let asked = retry.unwrap_or(0).min(LONGEST_RETRY_AFTER);
            prop_assert!(wait >= i64::try_from(first.max(asked)).unwrap());
            prop_assert!(wait <= i64::try_from(longest.max(asked)).unwrap() * 5 / 4);
            let more = wait_after(pace, failures.saturating_add(1), retry, Fraction(place));
            prop_assert!(more >= wait);
        }
    }

    #[test]
    fn a_refused_name_stays_below_five_attempts_an_hour() {
        let (mut now, mut attempts, mut failures) = (0, 0, 0);
        while now < 3600 {
            attempts += 1;
            failures += 1;
            now += wait_after(Pace::Refused, failures, None, Fraction(0));
        }
        assert!(attempts < 5, "{attempts}");
    }
}

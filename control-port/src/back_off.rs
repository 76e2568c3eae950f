//! How long the next attempt of a client that failed must wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::client::ClientKey;

/// Failures of one client that cost it nothing: a typing mistake, an old key.
pub const FREE_FAILURES: u32 = 5;
/// The wait after the first failure that costs; it doubles with each further one.
pub const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Failures are forgotten this long after the last one.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Clients whose failures are remembered; the longest-silent one makes room.
pub const MAX_REMEMBERED: usize = 4096;

/// Remembers who failed.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    failures: Mutex<HashMap<ClientKey, Failures>>,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
    wait: Duration,
}

impl BackOff {
    /// Whether this client may try now.
    pub(crate) fn allows(&self, client: IpAddr, now: Instant) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures
            .get(&ClientKey::from(client))
            .is_none_or(|failed| now.saturating_duration_since(failed.last) >= failed.wait)
    }

    /// This client failed.
    pub(crate) fn failed(&self, client: IpAddr, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let client = ClientKey::from(client);
        if failures.len() >= MAX_REMEMBERED && !failures.contains_key(&client) {
            failures.retain(|_, f| now.saturating_duration_since(f.last) < FORGET_AFTER);
            let oldest = failures.iter().min_by_key(|(_, f)| f.last).map(|(client, _)| *client);
            if let Some(oldest) = oldest.filter(|_| failures.len() >= MAX_REMEMBERED) {
                failures.remove(&oldest);
            }
        }
        let entry = failures.entry(client).or_insert(Failures {
            count: 0,
            last: now,
            wait: Duration::ZERO,
        });
        if now.saturating_duration_since(entry.last) >= FORGET_AFTER {
            entry.count = 0;
        }
        // Connections that were let in before the wait began fail within it; they are one attempt, however many.
        if now.saturating_duration_since(entry.last) < entry.wait {
            return;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        entry.wait = match entry.count.checked_sub(FREE_FAILURES + 1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(LONGEST_WAIT),
        };
    }

    /// This client proved a key.
    pub(crate) fn succeeded(&self, client: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&ClientKey::from(client));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn waits_grow_end_and_are_forgiven() {
        let back_off = BackOff::default();
        let client = IpAddr::from([192, 0, 2, 1]);
        let start = Instant::now();
        for _ in 0..FREE_FAILURES {
            back_off.failed(client, start);
            assert!(back_off.allows(client, start));
        }
        back_off.failed(client, start);
        assert!(!back_off.allows(client, start));
        for _ in 0..100 {
            back_off.failed(client, start);
        }
        assert!(back_off.allows(client, start + FIRST_WAIT));
        let mut now = start + FIRST_WAIT;
        back_off.failed(client, now);
        assert!(!back_off.allows(client, now + FIRST_WAIT));
        for _ in 0..100 {
            now += LONGEST_WAIT;
            back_off.failed(client, now);
        }
        assert!(!back_off.allows(client, now + LONGEST_WAIT / 2));
        assert!(back_off.allows(client, now + LONGEST_WAIT));
        assert!(back_off.allows(IpAddr::from([192, 0, 2, 2]), now));
        back_off.succeeded(client);
        assert!(back_off.allows(client, now));
    }

    #[test]
    fn memory_is_bounded_and_recent_failures_stay() {
        let back_off = BackOff::default();
        let start = Instant::now();
        for n in 0..u32::try_from(MAX_REMEMBERED).unwrap() + 500 {
            back_off.failed(IpAddr::from(n.to_be_bytes()), start + Duration::from_millis(n.into()));
        }
        let failures = back_off.failures.lock().unwrap();
        assert_eq!(failures.len(), MAX_REMEMBERED);
        assert!(!failures.contains_key(&ClientKey::from(IpAddr::from([0, 0, 0, 0]))));
    }
}

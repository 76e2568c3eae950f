//! How often a client is answered over UDP, where its address may be forged. Arithmetic only: the time is an argument.
//!
//! Every network has a bucket of answers that fills steadily. Whoever empties it gets a short "come again over TCP" to
//! every second question, which real clients follow, and nothing to the others. All buckets together are bounded in
//! number, and so is everything that is sent in a second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Answers in a row to one network (an IPv4 /24, an IPv6 /56).
const BURST: u32 = 60;
/// Answers in a second to one network after that.
const PER_SECOND: u32 = 20;
/// Answers in a second to all networks together.
const TOTAL_PER_SECOND: u32 = 2000;
/// Networks that are remembered.
const MAX_NETWORKS: usize = 4096;

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its answer.
    Answer,
    /// The hint to come again over TCP.
    Truncate,
    /// Nothing.
    Drop,
}

/// The buckets.
#[derive(Debug)]
pub struct Limiter {
    networks: HashMap<IpAddr, Bucket>,
    total: Bucket,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of an answer.
    level: u64,
    filled: Instant,
    /// Questions over the limit, to tell every second one.
    over: bool,
}

impl Bucket {
    fn full(size: u32, now: Instant) -> Self {
        Self { level: u64::from(size) * 1000, filled: now, over: false }
    }

    fn take(&mut self, size: u32, per_second: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        // Milliseconds times answers per second are thousandths of an answer.
        let gained = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let gained = gained.saturating_mul(u64::from(per_second));
        if gained > 0 {
            self.level = self.level.saturating_add(gained).min(u64::from(size) * 1000);
            self.filled = now;
        }
        let enough = self.level >= 1000;
        if enough {
            self.level -= 1000;
        }
        enough
    }
}

impl Limiter {
    /// Full buckets.
    pub fn new(now: Instant) -> Self {
        Self { networks: HashMap::new(), total: Bucket::full(TOTAL_PER_SECOND, now) }
    }

    /// Counts one question from `source`.
    pub fn take(&mut self, source: IpAddr, now: Instant) -> Verdict {
        if !self.total.take(TOTAL_PER_SECOND, TOTAL_PER_SECOND, now) {
            return Verdict::Drop;
        }
        let network = network(source);
        if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(&network) {
            self.forget(now);
        }
        let bucket = self.networks.entry(network).or_insert_with(|| Bucket::full(BURST, now));
        if bucket.take(BURST, PER_SECOND, now) {
            return Verdict::Answer;
        }
        bucket.over = !bucket.over;
        if bucket.over { Verdict::Truncate } else { Verdict::Drop }
    }

    /// Networks whose buckets are full again need not be remembered. If none is, all are forgotten: the limit for all
    /// together holds on.
    fn forget(&mut self, now: Instant) {
        let refill = Duration::from_secs(u64::from(BURST / PER_SECOND));
        self.networks.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < refill);
        if self.networks.len() >= MAX_NETWORKS {
            self.networks.clear();
        }
    }
}

/// What one subscriber commonly has.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets.iter_mut().skip(7).for_each(|octet| *octet = 0);
            IpAddr::from(octets)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_slowed_down_and_others_are_not() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let source = |last| IpAddr::from([192, 0, 2, last]);
        for number in 0..BURST {
            let last = u8::try_from(number % 200).unwrap_or(0);
            assert_eq!(limiter.take(source(last), start), Verdict::Answer);
        }
        let next: Vec<Verdict> = (0..4).map(|_| limiter.take(source(1), start)).collect();
        assert_eq!(next, [Verdict::Truncate, Verdict::Drop, Verdict::Truncate, Verdict::Drop]);
        assert_eq!(limiter.take(IpAddr::from([192, 0, 3, 1]), start), Verdict::Answer);
        let later = start + Duration::from_secs(1);
        let answered = (0..100).filter(|_| limiter.take(source(1), later) == Verdict::Answer);
        assert_eq!(answered.count(), 20);
    }

    #[test]
    fn memory_and_answers_are_bounded_whoever_asks() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let mut answered = 0;
        for number in 0..1_000_000_u32 {
            let source = IpAddr::from((number << 8).to_be_bytes());
            answered += u32::from(limiter.take(source, start) == Verdict::Answer);
            assert!(limiter.networks.len() <= MAX_NETWORKS);
        }
        assert_eq!(answered, TOTAL_PER_SECOND);
    }
}

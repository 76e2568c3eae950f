//! What routers said about the way to a host: packets above this size do not pass (RFC 1191,
//! RFC 8201).
//!
//! A connection is told when it begins, and when a router names one of its segments.

use core::net::IpAddr;
use core::time::Duration;

use hashbrown::HashMap;

use crate::flow::Secret;

/// How long a router's word holds (RFC 8201 §4: at least five minutes, ten recommended).
const LIFETIME: Duration = Duration::from_secs(600);
/// Most destinations remembered; beyond, all are forgotten and learned again.
const ENTRIES_MAX: usize = 1024;
/// The least that a path must carry: RFC 8200 §5, and for IPv4 a floor against forged messages
/// that would cut segments to dust (RFC 791 has 68; other systems use 552).
const LEAST_V4: usize = 552;
const LEAST_V6: usize = 1280;

/// The paths of one interface that carry less than its link.
#[derive(Debug)]
pub(crate) struct PathMtu {
    paths: HashMap<IpAddr, (usize, Duration), Secret>,
}

impl PathMtu {
    pub(crate) fn new(secret: Secret) -> Self {
        Self { paths: HashMap::with_hasher(secret) }
    }

    /// Takes a router's word. `reported` is zero from routers older than RFC 1191.
    pub(crate) fn learn(&mut self, destination: IpAddr, reported: usize, now: Duration) {
        let least = if destination.is_ipv4() { LEAST_V4 } else { LEAST_V6 };
        let mtu = reported.max(least);
        if self.paths.len() >= ENTRIES_MAX && !self.paths.contains_key(&destination) {
            self.paths.clear();
        }
        let known = self.get(destination, now).unwrap_or(usize::MAX);
        if mtu < known {
            self.paths.insert(destination, (mtu, now + LIFETIME));
        }
    }

    /// The largest packet for a destination, if routers said something about it.
    pub(crate) fn get(&self, destination: IpAddr, now: Duration) -> Option<usize> {
        if self.paths.is_empty() {
            return None;
        }
        self.paths.get(&destination).filter(|(_, until)| now < *until).map(|(mtu, _)| *mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_routers_only_lower_hold_for_a_while_and_are_bounded() {
        let mut paths = PathMtu::new(Secret::new([4; 16]));
        let host = IpAddr::from([10, 0, 0, 9]);
        let at = Duration::from_secs;
        assert_eq!(paths.get(host, at(1)), None);
        paths.learn(host, 1400, at(1));
        paths.learn(host, 1450, at(2));
        assert_eq!(paths.get(host, at(2)), Some(1400));
        paths.learn(host, 0, at(3));
        assert_eq!(paths.get(host, at(3)), Some(LEAST_V4));
        assert_eq!(paths.get(host, at(700)), None);
        for number in 0..5000u32 {
            paths.learn(IpAddr::from(number.to_be_bytes()), 1000, at(4));
        }
        assert!(paths.paths.len() <= ENTRIES_MAX);
    }
}

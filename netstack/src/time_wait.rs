//! The ends of connections (TIME-WAIT, RFC 9293 §3.6.1) as small stubs, so that no closed
//! connection keeps a socket and buffers.

use alloc::collections::VecDeque;
use core::time::Duration;

use hashbrown::HashMap;

use crate::flow::{FlowKey, Secret};
use crate::half_open::Syn;
use crate::packet::distance;
use crate::tcp::Remains;

/// How old an end must be before this host begins another connection of the same flow: a tick of every timestamp clock.
const REUSE_AFTER: Duration = Duration::from_secs(1);
/// How far beyond the old connection's numbers such a one begins, at least: more than a window without scale.
const REUSE_DISTANCE: u32 = 1 << 16;

/// All ends remembered, the oldest first.
#[derive(Debug)]
pub(crate) struct TimeWait {
    stubs: HashMap<FlowKey, (Duration, Remains), Secret>,
    order: VecDeque<(Duration, FlowKey)>,
    limit: usize,
    lifetime: Duration,
}

impl TimeWait {
    pub(crate) fn new(secret: Secret, limit: usize, lifetime: Duration) -> Self {
        Self { stubs: HashMap::with_hasher(secret), order: VecDeque::new(), limit, lifetime }
    }

    pub(crate) fn len(&self) -> usize {
        self.stubs.len()
    }

    pub(crate) fn insert(&mut self, key: FlowKey, stub: Remains, now: Duration) {
        if self.limit == 0 {
            return;
        }
        while self.stubs.len() >= self.limit {
            let Some((at, oldest)) = self.order.pop_front() else { break };
            self.forget(&oldest, at);
        }
        let expires = now + self.lifetime;
        self.stubs.insert(key, (expires, stub));
        self.order.push_back((expires, key));
    }

    pub(crate) fn get(&self, key: &FlowKey) -> Option<Remains> {
        self.stubs.get(key).map(|(_, stub)| *stub)
    }

    /// Whether a SYN may begin a new connection of the same flow: its sequence number lies beyond
    /// everything that the old one received (RFC 9293 §3.10.7.4), or its timestamp does (RFC 6191
    /// §2). If so the stub is gone.
    pub(crate) fn give_way(&mut self, key: &FlowKey, syn: &Syn) -> bool {
        let newer = self.get(key).is_some_and(|stub| {
            let stamps = stub.stamps.zip(syn.timestamp);
            distance(syn.sequence, stub.receive_next) > 0
                || stamps.is_some_and(|((_, recent), value)| distance(value, recent) > 0)
        });
        if newer {
            self.stubs.remove(key);
        }
        newer
    }

    /// Whether an end keeps this host from beginning a connection of the same flow. With timestamps it does so only for a
    /// moment: old segments are known by their stamps (RFC 6191 §1, PAWS), and a proxy that opens hundreds of connections
    /// per second to one backend would run out of ports.
    pub(crate) fn holds(&self, key: &FlowKey, now: Duration) -> bool {
        self.stubs.get(key).is_some_and(|(expires, stub)| {
            stub.stamps.is_none() || now + self.lifetime < *expires + REUSE_AFTER
        })
    }

    /// Whether an end has this local port.
    pub(crate) fn holds_port(&self, port: u16) -> bool {
        self.stubs.keys().any(|key| key.local.port() == port)
    }

    /// The initial sequence number of a connection that this host begins, beyond everything that the flow's end sent, if
    /// there is one; that end is forgotten. `clock` is the number for a flow without.
    pub(crate) fn succeed(&mut self, key: &FlowKey, clock: u32) -> u32 {
        let Some((_, stub)) = self.stubs.remove(key) else { return clock };
        let beyond = stub.send_next.wrapping_add(REUSE_DISTANCE);
        if distance(clock, beyond) > 0 { clock } else { beyond }
    }

    /// Forgets what is old enough.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some(&(at, key)) = self.order.front().filter(|(at, _)| *at <= now) {
            self.order.pop_front();
            self.forget(&key, at);
        }
    }

    /// Removes the end that expires at this time; one of the same flow that came after it stays.
    fn forget(&mut self, key: &FlowKey, at: Duration) {
        if self.stubs.get(key).is_some_and(|(expires, _)| *expires == at) {
            self.stubs.remove(key);
        }
    }

    /// When the next one is old enough.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.order.front().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ends_are_bounded_expire_and_give_way_to_newer_connections() {
        let mut table = TimeWait::new(Secret::new([1; 16]), 3, Duration::from_secs(30));
        let stamps = Some((0, 50));
        let stub = Remains { send_next: 1, receive_next: 100, window: 5, stamps };
        let syn = |sequence, timestamp| Syn {
            sequence,
            segment_size: 1460,
            window_scale: None,
            sack: false,
            window: 0,
            timestamp,
        };
        let key = |port| FlowKey {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: core::net::SocketAddr::from(([10, 0, 0, 2], port)),
        };
        for port in 1..=5 {
            table.insert(key(port), stub, Duration::from_secs(u64::from(port)));
        }
        assert_eq!(table.len(), 3);
        assert_eq!(table.get(&key(1)), None);
        assert!(!table.give_way(&key(5), &syn(99, Some(50))), "an old SYN is no new connection");
        assert!(table.give_way(&key(5), &syn(101, None)));
        assert_eq!(table.get(&key(5)), None);
        assert!(table.give_way(&key(4), &syn(99, Some(51))));
        assert_eq!(table.len(), 1);
        table.expire(table.next_expiry().unwrap());
        assert_eq!(table.len(), 0);
    }
}

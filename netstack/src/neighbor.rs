//! Which hardware address belongs to which neighbour (ARP, RFC 826; NDP, RFC 4861).
//!
//! The table is the stack's own because smoltcp's is silent for a second after every miss. A packet
//! for an unknown neighbour waits here while a request is out; a few per neighbour, all bounded.

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use hashbrown::HashMap;

use crate::device::FrameOffload;
use crate::flow::Secret;

/// How long an answer holds.
const LIFETIME: Duration = Duration::from_secs(60);
/// After this age, a use of the entry asks again, so that no packet ever waits for a neighbour
/// that is in use.
const REFRESH: Duration = Duration::from_secs(45);
/// The pause between two requests for the same neighbour (RFC 1122 §2.3.2.1).
const REQUEST_PAUSE: Duration = Duration::from_secs(1);
/// Most packets that wait for one neighbour.
const WAITING_MAX: usize = 16;

#[derive(Debug)]
struct Entry {
    hardware: Option<[u8; 6]>,
    confirmed: Duration,
    requested: Option<Duration>,
    waiting: Vec<Waiting>,
}

/// An IP packet that waits, and what its device has to do with it.
pub(crate) type Waiting = (Vec<u8>, FrameOffload);

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// Send it there; with `refresh`, send a request as well.
    Known { hardware: [u8; 6], refresh: bool },
    /// Let it [`Neighbors::wait`].
    Unknown,
}

/// The neighbours of one interface.
#[derive(Debug)]
pub(crate) struct Neighbors {
    entries: HashMap<IpAddr, Entry, Secret>,
    limit: usize,
}

impl Neighbors {
    pub(crate) fn new(secret: Secret, limit: usize) -> Self {
        Self { entries: HashMap::with_hasher(secret), limit: limit.max(1) }
    }

    /// Finds the way to `neighbor`.
    pub(crate) fn resolve(&mut self, neighbor: IpAddr, now: Duration) -> Resolution {
        let Some(entry) = self.entries.get_mut(&neighbor) else { return Resolution::Unknown };
        let age = now.saturating_sub(entry.confirmed);
        let may_ask = entry.requested.is_none_or(|at| now >= at + REQUEST_PAUSE);
        if let Some(hardware) = entry.hardware.filter(|_| age < LIFETIME) {
            let refresh = age >= REFRESH && may_ask;
            if refresh {
                entry.requested = Some(now);
            }
            return Resolution::Known { hardware, refresh };
        }
        Resolution::Unknown
    }

    /// Keeps a packet until `neighbor` is known. Returns whether to send a request, and whether a
    /// packet, this or one before it, was lost.
    pub(crate) fn wait(
        &mut self,
        neighbor: IpAddr,
        packet: Waiting,
        now: Duration,
    ) -> (bool, bool) {
        let entry = self.entry(neighbor, now);
        entry.hardware = None;
        let lost = entry.waiting.len() >= WAITING_MAX;
        if lost {
            entry.waiting.remove(0);
        }
        entry.waiting.push(packet);
        let request = entry.requested.is_none_or(|at| now >= at + REQUEST_PAUSE);
        if request {
            entry.requested = Some(now);
        }
        (request, lost)
    }

    /// Notes that `neighbor` has this hardware address, and returns the packets that waited for
    /// it. Only one that this host asked for, or that asks this host, may be `create`d.
    pub(crate) fn learn(
        &mut self,
        neighbor: IpAddr,
        hardware: [u8; 6],
        create: bool,
        now: Duration,
    ) -> Vec<Waiting> {
        if hardware[0] & 1 != 0 || !(create || self.entries.contains_key(&neighbor)) {
            return Vec::new();
        }
        let entry = self.entry(neighbor, now);
        entry.hardware = Some(hardware);
        entry.confirmed = now;
        core::mem::take(&mut entry.waiting)
    }

    fn entry(&mut self, neighbor: IpAddr, now: Duration) -> &mut Entry {
        if !self.entries.contains_key(&neighbor) {
            self.make_room();
        }
        self.entries.entry(neighbor).or_insert_with(|| Entry {
            hardware: None,
            confirmed: now,
            requested: None,
            waiting: Vec::new(),
        })
    }

    /// Forgets the neighbour that was confirmed longest ago if the table is full.
    fn make_room(&mut self) {
        if self.entries.len() < self.limit {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.confirmed);
        if let Some(address) = oldest.map(|(address, _)| *address) {
            self.entries.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(octets: &[u8]) -> Waiting {
        (octets.to_vec(), FrameOffload::default())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn packets_wait_for_the_answer_and_a_used_neighbour_never_expires() {
        let mut table = Neighbors::new(Secret::new([1; 16]), 10);
        let host = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(table.resolve(host, at(1)), Resolution::Unknown);
        assert_eq!(table.wait(host, packet(b"one"), at(1)), (true, false));
        assert_eq!(table.wait(host, packet(b"two"), at(1)), (false, false));
        assert_eq!(table.learn(host, [2; 6], false, at(1)), [packet(b"one"), packet(b"two")]);
        let known = Resolution::Known { hardware: [2; 6], refresh: false };
        assert_eq!(table.resolve(host, at(40)), known);
        let refreshed = Resolution::Known { hardware: [2; 6], refresh: true };
        assert_eq!(table.resolve(host, at(50)), refreshed);
        assert_eq!(table.resolve(host, at(62)), Resolution::Unknown);
        assert_eq!(table.wait(host, packet(b"x"), at(62)), (true, false));
    }

    #[test]
    fn the_table_and_what_waits_in_it_are_bounded() {
        let mut table = Neighbors::new(Secret::new([1; 16]), 3);
        for last in 0..100 {
            table.wait(IpAddr::from([10, 0, 0, last]), packet(b"x"), at(u64::from(last)));
        }
        assert_eq!(table.entries.len(), 3);
        let host = IpAddr::from([10, 0, 0, 99]);
        for _ in 0..100 {
            table.wait(host, packet(b"y"), at(99));
        }
        assert_eq!(table.learn(host, [2; 6], false, at(99)).len(), WAITING_MAX);
        assert!(table.learn(IpAddr::from([10, 0, 0, 1]), [2; 6], false, at(99)).is_empty());
        assert_eq!(table.entries.len(), 3, "an unasked answer makes no entry");
    }
}

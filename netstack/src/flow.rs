//! What names a connection on the wire, and the keyed hash over it.
//!
//! Peers choose their addresses and ports, so every table of flows, every initial sequence number
//! and every ephemeral port depends on a secret key.

use core::hash::{BuildHasher, Hash, Hasher};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use siphasher::sip::SipHasher13;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// A hasher with a secret key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret {
    key: [u8; 16],
}

impl Secret {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    fn hash(&self, purpose: u8, value: impl Hash) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u8(purpose);
        value.hash(&mut hasher);
        hasher.finish()
    }

    /// An initial sequence number: a clock of 4 µs plus a hash of the flow (RFC 6528 §3).
    pub(crate) fn initial_sequence(&self, key: &FlowKey, now: Duration) -> u32 {
        let clock = low_word(u64::try_from(now.as_micros() / 4).unwrap_or(0));
        low_word(self.hash(1, key)).wrapping_add(clock)
    }

    /// Where the search for an ephemeral port begins (RFC 6056 §3.3.3).
    pub(crate) fn port_offset(&self, local: IpAddr, remote: SocketAddr) -> u64 {
        self.hash(2, (local, remote))
    }

    /// Where the timestamp clock of a flow begins (RFC 7323 §7.1).
    pub(crate) fn stamp_offset(&self, key: &FlowKey) -> u32 {
        low_word(self.hash(4, key))
    }

    /// A delay of less than a second, which differs between hosts.
    pub(crate) fn delay(&self, interface: usize) -> Duration {
        Duration::from_millis(self.hash(5, interface) % 1000)
    }

    /// 24 bits that only this host can compute, for a SYN cookie.
    pub(crate) fn cookie(&self, key: &FlowKey, peer_sequence: u32, period: u64, mss: u8) -> u32 {
        low_word(self.hash(3, (key, peer_sequence, period, mss))) & 0x00ff_ffff
    }
}

impl BuildHasher for Secret {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.key)
    }
}

/// The low 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
pub(crate) fn low_word(value: u64) -> u32 {
    value as u32
}

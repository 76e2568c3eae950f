//! Handshakes that peers began and have not completed: small entries without sockets or buffers,
//! and above their number SYN cookies (RFC 4987 §3.6), which need no memory at all.
//!
//! An engine is made when the last acknowledgement comes. Until then the stack answers itself: its
//! SYN|ACK must offer what the engine will offer later, which [`Offer`] says. What a cookie has no
//! room for lies in the low bits of the timestamp that comes back with it.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use core::time::Duration;

use hashbrown::HashMap;
use smoltcp::wire::{TcpControl, TcpRepr, TcpTimestampRepr};

use crate::flow::{FlowKey, Secret, low_word};
use crate::packet::{bare_segment, distance, number};
use crate::tcp::{first_window, scale_for};

/// How long a cookie's period lasts; a cookie is accepted in its own and in the next.
const COOKIE_PERIOD: u64 = 64;
/// Segment sizes that a cookie can remember, ascending.
const COOKIE_SIZES: [u16; 8] = [216, 536, 1024, 1220, 1360, 1440, 1460, 8940];
/// The bits of a cookie's timestamp that hold options, and the window scale that means none.
const STAMP_MASK: u32 = 31;
const SCALE_NONE: u8 = 15;
/// No peer makes this host send smaller segments: they would multiply its work.
pub(crate) const SEGMENT_MIN: u16 = 88;
/// What a peer can take that names no size (RFC 9293 §3.7.1), IPv4.
const SEGMENT_DEFAULT: u16 = 536;
/// The first pause before a SYN|ACK is sent again; it doubles (RFC 6298 §2).
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What a peer's SYN said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syn {
    pub(crate) sequence: u32,
    pub(crate) segment_size: u16,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) window: u16,
    /// The value of its timestamp.
    pub(crate) timestamp: Option<u32>,
}

impl Syn {
    pub(crate) fn read(segment: &TcpRepr<'_>) -> Self {
        Self {
            sequence: number(segment.seq_number),
            segment_size: segment.max_seg_size.unwrap_or(SEGMENT_DEFAULT).max(SEGMENT_MIN),
            window_scale: segment.window_scale,
            sack: segment.sack_permitted,
            window: segment.window_len,
            timestamp: segment.timestamp.map(|stamp| stamp.tsval),
        }
    }

    /// What a cookie's timestamp holds: the window scale, and whether there are selective
    /// acknowledgements.
    fn stamp_bits(&self) -> u32 {
        u32::from(self.window_scale.unwrap_or(SCALE_NONE)) << 1 | u32::from(self.sack)
    }
}

/// What this host offers in its SYN|ACK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) segment_size: u16,
    pub(crate) receive_buffer: usize,
    /// The stamp of now.
    pub(crate) stamp: u32,
    /// The answer is a cookie: its stamp has to hold what the SYN said.
    pub(crate) cookie: bool,
}

impl Offer {
    /// The SYN|ACK.
    pub(crate) fn answer(self, key: &FlowKey, syn: &Syn, sequence: u32) -> TcpRepr<'static> {
        let window = first_window(self.receive_buffer);
        let acknowledgement = Some(syn.sequence.wrapping_add(1));
        let mut segment = bare_segment(key, TcpControl::Syn, sequence, acknowledgement, window);
        segment.max_seg_size = Some(self.segment_size);
        segment.window_scale = syn.window_scale.map(|_| scale_for(self.receive_buffer));
        segment.sack_permitted = syn.sack;
        // Without a stamp there is nothing to hold these.
        if self.cookie && syn.timestamp.is_none() {
            (segment.window_scale, segment.sack_permitted) = (None, false);
        }
        segment.timestamp = syn.timestamp.map(|value| TcpTimestampRepr {
            tsval: if self.cookie { mark_stamp(self.stamp, syn.stamp_bits()) } else { self.stamp },
            tsecr: value,
        });
        segment
    }
}

/// The newest stamp that is not after `stamp` and ends with `bits`.
fn mark_stamp(stamp: u32, bits: u32) -> u32 {
    let marked = stamp & !STAMP_MASK | bits;
    if distance(marked, stamp) > 0 { marked.wrapping_sub(STAMP_MASK + 1) } else { marked }
}

/// One handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HalfOpen {
    pub(crate) syn: Syn,
    /// This host's initial sequence number.
    pub(crate) sequence: u32,
    /// The interface, and the neighbour from which the SYN came: answers go back there.
    pub(crate) port: usize,
    pub(crate) hardware: [u8; 6],
    pub(crate) since: Duration,
    /// The SYN|ACK was sent more than once: nobody knows which one is answered.
    pub(crate) again: bool,
    retry: Duration,
}

/// All handshakes.
#[derive(Debug)]
pub(crate) struct HalfOpenTable {
    entries: HashMap<FlowKey, HalfOpen, Secret>,
    due: BinaryHeap<Reverse<(Duration, FlowOrder)>>,
    limit: usize,
    patience: Duration,
    secret: Secret,
    last_cookie: Option<Duration>,
}

/// A flow with an order, which the heap needs.
type FlowOrder = (core::net::SocketAddr, core::net::SocketAddr);

impl HalfOpenTable {
    pub(crate) fn new(secret: Secret, limit: usize, patience: Duration) -> Self {
        Self {
            entries: HashMap::with_hasher(secret),
            due: BinaryHeap::new(),
            limit,
            patience,
            secret,
            last_cookie: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &FlowKey) -> Option<&HalfOpen> {
        self.entries.get(key)
    }

    /// Notes that the SYN|ACK is sent again.
    pub(crate) fn answered_again(&mut self, key: &FlowKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.again = true;
        }
    }

    pub(crate) fn remove(&mut self, key: &FlowKey) {
        self.entries.remove(key);
    }

    /// Keeps a handshake; false if the table is full.
    pub(crate) fn insert(
        &mut self,
        key: FlowKey,
        syn: Syn,
        sequence: u32,
        from: (usize, [u8; 6]),
        now: Duration,
    ) -> bool {
        if self.entries.len() >= self.limit {
            return false;
        }
        let retry = now + FIRST_RETRY;
        let (port, hardware) = from;
        self.entries.insert(
            key,
            HalfOpen { syn, sequence, port, hardware, since: now, again: false, retry },
        );
        self.due.push(Reverse((retry, (key.local, key.remote))));
        true
    }

    /// When the next SYN|ACK is due, or the next entry given up.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// The next handshake whose SYN|ACK is due again. Those that waited too long are forgotten.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<(FlowKey, HalfOpen)> {
        loop {
            let Reverse((at, (local, remote))) = *self.due.peek()?;
            if at > now {
                return None;
            }
            self.due.pop();
            let key = FlowKey { local, remote };
            let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.retry == at) else {
                continue;
            };
            if now >= entry.since + self.patience {
                self.entries.remove(&key);
                continue;
            }
            entry.again = true;
            // Waited 1, 2, 4 … seconds since the first.
            let waited = now.saturating_sub(entry.since).max(FIRST_RETRY);
            entry.retry = (now + waited).min(entry.since + self.patience).max(now + FIRST_RETRY);
            self.due.push(Reverse((entry.retry, (local, remote))));
            return Some((key, *entry));
        }
    }

    /// The initial sequence number that holds a handshake for which there is no room.
    pub(crate) fn cookie(&mut self, key: &FlowKey, syn: &Syn, now: Duration) -> u32 {
        self.last_cookie = Some(now);
        let fits = COOKIE_SIZES.iter().rposition(|&size| size <= syn.segment_size).unwrap_or(0);
        let size = u8::try_from(fits).unwrap_or(0);
        self.cookie_of(key, syn.sequence, now.as_secs() / COOKIE_PERIOD, size)
    }

    fn cookie_of(&self, key: &FlowKey, peer_sequence: u32, period: u64, size: u8) -> u32 {
        let tag = (low_word(period) & 31) << 27 | u32::from(size & 7) << 24;
        tag | self.secret.cookie(key, peer_sequence, period, size)
    }

    /// What the SYN said for which a cookie comes back, if it is one of this host.
    pub(crate) fn redeem(
        &self,
        key: &FlowKey,
        segment: &TcpRepr<'_>,
        now: Duration,
    ) -> Option<(Syn, u32)> {
        let recent = Duration::from_secs(2 * COOKIE_PERIOD);
        self.last_cookie.filter(|&at| now < at + recent)?;
        let cookie = number(segment.ack_number?).wrapping_sub(1);
        let peer_sequence = number(segment.seq_number).wrapping_sub(1);
        let current = now.as_secs() / COOKIE_PERIOD;
        let size = u8::try_from(cookie >> 24 & 7).unwrap_or(0);
        let periods = [Some(current), current.checked_sub(1)];
        let matches = |period| self.cookie_of(key, peer_sequence, period, size) == cookie;
        periods.into_iter().flatten().any(matches).then(|| {
            let bits = segment.timestamp.map(|stamp| stamp.tsecr & STAMP_MASK);
            let scale = bits.and_then(|bits| u8::try_from(bits >> 1).ok());
            let syn = Syn {
                sequence: peer_sequence,
                segment_size: COOKIE_SIZES[usize::from(size)],
                window_scale: scale.filter(|&scale| scale < SCALE_NONE),
                sack: bits.is_some_and(|bits| bits & 1 == 1),
                window: segment.window_len,
                timestamp: segment.timestamp.map(|stamp| stamp.tsval),
            };
            (syn, cookie)
        })
    }
}

/// Whether a segment completes the handshake.
pub(crate) fn completes(entry: &HalfOpen, segment: &TcpRepr<'_>) -> bool {
    let acknowledges = segment.ack_number.map(number) == Some(entry.sequence.wrapping_add(1));
    let next = entry.syn.sequence.wrapping_add(1);
    let ahead = distance(number(segment.seq_number), next);
    acknowledges && (0..=65_535).contains(&ahead)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SYN: Syn = Syn {
        sequence: 5,
        segment_size: 1400,
        window_scale: Some(7),
        sack: true,
        window: 9,
        timestamp: None,
    };

    fn key(port: u16) -> FlowKey {
        let remote = core::net::SocketAddr::from(([10, 0, 0, 2], port));
        FlowKey { local: "10.0.0.1:80".parse().unwrap(), remote }
    }

    fn table(limit: usize) -> HalfOpenTable {
        HalfOpenTable::new(Secret::new([3; 16]), limit, Duration::from_secs(20))
    }

    #[test]
    fn an_answer_is_repeated_with_growing_pauses_and_given_up() {
        let mut table = table(2);
        let start = Duration::from_secs(100);
        assert!(table.insert(key(1), SYN, 7, (0, [2; 6]), start));
        let mut times = Vec::new();
        while let Some(due) = table.next_due() {
            if table.pop_due(due).is_some() {
                times.push(due.as_secs() - 100);
            }
        }
        assert_eq!(times, [1, 2, 4, 8, 16]);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = table(2);
        let inserted =
            (0..9).filter(|&n| table.insert(key(n), SYN, 7, (0, [2; 6]), Duration::ZERO));
        assert_eq!(inserted.count(), 2);
    }

    #[test]
    fn a_cookie_is_redeemed_once_in_time_by_its_own_flow_only() {
        let mut table = table(0);
        let now = Duration::from_secs(1000);
        let cookie = table.cookie(&key(1), &SYN, now);
        let peer = FlowKey { local: key(1).remote, remote: key(1).local };
        let ack = |acknowledgement: u32| {
            bare_segment(&peer, TcpControl::None, 6, Some(acknowledgement), 100)
        };
        let good = ack(cookie.wrapping_add(1));
        let (syn, sequence) = table.redeem(&key(1), &good, now).unwrap();
        assert_eq!((syn.sequence, syn.segment_size, sequence), (5, 1360, cookie));
        assert!(table.redeem(&key(2), &good, now).is_none(), "another flow");
        assert!(table.redeem(&key(1), &good, now + Duration::from_secs(200)).is_none(), "too late");
        let forged = (0..20_000).filter(|n| table.redeem(&key(1), &ack(*n), now).is_some());
        assert_eq!(forged.count(), 0);
    }
    #[test]
    fn a_cookie_keeps_scale_and_selective_acknowledgements_in_its_stamp() {
        let mut table = table(0);
        let now = Duration::from_secs(1000);
        let peer = FlowKey { local: key(1).remote, remote: key(1).local };
        for (window_scale, sack, stamp) in
            [(Some(7), true, 99), (Some(0), false, 96), (Some(14), true, 3), (None, true, 64)]
        {
            let syn = Syn { window_scale, sack, timestamp: Some(5), ..SYN };
            let cookie = table.cookie(&key(1), &syn, now);
            let offer = Offer { segment_size: 1460, receive_buffer: 1 << 20, stamp, cookie: true };
            let answer = offer.answer(&key(1), &syn, cookie);
            let echoed = answer.timestamp.unwrap();
            assert_eq!(echoed.tsecr, 5);
            let age = distance(stamp, echoed.tsval);
            assert!((0..=31).contains(&age), "the clock does not run ahead: {age}");
            let acknowledged = Some(cookie.wrapping_add(1));
            let mut ack = bare_segment(&peer, TcpControl::None, 6, acknowledged, 9);
            ack.timestamp = Some(TcpTimestampRepr { tsval: 8, tsecr: echoed.tsval });
            assert_eq!(
                table.redeem(&key(1), &ack, now).unwrap().0,
                Syn { segment_size: 1360, timestamp: Some(8), ..syn }
            );
        }
        // Without a stamp nothing is offered that would be forgotten.
        let offer = Offer { segment_size: 1460, receive_buffer: 1 << 20, stamp: 1, cookie: true };
        let answer = offer.answer(&key(1), &SYN, 0);
        assert_eq!(
            (answer.window_scale, answer.sack_permitted, answer.timestamp),
            (None, false, None)
        );
    }
}

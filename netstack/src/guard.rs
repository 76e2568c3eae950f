//! What a segment must know to be let in to a connection: RFC 5961, and no more than was sent may
//! be acknowledged.
//!
//! The guard sees both directions as they are on the wire. smoltcp behind it accepts any reset
//! within the window, and acknowledgements of data that it has queued but never sent.

use std::time::Duration;

use smoltcp::wire::{TcpControl, TcpRepr};

use crate::counters::DropReason;
use crate::packet::{distance, number};

/// The least pause between two challenges of one connection (RFC 5961 §7).
const CHALLENGE_PAUSE: Duration = Duration::from_millis(500);
/// The largest window that RFC 7323 allows.
const WINDOW_MAX: u32 = 1 << 30;

/// What to do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Give it to the connection.
    Pass,
    /// Drop it for this reason; answer with an acknowledgement if `challenge` is set.
    Refuse { reason: DropReason, challenge: bool },
}

/// The sequence numbers of a connection, as seen from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    /// The oldest octet that the peer has not acknowledged.
    pub(crate) unacknowledged: u32,
    /// After the newest octet sent.
    pub(crate) send_next: u32,
    /// The next octet expected, as last told to the peer; none before the first acknowledgement.
    pub(crate) receive_next: Option<u32>,
    /// The window last told to the peer, unscaled and in octets.
    pub(crate) window_field: u16,
    pub(crate) window: u32,
    window_shift: u8,
    largest_peer_window: u32,
    peer_shift: u8,
    last_challenge: Option<Duration>,
}

impl Guard {
    /// Notes a segment that goes out, its sequence number being that of the wire.
    pub(crate) fn sent(&mut self, segment: &TcpRepr<'_>) {
        if segment.control == TcpControl::Rst {
            return;
        }
        let start = number(segment.seq_number);
        let length = u32::try_from(segment.segment_len()).unwrap_or(0);
        if segment.control == TcpControl::Syn {
            self.unacknowledged = start;
            self.send_next = start.wrapping_add(1);
            self.window_shift = segment.window_scale.unwrap_or(0);
        } else if distance(start.wrapping_add(length), self.send_next) > 0 {
            self.send_next = start.wrapping_add(length);
        }
        if let Some(acknowledgement) = segment.ack_number.map(number) {
            let shift = if segment.control == TcpControl::Syn { 0 } else { self.window_shift };
            self.receive_next = Some(acknowledgement);
            self.window_field = segment.window_len;
            self.window = u32::from(segment.window_len) << shift;
        }
    }

    /// Notes the peer's SYN.
    pub(crate) fn peer_opened(&mut self, window_scale: Option<u8>) {
        self.peer_shift = window_scale.unwrap_or(0).min(14);
        if window_scale.is_none() {
            self.window_shift = 0;
        }
    }

    /// By how many bits the peer's window is shifted.
    pub(crate) fn peer_shift(&self) -> u8 {
        self.peer_shift
    }

    /// Judges a received segment.
    pub(crate) fn judge(&mut self, segment: &TcpRepr<'_>) -> Verdict {
        let Some(receive_next) = self.receive_next else {
            // The answer to a SYN is judged by smoltcp, which knows exactly one good one.
            if segment.ack_number.map(number) == Some(self.send_next) {
                self.unacknowledged = self.send_next;
            }
            return Verdict::Pass;
        };
        let sequence = number(segment.seq_number);
        let ahead = distance(sequence, receive_next);
        let inside = ahead >= 0 && ahead.unsigned_abs() < self.window.max(1);
        if segment.control == TcpControl::Rst {
            return match (ahead, inside) {
                (0, _) => Verdict::Pass,
                (_, challenge) => Verdict::Refuse { reason: DropReason::BlindReset, challenge },
            };
        }
        if segment.control == TcpControl::Syn {
            return Verdict::Refuse { reason: DropReason::BlindReset, challenge: true };
        }
        let Some(acknowledgement) = segment.ack_number.map(number) else {
            return Verdict::Refuse { reason: DropReason::BlindData, challenge: false };
        };
        // Acceptable is one stretch: from a window before the oldest unacknowledged octet to the
        // newest sent one. Compared as one unsigned distance, nothing wraps around into it.
        let oldest = self.largest_peer_window.max(65_535);
        let sent = self.send_next.wrapping_sub(self.unacknowledged);
        let place = acknowledgement.wrapping_sub(self.unacknowledged.wrapping_sub(oldest));
        if place > oldest + sent {
            return Verdict::Refuse { reason: DropReason::BlindData, challenge: true };
        }
        if place > oldest {
            self.unacknowledged = acknowledgement;
        }
        let window = (u32::from(segment.window_len) << self.peer_shift).min(WINDOW_MAX);
        self.largest_peer_window = self.largest_peer_window.max(window);
        Verdict::Pass
    }

    /// Whether a challenge may be sent now.
    pub(crate) fn may_challenge(&mut self, now: Duration) -> bool {
        let may = self.last_challenge.is_none_or(|at| now >= at + CHALLENGE_PAUSE);
        if may {
            self.last_challenge = Some(now);
        }
        may
    }
}

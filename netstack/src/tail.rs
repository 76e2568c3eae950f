//! The tail-loss probe (RFC 8985 §7): the last segment is sent again after two round trips without
//! an acknowledgement, long before smoltcp's shortest retransmission timeout of one second.
//!
//! The probe works from outside: it keeps a copy of the newest unacknowledged segment and measures
//! the round trip itself.

use std::time::Duration;

use crate::packet::distance;

/// The shortest wait before a probe; covers a peer's delayed acknowledgement (RFC 8985 §7.2).
const WAIT_MIN: Duration = Duration::from_millis(50);
/// The wait before the round trip is known.
const WAIT_UNKNOWN: Duration = Duration::from_millis(400);

/// The probe of one connection.
#[derive(Debug, Default)]
pub(crate) struct TailProbe {
    copy: Vec<u8>,
    end: u32,
    due: Option<Duration>,
    probed: bool,
    round_trip: Option<Duration>,
    timed: Option<(u32, Duration)>,
}

impl TailProbe {
    /// Notes a data segment that goes out: `packet` as it is on the wire, `end` after its last
    /// octet, `new` if no part of it was sent before.
    pub(crate) fn sent(&mut self, packet: &[u8], end: u32, new: bool, now: Duration) {
        if !new {
            // A retransmission makes the time of its acknowledgement ambiguous (RFC 6298 §3).
            self.timed = None;
            return;
        }
        self.copy.clear();
        self.copy.extend_from_slice(packet);
        self.end = end;
        self.probed = false;
        self.due = Some(now + self.wait());
        self.timed.get_or_insert((end, now));
    }

    /// Notes that everything before `acknowledgement` arrived; `all` if that is everything sent.
    pub(crate) fn acknowledged(&mut self, acknowledgement: u32, all: bool, now: Duration) {
        let timed = self.timed.filter(|(end, _)| distance(acknowledgement, *end) >= 0);
        if let Some((_, at)) = timed {
            let sample = now.saturating_sub(at);
            self.round_trip = Some(self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8));
            self.timed = None;
        }
        if all {
            self.due = None;
            self.probed = false;
            self.copy = Vec::new();
        } else if !self.copy.is_empty() {
            self.due = Some(now + self.wait());
        }
    }

    /// Whether a probe is out whose answer shows what is missing.
    pub(crate) fn take_answer(&mut self) -> bool {
        std::mem::take(&mut self.probed)
    }

    /// When the probe is due.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// The segment to send again, if it is time. At most one until new data goes out or the peer
    /// acknowledges something.
    pub(crate) fn fire(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.due.filter(|&due| due <= now)?;
        self.due = None;
        self.probed = true;
        self.timed = None;
        (!self.copy.is_empty()).then(|| self.copy.clone())
    }

    fn wait(&self) -> Duration {
        self.round_trip.map_or(WAIT_UNKNOWN, |trip| (trip * 2).max(WAIT_MIN))
    }
}

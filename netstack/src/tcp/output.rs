//! What a connection has to say, one segment at a time: a reset, what is lost, what is new, probes,
//! and an acknowledgement if nothing else carries it.

use core::time::Duration;

use smoltcp::wire::{TcpControl, TcpRepr};

use super::options::Options;
use super::rack::Probe;
use super::sequence::{Position, START, length};
use super::{Acknowledge, State, Tcp};
use crate::flow::FlowKey;

/// A segment to send: its header, and which octets follow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) header: TcpRepr<'static>,
    /// Where its data begins, and how many octets there are.
    from: Position,
    pub(crate) octets: usize,
    /// If it is to be cut into segments by the device: how many octets each shall carry.
    pub(crate) segment_size: Option<usize>,
}

impl Tcp {
    /// Copies the data of a segment that [`Tcp::next_segment`] returned last.
    pub(crate) fn copy_data(&self, segment: &Outgoing, target: &mut [u8]) {
        self.tx.queue.copy(segment.from, target);
    }

    /// The next segment, none if there is nothing to say at the moment. With a device that cuts
    /// segments, one may carry up to `super_segment` octets, else zero.
    pub(crate) fn next_segment(
        &mut self,
        key: &FlowKey,
        super_segment: usize,
        now: Duration,
    ) -> Option<Outgoing> {
        match self.state {
            State::Closed => return self.reset(key, now),
            State::TimeWait => return self.acknowledgement(key, now),
            State::SynSent | State::SynReceived => return self.opening(key, now),
            _ => {}
        }
        self.lost(key, super_segment, now)
            .or_else(|| self.tail_probe(key, now))
            .or_else(|| self.fresh(key, super_segment, false, now))
            .or_else(|| self.poke(key, now))
            .or_else(|| self.acknowledgement(key, now))
    }

    fn reset(&mut self, key: &FlowKey, now: Duration) -> Option<Outgoing> {
        if !core::mem::take(&mut self.owed.reset) {
            return None;
        }
        let header = self.header(key, TcpControl::Rst, self.tx.next, now);
        Some(bare(header))
    }

    /// The SYN, with an acknowledgement if the peer's came.
    fn opening(&mut self, key: &FlowKey, now: Duration) -> Option<Outgoing> {
        let first = self.tx.next == START;
        if first {
            self.tx.next = START + 1;
            self.tx.board.sent(START, START + 1, now);
        } else if self.tx.board.lost() > 0 {
            self.tx.board.sent_again(START, START + 1, now);
            self.counts.retransmitted += 1;
        } else {
            return None;
        }
        self.arm_after_sending(true, true, now);
        let mut header = self.header(key, TcpControl::Syn, START, now);
        let answers = self.state == State::SynReceived;
        let Options { peer_scale, sack, .. } = self.options;
        header.max_seg_size = u16::try_from(self.link_segment).ok();
        header.window_scale = (!answers || peer_scale.is_some()).then_some(self.rx.scale);
        header.sack_permitted = sack;
        header.sack_ranges = [None; 3];
        Some(bare(header))
    }

    /// What is lost.
    fn lost(&mut self, key: &FlowKey, super_segment: usize, now: Duration) -> Option<Outgoing> {
        let (start, end) = self.tx.board.first_lost()?;
        let segment = self.full_segment();
        let mut count = (end - start).min(segment.max(super_segment as u64));
        // A peer that took its window back gets one segment at a time, after a timeout.
        let window_end = self.tx.una + self.tx.window;
        if start + count > window_end && !self.recovery.force {
            count = count.min(segment).min(window_end.saturating_sub(start));
            if count == 0 {
                return None;
            }
        }
        let room = self.room(segment);
        if count > room {
            count = if room >= segment {
                room - room % segment
            } else if self.recovery.force {
                count.min(segment)
            } else {
                self.tx.limited = true;
                return None;
            };
        }
        if count > segment {
            count = whole(count, end - start, segment);
        }
        Some(self.send_again(key, start, start + count, now))
    }

    fn send_again(
        &mut self,
        key: &FlowKey,
        start: Position,
        end: Position,
        now: Duration,
    ) -> Outgoing {
        self.tx.board.sent_again(start, end, now);
        self.counts.retransmitted += 1;
        let stamp = self.options.stamps.map(|stamps| stamps.now(now));
        self.recovery.sent(end - start, true, stamp);
        self.arm_after_sending(false, start == self.tx.una, now);
        self.data(key, start, end, now)
    }

    /// The tail-loss probe: something new if there is, else the newest segment again (RFC 8985
    /// §7.3).
    fn tail_probe(&mut self, key: &FlowKey, now: Duration) -> Option<Outgoing> {
        if !core::mem::take(&mut self.owed.probe) {
            return None;
        }
        self.counts.probes += 1;
        if let Some(new) = self.fresh(key, 0, true, now) {
            self.probe = Some(Probe { end: self.tx.next, again: false });
            self.clock.probe = None;
            return Some(new);
        }
        let last = self.tx.board.last().copied().filter(|last| !last.sacked)?;
        let start = last.start.max(last.end.saturating_sub(self.full_segment()));
        self.probe = Some(Probe { end: self.tx.next, again: true });
        Some(self.send_again(key, start, last.end, now))
    }

    /// What was never sent. A `probe` may exceed the congestion window.
    fn fresh(
        &mut self,
        key: &FlowKey,
        super_segment: usize,
        probe: bool,
        now: Duration,
    ) -> Option<Outgoing> {
        let (start, end) = (self.tx.next, self.tx.queue.end());
        let fin_unsent = self.tx.fin && start <= end;
        let waiting = end.saturating_sub(start);
        if waiting == 0 && !fin_unsent {
            self.tx.limited &= probe;
            return None;
        }
        self.rest(now);
        let segment = self.full_segment();
        let window = (self.tx.una + self.tx.window).saturating_sub(start);
        let most = if probe { segment } else { segment.max(super_segment as u64) };
        let mut count = waiting.min(window).min(most);
        let room = self.room(segment);
        if count > room && !probe {
            count = room - room % segment;
            if count == 0 {
                self.tx.limited = true;
                return None;
            }
        }
        if count > segment {
            count = whole(count, waiting, segment);
        }
        if count < segment && waiting > 0 {
            if count < waiting {
                // The peer's window is the limit: small pieces only if it never had more
                // (RFC 9293 §3.8.6.2.1), or for want of anything better.
                let good = count > 0 && (2 * count >= self.tx.largest_window || self.owed.small);
                if !good {
                    return self.held_by_window(now);
                }
            } else if !self.nodelay && !self.tx.fin && !probe && self.tx.small_end > self.tx.una {
                // Nagle's rule, as to small segments only.
                return None;
            }
        }
        let fin = fin_unsent && count == waiting && window > waiting;
        if count == 0 && !fin {
            return self.held_by_window(now);
        }
        self.owed.small = false;
        let until = start + count + u64::from(fin);
        if count % segment != 0 {
            self.tx.small_end = until;
        }
        self.tx.board.sent(start, until, now);
        self.tx.next = until;
        self.tx.last_sent = now;
        self.recovery.sent(until - start, false, None);
        self.arm_after_sending(true, false, now);
        Some(self.data(key, start, until, now))
    }

    /// Octets that the congestion window still allows; one segment when nothing is on its way.
    fn room(&self, segment: u64) -> u64 {
        match self.in_flight() {
            0 => self.congestion.window().max(segment),
            in_flight => self.congestion.window().saturating_sub(in_flight),
        }
    }

    fn held_by_window(&mut self, now: Duration) -> Option<Outgoing> {
        self.tx.limited = false;
        self.arm_persist(now);
        None
    }

    /// A rest makes the congestion window worth less.
    fn rest(&mut self, now: Duration) {
        if self.tx.board.is_empty() && self.tx.last_sent > Duration::ZERO {
            let timeout = self.trip.timeout().as_micros().max(1);
            let rested = now.saturating_sub(self.tx.last_sent).as_micros() / timeout;
            self.congestion.rested(u32::try_from(rested).unwrap_or(u32::MAX));
        }
    }

    /// A segment with the octets of a range, which ends after the FIN if that is one further.
    fn data(&mut self, key: &FlowKey, start: Position, until: Position, now: Duration) -> Outgoing {
        let end = self.tx.queue.end();
        let octets = length(until.min(end) - start.min(end));
        let control = if until > end {
            TcpControl::Fin
        } else if until == end {
            TcpControl::Psh
        } else {
            TcpControl::None
        };
        if octets > 0 && self.acknowledge != Acknowledge::No {
            self.interactive = true;
        }
        let segment = length(self.full_segment());
        let header = self.header(key, control, start, now);
        self.acknowledge = Acknowledge::No;
        let segment_size = (octets > segment).then_some(segment);
        Outgoing { header, from: start, octets, segment_size }
    }

    /// A segment that the peer must answer, because it lies before the window.
    fn poke(&mut self, key: &FlowKey, now: Duration) -> Option<Outgoing> {
        if !core::mem::take(&mut self.owed.poke) {
            return None;
        }
        self.owed.small = false;
        self.acknowledge = Acknowledge::No;
        Some(bare(self.header(key, TcpControl::None, self.tx.una - 1, now)))
    }

    fn acknowledgement(&mut self, key: &FlowKey, now: Duration) -> Option<Outgoing> {
        let update = self.state != State::TimeWait && self.rx.update_due();
        if self.acknowledge != Acknowledge::Now && !update {
            return None;
        }
        self.acknowledge = Acknowledge::No;
        Some(bare(self.header(key, TcpControl::None, self.tx.next, now)))
    }

    /// Octets of a full segment that is sent now, with what acknowledgements take of it.
    fn full_segment(&self) -> u64 {
        let blocks = if self.options.sack { self.rx.blocks() } else { [None; 3] };
        self.options.segment(blocks.iter().flatten().count()) as u64
    }
}

/// A segment without data.
fn bare(header: TcpRepr<'static>) -> Outgoing {
    Outgoing { header, from: START, octets: 0, segment_size: None }
}

/// The part of `count` octets that fills segments, unless it is all that is `waiting`.
fn whole(count: u64, waiting: u64, segment: u64) -> u64 {
    if count == waiting { count } else { count - count % segment }
}

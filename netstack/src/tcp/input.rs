//! What a received segment does to a connection (RFC 9293 §3.10.7).

use core::time::Duration;

use smoltcp::wire::{TcpControl, TcpRepr};

use super::congestion::Arrival;
use super::reassembly::Range;
use super::receiver::Taken;
use super::recovery::Phase;
use super::scoreboard::Record;
use super::sequence::{Position, START};
use super::timers::Clock;
use super::{Acknowledge, State, Tcp};
use crate::counters::DropReason;
use crate::error::SocketError;
use crate::half_open::Syn;
use crate::packet::number;

/// The least pause between two challenges of one connection (RFC 5961 §7).
const CHALLENGE_PAUSE: Duration = Duration::from_millis(500);
/// The least pause between two answers to empty segments outside of the window, so that two sides
/// that disagree do not answer each other for ever.
const ANSWER_PAUSE: Duration = Duration::from_millis(100);
/// The longest that an acknowledgement waits for data to ride on (RFC 1122 §4.2.3.2: half a second).
const ACK_DELAY: Duration = Duration::from_millis(40);
/// Duplicate acknowledgements that prove a loss (RFC 5681 §3.2).
const DUPLICATES: u64 = 3;

/// Why a segment was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: DropReason,
    pub(crate) answer: Answer,
}

/// What the sender of a refused segment is told, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Nothing,
    /// [`Tcp::challenge`].
    Challenge,
    /// A reset, as for a segment of no connection.
    Reset,
}

impl Refusal {
    fn silent(reason: DropReason) -> Self {
        Self { reason, answer: Answer::Nothing }
    }
}

/// What an acknowledgement delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Delivery {
    octets: u64,
    /// When the first and the last of what was sent once were sent.
    oldest: Option<Duration>,
    newest: Option<Duration>,
}

impl Delivery {
    fn note(&mut self, record: &Record) {
        self.octets += record.end - record.start;
        if !record.again {
            let at = record.sent_at;
            self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
            self.newest = Some(self.newest.map_or(at, |newest| newest.max(at)));
        }
    }
}

impl Tcp {
    /// Takes a segment; of its data at most `room` octets are kept.
    pub(crate) fn receive(
        &mut self,
        segment: &TcpRepr<'_>,
        room: usize,
        now: Duration,
    ) -> Result<(), Refusal> {
        match self.state {
            State::Closed | State::TimeWait => return Err(Refusal::silent(DropReason::NoSocket)),
            State::SynSent => return self.receive_answer(segment, now),
            _ => {}
        }
        let start = self.rx.numbers.position(number(segment.seq_number), self.rx.next);
        match segment.control {
            TcpControl::Rst => return self.receive_reset(start, now),
            TcpControl::Syn => return self.receive_syn(segment, start, now),
            _ => {}
        }
        let end = start + segment.segment_len() as u64;
        self.check_age(segment, now)?;
        self.check_place(start, end, now)?;
        let acknowledged = self.check_acknowledgement(segment, now)?;
        self.take_stamp(segment, start, now);
        self.clock.heard(now);
        if self.state == State::SynReceived {
            self.established();
        }
        self.receive_acknowledgement(segment, start, acknowledged, now);
        let fin = segment.control == TcpControl::Fin;
        if self.state != State::Closed && (fin || !segment.payload.is_empty()) {
            self.receive_data(start, segment.payload, fin, room, now);
        }
        Ok(())
    }

    /// In SYN-SENT (§3.10.7.3).
    fn receive_answer(&mut self, segment: &TcpRepr<'_>, now: Duration) -> Result<(), Refusal> {
        let ours = self.tx.numbers.wire(START + 1);
        let acknowledges = segment.ack_number.map(number);
        if acknowledges.is_some_and(|acknowledged| acknowledged != ours) {
            let answer =
                if segment.control == TcpControl::Rst { Answer::Nothing } else { Answer::Reset };
            return Err(Refusal { reason: DropReason::BlindData, answer });
        }
        match segment.control {
            TcpControl::Rst if acknowledges.is_some() => {
                self.end(Some(SocketError::ConnectionRefused));
                Ok(())
            }
            TcpControl::Rst => Err(Refusal::silent(DropReason::BlindReset)),
            TcpControl::Syn => {
                self.open(&Syn::read(segment), now);
                self.clock.heard(now);
                self.tx.window_from = (START, START);
                if acknowledges.is_some() {
                    self.established();
                    self.receive_acknowledgement(segment, START, START + 1, now);
                    self.acknowledge = Acknowledge::Now;
                } else {
                    // Both began at once (§3.5, figure 8): the SYN is repeated with an
                    // acknowledgement.
                    self.state = State::SynReceived;
                    self.tx.board.lose_all();
                }
                Ok(())
            }
            _ => Err(Refusal::silent(DropReason::BlindData)),
        }
    }

    fn established(&mut self) {
        if self.tx.board.last().is_some_and(|syn| syn.again) {
            self.congestion.begin_with_one();
        } else {
            self.congestion = super::Congestion::new(self.segment());
        }
        self.recovery = super::Recovery::new();
        self.trip.reset_backoff();
        self.state = State::Established;
        if self.tx.fin {
            self.state = self.state.ended_here();
        }
    }

    /// RFC 5961 §3.2.
    fn receive_reset(&mut self, start: Position, now: Duration) -> Result<(), Refusal> {
        if start == self.rx.next {
            let orderly = matches!(self.state, State::LastAck | State::Closing);
            // What the peer had to send has come; what is sent to it has nowhere to go, as Linux
            // tells it.
            let error = match self.state {
                State::CloseWait => SocketError::BrokenPipe,
                _ => SocketError::ConnectionReset,
            };
            self.end((!orderly).then_some(error));
            return Ok(());
        }
        let inside = start > self.rx.next && start < self.rx.right();
        Err(if inside {
            self.challenging(DropReason::BlindReset, now)
        } else {
            Refusal::silent(DropReason::BlindReset)
        })
    }

    /// A SYN when the peer's was seen already (RFC 5961 §4.2).
    fn receive_syn(
        &mut self,
        segment: &TcpRepr<'_>,
        start: Position,
        now: Duration,
    ) -> Result<(), Refusal> {
        if self.state == State::SynReceived && start == START {
            if segment.ack_number.map(number) == Some(self.tx.numbers.wire(START + 1)) {
                self.clock.heard(now);
                self.established();
                self.receive_acknowledgement(segment, start, START + 1, now);
                self.acknowledge = Acknowledge::Now;
            } else {
                self.tx.board.lose_all();
            }
            return Ok(());
        }
        Err(self.challenging(DropReason::BlindReset, now))
    }

    fn challenging(&mut self, reason: DropReason, now: Duration) -> Refusal {
        let may = Clock::may(&mut self.clock.challenged, CHALLENGE_PAUSE, now);
        let answer = if may { Answer::Challenge } else { Answer::Nothing };
        Refusal { reason, answer }
    }

    /// Refuses what is older than what arrived (RFC 7323 §5.3).
    fn check_age(&mut self, segment: &TcpRepr<'_>, now: Duration) -> Result<(), Refusal> {
        let (Some(stamps), Some(stamp)) = (self.options.stamps, segment.timestamp) else {
            return Ok(());
        };
        if stamps.is_old(stamp.tsval, now) {
            return Err(self.answering(DropReason::Stale, segment.payload.is_empty(), now));
        }
        Ok(())
    }

    /// Notes the stamp of a segment that passed all checks: whoever could set it blindly could make
    /// everything look old that the peer sends from then on (RFC 7323 §4.3).
    fn take_stamp(&mut self, segment: &TcpRepr<'_>, start: Position, now: Duration) {
        if let (Some(stamps), Some(stamp)) = (&mut self.options.stamps, segment.timestamp)
            && start <= self.rx.acknowledged
        {
            stamps.update(stamp.tsval, now);
        }
    }

    /// Refuses what lies outside of the window (RFC 9293 §3.10.7.4), with an acknowledgement.
    fn check_place(
        &mut self,
        start: Position,
        end: Position,
        now: Duration,
    ) -> Result<(), Refusal> {
        // What lies before is still read for its acknowledgement if it may have been sent before
        // the last one of this side arrived.
        if end >= self.rx.acknowledged && start <= self.rx.right().max(self.rx.next) {
            return Ok(());
        }
        if end > start && end <= self.rx.next {
            self.rx.duplicate = Some((start, end.min(self.rx.next)));
        }
        Err(self.answering(DropReason::OutsideWindow, end == start, now))
    }

    /// A refusal that the peer is told of.
    fn answering(&mut self, reason: DropReason, empty: bool, now: Duration) -> Refusal {
        if !empty || Clock::may(&mut self.clock.answered, ANSWER_PAUSE, now) {
            self.acknowledge = Acknowledge::Now;
        }
        Refusal::silent(reason)
    }

    /// The acknowledged position. Acceptable is one stretch: from a window before the oldest
    /// unacknowledged octet to the newest sent one (RFC 5961 §5.2).
    fn check_acknowledgement(
        &mut self,
        segment: &TcpRepr<'_>,
        now: Duration,
    ) -> Result<Position, Refusal> {
        let Some(acknowledged) = segment.ack_number else {
            return Err(Refusal::silent(DropReason::BlindData));
        };
        let position = self.tx.numbers.position(number(acknowledged), self.tx.una);
        let known = position <= self.tx.next
            && position + self.tx.largest_window >= self.tx.una
            && (self.state != State::SynReceived || position == START + 1);
        if known { Ok(position) } else { Err(self.challenging(DropReason::BlindData, now)) }
    }

    fn receive_acknowledgement(
        &mut self,
        segment: &TcpRepr<'_>,
        start: Position,
        acknowledged: Position,
        now: Duration,
    ) {
        let before = self.tx.una;
        let window_before = self.tx.window;
        self.update_window(segment, start, acknowledged);
        if acknowledged < before {
            return;
        }
        let echo = segment.timestamp.filter(|_| self.options.stamps.is_some()).map(|s| s.tsecr);
        let early = self.recovery.was_early(echo);
        let delivery = self.deliver(segment, acknowledged, early, now);
        let progress = acknowledged > before;
        let sample = self.measure(&delivery, echo, progress, now);
        if progress {
            self.tx.queue.release(acknowledged);
            self.tx.una = acknowledged;
            self.duplicates =
                self.duplicates.saturating_sub((acknowledged - before).div_ceil(self.segment()));
        }
        let duplicate = self.duplicate_report(segment);
        let proven = duplicate.is_some_and(|(from, to)| self.recovery.duplicated(to - from));
        if (early && progress) || proven {
            self.undo();
        }
        let repeated = !progress
            && segment.payload.is_empty()
            && segment.control == TcpControl::None
            && self.tx.window == window_before
            && !self.tx.board.is_empty();
        self.judge_probe(acknowledged, duplicate, repeated && delivery.octets == 0);
        if !self.options.sack {
            self.count_duplicates(repeated, progress);
        }
        self.repair(acknowledged, &delivery, sample, progress, now);
        // While everything arrives in order, nothing was overtaken: no need to look at all records.
        let doubt = self.tx.board.sacked() > 0 || self.recovery.phase != Phase::Open;
        if self.options.sack && delivery.octets > 0 && doubt {
            self.detect_losses(now);
        }
        if progress {
            self.arm_after_progress(now);
            if self.tx.fin && acknowledged > self.tx.queue.end() {
                self.enter(self.state.end_acknowledged());
            }
        } else if self.tx.board.sacked() > 0 || self.recovery.phase != Phase::Open {
            self.clock.probe = None;
        }
    }

    /// RFC 9293 §3.10.7.4: only from a segment that is not older than the last that said it.
    fn update_window(&mut self, segment: &TcpRepr<'_>, start: Position, acknowledged: Position) {
        if (start, acknowledged) < self.tx.window_from {
            return;
        }
        let scale = match segment.control {
            TcpControl::Syn => 0,
            _ => self.options.peer_scale.unwrap_or(0),
        };
        self.tx.window = u64::from(segment.window_len) << scale;
        self.tx.largest_window = self.tx.largest_window.max(self.tx.window);
        self.tx.window_from = (start, acknowledged);
        if self.tx.window > 0 {
            self.clock.window_opened();
        }
    }

    /// Notes on the scoreboard what arrived.
    fn deliver(
        &mut self,
        segment: &TcpRepr<'_>,
        acknowledged: Position,
        early: bool,
        now: Duration,
    ) -> Delivery {
        let mut delivery = Delivery::default();
        let least = self.trip.least();
        let rack = &mut self.rack;
        let mut note = |record: &Record| {
            delivery.note(record);
            rack.delivered(record, least, early, now);
        };
        if acknowledged > self.tx.una {
            self.tx.board.acknowledge(acknowledged, &mut note);
        }
        if self.options.sack {
            for (from, to) in segment.sack_ranges.into_iter().flatten() {
                let from = self.tx.numbers.position(from, acknowledged);
                let to = self.tx.numbers.position(to, acknowledged);
                if from < to && from >= acknowledged && to <= self.tx.next {
                    self.tx.board.sack((from, to), &mut note);
                }
            }
        }
        delivery
    }

    /// Measures the round trip: by what was sent once, else by timestamps (RFC 6298 §3).
    fn measure(
        &mut self,
        delivery: &Delivery,
        echo: Option<u32>,
        progress: bool,
        now: Duration,
    ) -> Option<Duration> {
        let passed = |at: Duration| now.saturating_sub(at);
        if let Some(oldest) = delivery.oldest {
            self.trip.sample(passed(oldest), now);
        } else if progress && delivery.octets > 0 {
            let stamps = self.options.stamps;
            let sample = stamps.zip(echo).and_then(|(stamps, echo)| stamps.since(echo, now));
            if let Some(sample) = sample {
                self.trip.sample(sample, now);
            }
        }
        delivery.newest.map(passed)
    }

    /// The range that the peer reports as a duplicate, if it does (RFC 2883 §4).
    fn duplicate_report(&mut self, segment: &TcpRepr<'_>) -> Option<Range> {
        let mut ranges = segment.sack_ranges.into_iter().flatten();
        let (from, to) = ranges.next().filter(|_| self.options.sack)?;
        let position = |number| self.tx.numbers.position(number, self.tx.una);
        let (from, to) = (position(from), position(to));
        let inside = ranges
            .next()
            .is_some_and(|(outer, end)| from >= position(outer) && to <= position(end));
        let oldest = self.tx.una.saturating_sub(self.tx.largest_window);
        if from >= to || from < oldest || !(to <= self.tx.una || inside) {
            return None;
        }
        // A probe that was not needed says nothing about reordering.
        if self.probe.is_none_or(|probe| to != probe.end) {
            self.rack.duplicated(self.tx.una, self.tx.next);
        }
        Some((from, to))
    }

    fn undo(&mut self) {
        if self.recovery.revert(&mut self.congestion) {
            self.counts.undone += 1;
            self.tx.board.find_lost();
            self.rack.recovered();
        }
    }

    /// Whether the tail-loss probe repaired something that would otherwise go unnoticed
    /// (RFC 8985 §7.4.2).
    fn judge_probe(&mut self, acknowledged: Position, duplicate: Option<Range>, nothing: bool) {
        let Some(probe) = self.probe.filter(|probe| acknowledged >= probe.end) else { return };
        if !probe.again || duplicate.is_some_and(|(_, to)| to == probe.end) {
            self.probe = None;
        } else if acknowledged > probe.end {
            self.probe = None;
            self.congestion.reduce();
        } else if nothing {
            // Both the original and the probe arrived.
            self.probe = None;
        }
    }

    /// Counts for a peer without selective acknowledgements (RFC 5681 §3.2, RFC 6582 §3.2).
    fn count_duplicates(&mut self, repeated: bool, progress: bool) {
        if repeated {
            self.duplicates += 1;
            if self.duplicates >= DUPLICATES && self.recovery.phase == Phase::Open {
                self.tx.board.lose_first(self.segment());
                self.enter_recovery();
            }
        } else if progress && self.recovery.phase == Phase::Recovery {
            // A partial acknowledgement: the next hole.
            self.tx.board.lose_first(self.segment());
        } else if progress {
            self.duplicates = 0;
        }
    }

    /// Repairs go on, or the window grows.
    fn repair(
        &mut self,
        acknowledged: Position,
        delivery: &Delivery,
        sample: Option<Duration>,
        progress: bool,
        now: Duration,
    ) {
        let (in_flight, segment) = (self.in_flight(), self.segment());
        let repairing = self.recovery.phase == Phase::Recovery;
        let delivered = if self.options.sack || progress { delivery.octets } else { segment };
        let complete = self.recovery.acknowledged(
            &mut self.congestion,
            acknowledged,
            delivered,
            in_flight,
            segment,
        );
        if complete {
            self.rack.recovered();
            self.duplicates = 0;
        }
        if progress && !repairing && self.tx.limited {
            self.congestion.acknowledged(&Arrival {
                octets: delivery.octets,
                sample,
                acknowledged,
                sent: self.tx.next,
                now,
                round_trip: self.trip.smoothed().unwrap_or_default(),
            });
        }
    }

    /// Looks for losses by time (RFC 8985 §6.2 step 5).
    pub(super) fn detect_losses(&mut self, now: Duration) {
        let board = &mut self.tx.board;
        let segment = self.options.segment(0) as u64;
        let eager = self.recovery.phase != Phase::Open || board.sacked() >= DUPLICATES * segment;
        let (lost, again) = self.rack.detect(board, &self.trip, eager, now);
        self.clock.reorder = again;
        if lost && self.recovery.phase == Phase::Open {
            self.enter_recovery();
        }
    }

    fn enter_recovery(&mut self) {
        let flight = self.tx.next - self.tx.una;
        self.recovery.enter(&mut self.congestion, flight, self.tx.next);
        self.clock.probe = None;
        self.owed.probe = false;
    }

    fn receive_data(
        &mut self,
        start: Position,
        data: &[u8],
        fin: bool,
        room: usize,
        now: Duration,
    ) {
        let ended = self.rx.ended();
        let taken = self.rx.take(start, data, fin, room);
        let pending = self.rx.next - self.rx.acknowledged;
        let quick = self.quick > 0 && !self.interactive;
        self.quick = self.quick.saturating_sub(1);
        match taken {
            Taken::InOrder { gap: false }
                if pending < self.rx.patience() && !quick && !self.rx.ended() =>
            {
                if self.acknowledge == Acknowledge::No {
                    self.acknowledge = Acknowledge::By(now + ACK_DELAY);
                }
            }
            _ => self.acknowledge = Acknowledge::Now,
        }
        if self.rx.ended() && !ended {
            self.enter(self.state.ended_there());
        }
    }
}

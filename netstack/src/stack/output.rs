//! Frames out: dirty connections send, and are then looked at once: readiness, timers, their end.

use core::time::Duration;

use smoltcp::wire::{TcpControl, TcpRepr};

use super::{Stack, table::Entry};
use crate::counters::DropReason;
use crate::device::Device;
use crate::error::SocketError;
use crate::flow::FlowKey;
use crate::half_open::{Offer, Syn};
use crate::interface::Wire;
use crate::packet::{bare_segment, tcp_packet};
use crate::readiness::Readiness;
use crate::tcp::{State, stamp};
use crate::timers::TimerOwner;

impl<D: Device> Stack<D> {
    /// The second half of a turn: every connection with something to send sends, at most
    /// [`crate::Limits::segments_per_turn`] segments; the rest follows in the next turn.
    pub fn transmit(&mut self, now: Duration) {
        for _ in 0..self.dirty.len() {
            let Some(index) = self.dirty.pop_front() else { break };
            let Some(connection) = self.table.connection_mut(index) else { continue };
            connection.dirty = false;
            self.on_time(index, now);
            let more = self.flush(index, now);
            self.settle(index, now);
            if more {
                self.mark(index);
            }
        }
    }

    /// Sends what a connection has; true if it has more.
    pub(super) fn flush(&mut self, index: u32, now: Duration) -> bool {
        self.now = self.now.max(now);
        let Some(connection) = self.table.connection_mut(index) else { return false };
        let Some(port) = self.ports.get_mut(connection.port) else { return false };
        self.counters.connection_polls += 1;
        for _ in 0..self.limits.segments_per_turn {
            if !port.device.can_transmit() {
                return true;
            }
            let super_segment = port.super_segment();
            let Some(segment) = connection.tcp.next_segment(&connection.key, super_segment, now)
            else {
                return false;
            };
            let (counters, capture) = (&mut self.counters, &mut self.capture);
            let mut wire = Wire { counters, capture, now };
            port.send_segment(&connection.key, &connection.tcp, &segment, &mut wire);
        }
        true
    }

    /// Does what is due for a connection, and ends what took too long.
    fn on_time(&mut self, index: u32, now: Duration) {
        let Some(connection) = self.table.connection_mut(index) else { return };
        if connection.deadline.is_some_and(|deadline| deadline <= now) {
            connection.deadline = None;
            if connection.is_connecting() {
                connection.tcp.fail(SocketError::TimedOut);
            } else {
                connection.tcp.abort();
            }
        }
        connection.tcp.on_time(now);
    }

    /// Looks at a connection after it was polled.
    pub(super) fn settle(&mut self, index: u32, now: Duration) {
        let id = self.table.id(index);
        let fin_wait = self.limits.fin_wait;
        self.account(index);
        let Some(connection) = self.table.connection_mut(index) else { return };
        let counts = connection.tcp.take_counts();
        self.counters.retransmitted += counts.retransmitted;
        self.counters.timeouts += counts.timeouts;
        self.counters.probes += counts.probes;
        self.counters.repairs_undone += counts.undone;
        connection.note_state();
        let state = connection.tcp.state();
        if !connection.owned {
            if state == State::FinWait2 && connection.deadline.is_none() {
                connection.deadline = Some(now + fin_wait);
            }
            // Nobody will read it: the peer must know (RFC 1122 §4.2.2.13).
            if connection.tcp.readable() > 0 && state != State::Closed {
                connection.tcp.abort();
                return self.mark(index);
            }
        }
        let remembered = state == State::TimeWait;
        if connection.tcp.is_over() || remembered {
            let key = connection.key;
            // The stub answers from now on; what is unread stays with the socket.
            if self.flows.get(&key) == Some(&index) {
                self.flows.remove(&key);
                if remembered {
                    self.time_wait.insert(key, connection.tcp.remains(), now);
                }
            }
            if !connection.owned {
                return self.discard(index);
            }
        }
        let again = if connection.take_arrival() { Readiness::READABLE } else { Readiness::NONE };
        let level = connection.readiness();
        connection.edges.update(id, level, again, &mut self.events);
        let times = [connection.deadline, connection.tcp.deadline()];
        let deadline = times.into_iter().flatten().min();
        if deadline.is_some_and(|at| at <= now) {
            return self.mark(index);
        }
        let owner = TimerOwner { index, generation: id.generation };
        let mut armed = connection.armed;
        self.timers.arm(owner, &mut armed, deadline);
        connection.armed = armed;
    }

    /// Counts the memory that a connection holds.
    pub(super) fn account(&mut self, index: u32) {
        if let Some(connection) = self.table.connection_mut(index) {
            let held = connection.tcp.held();
            self.buffers_used = self.buffers_used - connection.buffers + held;
            connection.buffers = held;
        }
    }

    /// Forgets a connection that is over.
    pub(super) fn discard(&mut self, index: u32) {
        if let Some(Entry::Connection(connection)) = self.table.remove(index) {
            self.buffers_used -= connection.buffers;
            if !connection.owned {
                self.orphans -= 1;
            }
            if self.flows.get(&connection.key) == Some(&index) {
                self.flows.remove(&connection.key);
            }
        }
    }

    /// Sends an IP packet by its route.
    pub(super) fn send_packet(&mut self, number: usize, packet: &[u8], now: Duration) {
        let (counters, capture) = (&mut self.counters, &mut self.capture);
        if let Some(port) = self.ports.get_mut(number) {
            port.send_ip(packet, &mut Wire { counters, capture, now });
        }
    }

    /// Sends a segment back to the neighbour from which its cause came.
    pub(super) fn reply(
        &mut self,
        key: &FlowKey,
        segment: &TcpRepr<'_>,
        to: (usize, [u8; 6]),
        now: Duration,
    ) {
        let packet = tcp_packet(key.local.ip(), key.remote.ip(), segment);
        let (counters, capture) = (&mut self.counters, &mut self.capture);
        if let Some(port) = self.ports.get_mut(to.0) {
            port.send_to(to.1, &packet, &mut Wire { counters, capture, now });
        }
    }

    /// Sends the SYN|ACK of a handshake; its number may be a cookie.
    pub(super) fn answer_syn(
        &mut self,
        key: &FlowKey,
        syn: &Syn,
        (sequence, cookie): (u32, bool),
        to: (usize, [u8; 6]),
        now: Duration,
    ) {
        let settings = self.settings(key, to.0, now);
        let offer = Offer {
            segment_size: u16::try_from(settings.link_segment).unwrap_or(u16::MAX),
            receive_buffer: settings.receive_buffer,
            stamp: stamp(settings.stamp_offset, now),
            cookie,
        };
        self.reply(key, &offer.answer(key, syn, sequence), to, now);
    }

    /// Resets a segment that belongs to no connection (RFC 9293 §3.10.7.1).
    pub(super) fn refuse(
        &mut self,
        key: &FlowKey,
        segment: &TcpRepr<'_>,
        to: (usize, [u8; 6]),
        now: Duration,
    ) {
        self.counters.drop(DropReason::NoSocket);
        self.send_reset(key, segment, to, now);
    }

    /// Answers a segment with a reset, unless it is one, within the limit.
    pub(super) fn send_reset(
        &mut self,
        key: &FlowKey,
        segment: &TcpRepr<'_>,
        to: (usize, [u8; 6]),
        now: Duration,
    ) {
        if segment.control == TcpControl::Rst || !self.may_reply(now) {
            return;
        }
        let start = crate::packet::number(segment.seq_number);
        let end = start.wrapping_add(u32::try_from(segment.segment_len()).unwrap_or(0));
        let reset = match segment.ack_number.map(crate::packet::number) {
            Some(acknowledged) => bare_segment(key, TcpControl::Rst, acknowledged, None, 0),
            None => bare_segment(key, TcpControl::Rst, 0, Some(end), 0),
        };
        self.counters.resets_sent += 1;
        self.reply(key, &reset, to, now);
    }
}

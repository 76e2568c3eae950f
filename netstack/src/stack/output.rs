//! Frames out: dirty connections send, and are then looked at once: readiness, timers, their end.

use std::time::Duration;

use smoltcp::iface::PollResult;
use smoltcp::socket::tcp::State;
use smoltcp::wire::{TcpControl, TcpRepr};

use super::{Stack, table::Entry};
use crate::counters::DropReason;
use crate::device::Device;
use crate::error::SocketError;
use crate::flow::FlowKey;
use crate::half_open::{Offer, Syn};
use crate::interface::{Splice, Wire, instant};
use crate::packet::{bare_segment, tcp_packet};
use crate::readiness::Readiness;
use crate::time_wait::Stub;
use crate::timers::TimerOwner;

impl<D: Device> Stack<D> {
    /// The second half of a turn: every connection with something to send sends, at most
    /// [`crate::Limits::segments_per_turn`] segments; the rest follows in the next turn.
    pub fn transmit(&mut self, now: Duration) {
        for _ in 0..self.dirty.len() {
            let Some(index) = self.dirty.pop_front() else { break };
            let Some(connection) = self.table.connection_mut(index) else { continue };
            connection.dirty = false;
            self.probe(index, now);
            let more = self.flush(index, now);
            self.settle(index, now);
            if more {
                self.mark(index);
            }
        }
    }

    /// Sends what a connection has; true if it has more.
    pub(super) fn flush(&mut self, index: u32, now: Duration) -> bool {
        let Some(connection) = self.table.connection_mut(index) else { return false };
        let Some(port) = self.ports.get_mut(connection.port) else { return false };
        self.counters.connection_polls += 1;
        for _ in 0..self.limits.segments_per_turn {
            if !port.device.can_transmit() {
                return true;
            }
            self.outbox.clear();
            let mut device = Splice::flow(None, &mut self.outbox, port.capabilities.mtu);
            let result = port.flows.poll_egress(instant(now), &mut device, &mut connection.set);
            let (counters, capture) = (&mut self.counters, &mut self.capture);
            let mut wire = Wire { counters, capture, now };
            for packet in self.outbox.packets_mut() {
                if connection.sent(packet, now) {
                    port.send_segment(packet, connection.key.remote.ip(), &mut wire);
                }
            }
            if result == PollResult::None {
                return false;
            }
        }
        true
    }

    /// Sends the tail-loss probe if it is due, and ends what took too long.
    fn probe(&mut self, index: u32, now: Duration) {
        let Some(connection) = self.table.connection_mut(index) else { return };
        let silence = connection.silence_ends(now);
        if [connection.deadline, silence].into_iter().flatten().any(|deadline| deadline <= now) {
            connection.deadline = None;
            connection.blame = Some(SocketError::TimedOut);
            connection.socket_mut().abort();
        }
        let Some(packet) = connection.tail.fire(now) else { return };
        let (number, remote) = (connection.port, connection.key.remote.ip());
        self.counters.probes += 1;
        let (counters, capture) = (&mut self.counters, &mut self.capture);
        if let Some(port) = self.ports.get_mut(number) {
            port.send_segment(&packet, remote, &mut Wire { counters, capture, now });
        }
    }

    /// Looks at a connection after it was polled.
    pub(super) fn settle(&mut self, index: u32, now: Duration) {
        let id = self.table.id(index);
        let fin_wait = self.limits.fin_wait;
        let Some(connection) = self.table.connection_mut(index) else { return };
        connection.note_state();
        let state = connection.previous;
        if !connection.owned {
            if state == State::FinWait2 && connection.deadline.is_none() {
                connection.deadline = Some(now + fin_wait);
            }
            // Nobody will read it: the peer must know (RFC 1122 §4.2.2.13).
            if connection.socket().recv_queue() > 0 && state != State::Closed {
                connection.socket_mut().abort();
                return self.mark(index);
            }
        }
        let over = state == State::Closed && connection.socket().remote_endpoint().is_none();
        let remembered = state == State::TimeWait && !connection.owned;
        if over || remembered {
            let key = connection.key;
            if self.flows.get(&key) == Some(&index) {
                self.flows.remove(&key);
            }
            if remembered {
                let guard = &connection.guard;
                let stub = Stub {
                    send_next: guard.send_next,
                    receive_next: guard.receive_next.unwrap_or(0),
                    window: guard.window_field,
                };
                self.time_wait.insert(key, stub, now);
            }
            let Some(connection) = self.table.connection_mut(index) else { return };
            if !connection.owned {
                return self.discard(index);
            }
        }
        let Some(connection) = self.table.connection_mut(index) else { return };
        let again = if connection.take_arrival() { Readiness::READABLE } else { Readiness::NONE };
        let level = connection.readiness();
        connection.edges.update(id, level, again, &mut self.events);
        let own = [connection.deadline, connection.tail.due(), connection.silence_ends(now)];
        let mut deadline = own.into_iter().flatten().min();
        if let Some(port) = self.ports.get_mut(connection.port)
            && let Some(at) = port.flows.poll_at(instant(now), &connection.set)
        {
            let at = Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
            deadline = Some(deadline.map_or(at, |other| other.min(at)));
        }
        if deadline.is_some_and(|at| at <= now) {
            return self.mark(index);
        }
        let owner = TimerOwner { index, generation: id.generation };
        let mut armed = connection.armed;
        self.timers.arm(owner, &mut armed, deadline);
        connection.armed = armed;
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

    /// Sends the SYN|ACK of a handshake.
    pub(super) fn answer_syn(
        &mut self,
        key: &FlowKey,
        syn: &Syn,
        sequence: u32,
        to: (usize, [u8; 6]),
        now: Duration,
    ) {
        let Some(port) = self.ports.get(to.0) else { return };
        let headers = if key.local.is_ipv4() { 40 } else { 60 };
        let offer = Offer {
            segment_size: u16::try_from(port.capabilities.mtu - headers).unwrap_or(u16::MAX),
            receive_buffer: self.limits.receive_buffer,
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

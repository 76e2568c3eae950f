//! One TCP connection: smoltcp's socket in a set of its own, and what the stack adds around it.
//!
//! The socket counts in sequence numbers of its own choice; on the wire all of its numbers are
//! higher by a constant `shift`, so that the initial one can be a keyed hash or a cookie.

use std::time::Duration;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, CongestionControl, State};
use smoltcp::wire::{TcpControl, TcpRepr};

use crate::error::SocketError;
use crate::flow::FlowKey;
use crate::guard::Guard;
use crate::packet::{
    Header, TYPE_IPV4, TYPE_IPV6, distance, number, parse_ip, parse_tcp, shift_sequence,
};
use crate::readiness::{Edges, Readiness};
use crate::slow_start::SlowStart;
use crate::tail::TailProbe;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: FlowKey,
    /// The interface's number.
    pub(crate) port: usize,
    pub(crate) set: SocketSet<'static>,
    handle: SocketHandle,
    /// What is added to the socket's sequence numbers; unknown until its SYN is seen.
    pub(crate) shift: Option<u32>,
    /// The initial sequence number that the wire shall see.
    initial: u32,
    pub(crate) guard: Guard,
    pub(crate) tail: TailProbe,
    /// Until the first retransmission; then smoltcp's congestion control takes over.
    pub(crate) slow_start: Option<SlowStart>,
    /// Whether an application holds it (or will, by `accept`); otherwise it is an orphan.
    pub(crate) owned: bool,
    /// The listener whose backlog it is in.
    pub(crate) backlog_of: Option<u32>,
    pub(crate) error: Option<SocketError>,
    /// Why it will have ended, when smoltcp says that it has.
    pub(crate) blame: Option<SocketError>,
    /// The application ended it by force.
    pub(crate) aborted: bool,
    pub(crate) previous: State,
    pub(crate) dirty: bool,
    pub(crate) armed: Option<Duration>,
    /// How long the peer may be silent while something is unacknowledged.
    pub(crate) user_timeout: Duration,
    /// Probe an idle peer at this interval.
    keepalive: Option<Duration>,
    keepalive_since: Option<Duration>,
    last_heard: Duration,
    waiting_since: Option<Duration>,
    /// A limit of the stack's own: for connecting, or for an orphan's end.
    pub(crate) deadline: Option<Duration>,
    pub(crate) read_shut: bool,
    pub(crate) write_shut: bool,
    /// A `send` was cut short: writable means a good part of the buffer.
    pub(crate) starved: bool,
    seen_queue: usize,
    pub(crate) edges: Edges,
    pub(crate) buffers: usize,
}

impl Connection {
    /// A connection whose socket is closed; the caller lets it listen or connect.
    pub(crate) fn new(
        key: FlowKey,
        port: usize,
        initial: u32,
        receive_buffer: usize,
        send_buffer: usize,
        user_timeout: Duration,
    ) -> Self {
        let receive = tcp::SocketBuffer::new(vec![0; receive_buffer]);
        let send = tcp::SocketBuffer::new(vec![0; send_buffer]);
        let mut socket = tcp::Socket::new(receive, send);
        socket.set_congestion_control(CongestionControl::None);
        // Acknowledgements ride on what the application sends in the same turn.
        socket.set_ack_delay(None);
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Self {
            key,
            port,
            set,
            handle,
            shift: None,
            initial,
            guard: Guard::default(),
            tail: TailProbe::default(),
            slow_start: Some(SlowStart::new()),
            owned: true,
            backlog_of: None,
            error: None,
            blame: None,
            aborted: false,
            previous: State::Closed,
            dirty: false,
            armed: None,
            user_timeout,
            keepalive: None,
            keepalive_since: None,
            last_heard: Duration::ZERO,
            waiting_since: None,
            deadline: None,
            read_shut: false,
            write_shut: false,
            starved: false,
            seen_queue: 0,
            edges: Edges::default(),
            buffers: receive_buffer + send_buffer,
        }
    }

    pub(crate) fn socket(&self) -> &tcp::Socket<'static> {
        self.set.get(self.handle)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// Brings a packet of the socket to the numbers of the wire and notes what it says. False if
    /// it is no packet for the wire.
    pub(crate) fn sent(&mut self, packet: &mut [u8], now: Duration) -> bool {
        let ether_type = if self.key.local.is_ipv4() { TYPE_IPV4 } else { TYPE_IPV6 };
        let Ok(header) = parse_ip(ether_type, packet) else { return false };
        let Some((segment, end)) = self.translate(&header, packet) else { return false };
        if segment {
            let all_new = distance(end.0, self.guard.send_next) >= 0;
            let had = self.guard.send_next;
            let Ok(view) = parse_tcp(&header, &packet[header.payload.clone()], false) else {
                return false;
            };
            self.guard.sent(&view);
            if !view.payload.is_empty() || view.control == TcpControl::Fin {
                let moved = self.guard.send_next != had;
                self.tail.sent(packet, end.1, all_new && moved, now);
                let again = !all_new && self.guard.unacknowledged != had;
                if again && self.slow_start.take().is_some() {
                    self.socket_mut().set_congestion_control(CongestionControl::Cubic);
                }
            }
        }
        true
    }

    /// Shifts the sequence number; returns whether the segment is to be noted, and where it begins
    /// and ends on the wire.
    fn translate(&mut self, header: &Header, packet: &mut [u8]) -> Option<(bool, (u32, u32))> {
        let view = parse_tcp(header, &packet[header.payload.clone()], false).ok()?;
        let own = number(view.seq_number);
        if view.control == TcpControl::Syn && self.shift.is_none() {
            self.shift = Some(self.initial.wrapping_sub(own));
        }
        let shift = self.shift.unwrap_or(0);
        let start = own.wrapping_add(shift);
        let end = start.wrapping_add(u32::try_from(view.segment_len()).unwrap_or(0));
        let note = view.control != TcpControl::Rst;
        shift_sequence(&mut packet[header.payload.clone()], shift);
        Some((note, (start, end)))
    }

    /// Notes a segment that the guard let pass.
    pub(crate) fn received(&mut self, segment: &TcpRepr<'_>, now: Duration) {
        self.heard(now);
        match segment.control {
            TcpControl::Rst => {
                let refused = self.socket().state() == State::SynSent;
                self.blame = Some(if refused {
                    SocketError::ConnectionRefused
                } else {
                    SocketError::ConnectionReset
                });
            }
            TcpControl::Syn => self.guard.peer_opened(segment.window_scale),
            _ => {}
        }
        if let Some(acknowledgement) = segment.ack_number.map(number) {
            let all = acknowledgement == self.guard.send_next;
            self.tail.acknowledged(acknowledgement, all, now);
        }
    }

    /// Probes an idle peer from now on, or no longer.
    pub(crate) fn set_keepalive(&mut self, interval: Option<Duration>) {
        self.keepalive = interval;
        self.keepalive_since = None;
        self.socket_mut().set_keep_alive(interval.map(smoltcp_duration));
    }

    /// Notes that the peer lives.
    pub(crate) fn heard(&mut self, now: Duration) {
        self.last_heard = now;
    }

    /// When the connection ends if the peer stays silent. smoltcp's own timeout ends idle
    /// connections too, so it is not used.
    pub(crate) fn silence_ends(&mut self, now: Duration) -> Option<Duration> {
        let state = self.socket().state();
        if matches!(state, State::Closed | State::SynSent | State::TimeWait) {
            return None;
        }
        let unsent = self.socket().send_queue() > 0;
        if unsent || self.guard.unacknowledged != self.guard.send_next {
            let since = *self.waiting_since.get_or_insert(now);
            return Some(since.max(self.last_heard) + self.user_timeout);
        }
        self.waiting_since = None;
        let interval = self.keepalive?;
        let since = *self.keepalive_since.get_or_insert(now);
        Some(since.max(self.last_heard) + interval + self.user_timeout)
    }

    /// The window field that the socket is shown for the peer's in this segment.
    pub(crate) fn shown_window(&mut self, segment: &TcpRepr<'_>, acknowledged: u32) -> u16 {
        let shift = if segment.control == TcpControl::Syn { 0 } else { self.guard.peer_shift() };
        let Some(slow_start) = &mut self.slow_start else { return segment.window_len };
        slow_start.acknowledged(acknowledged);
        slow_start.limit(segment.window_len, shift)
    }

    /// What the socket is ready for, level-triggered.
    pub(crate) fn readiness(&self) -> Readiness {
        let socket = self.socket();
        let state = socket.state();
        if state == State::SynSent && self.error.is_none() {
            return Readiness::NONE;
        }
        let closed = state == State::Closed;
        let ended = closed || self.read_shut || self.peer_ended();
        let mut ready = Readiness::NONE;
        if ended || socket.recv_queue() > 0 || self.error.is_some() {
            ready |= Readiness::READABLE;
        }
        if ended {
            ready |= Readiness::READ_CLOSED;
        }
        let free = socket.send_capacity() - socket.send_queue();
        let enough = if self.starved { (socket.send_capacity() / 3).max(1) } else { 1 };
        let sendable = socket.may_send() && free >= enough;
        if sendable || closed || self.write_shut || self.error.is_some() {
            ready |= Readiness::WRITABLE;
        }
        if closed || (ended && self.write_shut) {
            ready |= Readiness::HANG_UP;
        }
        if self.error.is_some() {
            ready |= Readiness::ERROR;
        }
        ready
    }

    /// Whether the peer has sent its FIN and all before it arrived.
    pub(crate) fn peer_ended(&self) -> bool {
        let state = self.socket().state();
        matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
    }

    /// Whether data arrived since the last call.
    pub(crate) fn take_arrival(&mut self) -> bool {
        let queue = self.socket().recv_queue();
        let arrived = queue > self.seen_queue;
        self.seen_queue = queue;
        arrived
    }

    /// Notes the change of state since the last call: an error if the connection ended badly.
    pub(crate) fn note_state(&mut self) {
        let state = self.socket().state();
        let before = std::mem::replace(&mut self.previous, state);
        if state == State::Closed && before != State::Closed {
            let orderly = matches!(before, State::LastAck | State::TimeWait | State::Closing);
            if !self.aborted && !orderly {
                self.error = Some(self.blame.unwrap_or(SocketError::TimedOut));
            }
        }
        if state != State::SynSent && before == State::SynSent {
            self.deadline = None;
        }
    }
}

/// The same length of time in smoltcp's measure.
fn smoltcp_duration(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

//! The TCP engine: one connection from its first SYN, or from a completed handshake, to its end.
//!
//! It knows positions, times and segments, and nothing of addresses, devices or other connections.
//! A segment goes in by [`Tcp::receive`] (`input`); what it has to say comes out of
//! [`Tcp::next_segment`] one by one (`output`); [`Tcp::deadline`] says when it wants to be asked
//! again without either (`timers`). The application's side is [`Tcp::write`], [`Tcp::read`],
//! [`Tcp::close`] and [`Tcp::abort`].
//!
//! The parts, each of which stands alone: `sequence` (positions and wrapping numbers), `queue` (octets
//! in memory), `reassembly` (data ahead of gaps), `receiver` (order, window), `scoreboard` (what is
//! unacknowledged), `rtt`, `congestion` (CUBIC) with `hystart`, `rack` (loss detection, tail-loss
//! probe), `recovery` (rate while repairing, undo), `options` and `state`.
//!
//! Standards: RFC 9293 with 1122; 2018, 2883 and 6675 (selective acknowledgement), 5961 (blind
//! attacks), 6298 (timeout; 200 ms at least), 6582 (peers without selective acknowledgement), 6928
//! (first window), 6937 (rate reduction), 7323 (window scale, timestamps, PAWS), 8985 (RACK-TLP),
//! 9406 (HyStart++), 9438 (CUBIC), 3522 and 3708 (undo).

mod congestion;
mod hystart;
mod input;
mod options;
mod output;
mod queue;
mod rack;
mod reassembly;
mod receiver;
mod recovery;
mod rtt;
mod scoreboard;
mod sequence;
mod state;
#[cfg(test)]
mod tests;
mod timers;

use core::time::Duration;

use smoltcp::wire::{TcpControl, TcpRepr};

use crate::error::SocketError;
use crate::flow::FlowKey;
use crate::half_open::Syn;
use crate::packet::bare_segment;
use congestion::Congestion;
use options::{Options, Stamps};
use queue::Queue;
use rack::{Probe, Rack};
use receiver::Receiver;
use recovery::Recovery;
use rtt::RoundTrip;
use scoreboard::Scoreboard;
use sequence::{Numbers, Position, START};

pub(crate) use input::Answer;
pub(crate) use options::stamp;
pub(crate) use output::Outgoing;
pub(crate) use receiver::{first_window, scale_for};
pub(crate) use state::State;

/// The send buffer before the congestion window asks for more.
const SEND_INITIAL: usize = 64 << 10;
/// Segments acknowledged one by one when a connection begins, so that the peer's window grows.
const QUICK: u8 = 16;

/// What the stack decides for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How large the buffers may grow, in octets.
    pub(crate) receive_buffer: usize,
    pub(crate) send_buffer: usize,
    /// How long the peer may be silent while something is unacknowledged.
    pub(crate) user_timeout: Duration,
    /// The largest segment that the link, and the path, carry; options included.
    pub(crate) link_segment: usize,
    pub(crate) path_segment: usize,
    /// The offset of the timestamp clock.
    pub(crate) stamp_offset: u32,
}

/// The sending half.
#[derive(Debug)]
struct Sender {
    numbers: Numbers,
    /// From the oldest unacknowledged octet to the newest written.
    queue: Queue,
    /// The oldest unacknowledged position ("SND.UNA"), and after the newest sent ("SND.NXT").
    una: Position,
    next: Position,
    /// A FIN follows what is in the queue.
    fin: bool,
    /// The peer's window in octets, the largest so far, and which segment said it ("SND.WL1", "SND.WL2").
    window: u64,
    largest_window: u64,
    window_from: (Position, Position),
    board: Scoreboard,
    /// The end of the newest segment that was not full (Minshall's addition to Nagle's rule).
    small_end: Position,
    most: usize,
    last_sent: Duration,
    /// The congestion window was the limit when sending stopped.
    limited: bool,
}

/// When an acknowledgement is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acknowledge {
    No,
    /// With data, or at this time at the latest.
    By(Duration),
    Now,
}

/// What timers asked for, to be sent as soon as there is room.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    reset: bool,
    /// A tail-loss probe.
    probe: bool,
    /// A segment that makes the peer answer, to an idle connection or a closed window.
    poke: bool,
    /// A segment too small to be worth it, for a window that stays too small.
    small: bool,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Tcp {
    state: State,
    options: Options,
    link_segment: usize,
    tx: Sender,
    rx: Receiver,
    trip: RoundTrip,
    congestion: Congestion,
    rack: Rack,
    recovery: Recovery,
    probe: Option<Probe>,
    /// Duplicate acknowledgements of a peer without selective ones.
    duplicates: u64,
    acknowledge: Acknowledge,
    quick: u8,
    /// The application answers what arrives: its answers carry the acknowledgements.
    interactive: bool,
    owed: Owed,
    clock: timers::Clock,
    nodelay: bool,
    failure: Option<SocketError>,
    counts: Counts,
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) retransmitted: u64,
    pub(crate) timeouts: u64,
    pub(crate) probes: u64,
    pub(crate) undone: u64,
}

impl Tcp {
    /// A connection that begins with a SYN of this number.
    pub(crate) fn connect(settings: &Settings, initial: u32) -> Self {
        let options = Options {
            peer_scale: None,
            sack: true,
            stamps: Some(Stamps::new(settings.stamp_offset)),
            peer_segment: usize::MAX,
            path_segment: settings.path_segment,
        };
        Self {
            state: State::SynSent,
            options,
            link_segment: settings.link_segment,
            tx: Sender {
                numbers: Numbers { initial },
                queue: Queue::new(START + 1),
                una: START,
                next: START,
                fin: false,
                window: 0,
                largest_window: 65_535,
                window_from: (0, 0),
                board: Scoreboard::default(),
                small_end: START,
                most: settings.send_buffer,
                last_sent: Duration::ZERO,
                limited: false,
            },
            rx: Receiver::new(settings.receive_buffer, settings.link_segment),
            trip: RoundTrip::default(),
            congestion: Congestion::new(1),
            rack: Rack::new(),
            recovery: Recovery::new(),
            probe: None,
            duplicates: 0,
            acknowledge: Acknowledge::No,
            quick: QUICK,
            interactive: false,
            owed: Owed::default(),
            clock: timers::Clock::new(settings.user_timeout),
            nodelay: false,
            failure: None,
            counts: Counts::default(),
        }
    }

    /// A connection whose handshake was completed elsewhere: the peer's SYN, the own number, and
    /// how long the answer to the SYN|ACK took, if that is known.
    pub(crate) fn accept(
        settings: &Settings,
        syn: &Syn,
        initial: u32,
        trip: Option<Duration>,
        now: Duration,
    ) -> Self {
        let mut tcp = Self::connect(settings, initial);
        (tcp.tx.una, tcp.tx.next) = (START + 1, START + 1);
        tcp.open(syn, now);
        if let Some(trip) = trip {
            tcp.trip.sample(trip, now);
        }
        tcp.state = State::Established;
        tcp.tx.window_from = (START, START + 1);
        tcp.clock.heard(now);
        tcp
    }

    /// Takes what the peer's SYN says.
    fn open(&mut self, syn: &Syn, now: Duration) {
        self.options.agree(syn, now);
        self.rx.open(syn.sequence, syn.window_scale.is_some(), now);
        self.tx.window = u64::from(syn.window);
        self.tx.largest_window = self.tx.largest_window.max(self.tx.window);
        self.congestion.set_segment(self.segment());
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether nothing is left to send, the end included.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Closed && !self.owed.reset
    }

    /// Why the connection ended badly, once.
    pub(crate) fn take_failure(&mut self) -> Option<SocketError> {
        self.failure.take()
    }

    /// What happened since the last call.
    pub(crate) fn take_counts(&mut self) -> Counts {
        core::mem::take(&mut self.counts)
    }

    /// Octets that can be read.
    pub(crate) fn readable(&self) -> usize {
        self.rx.readable()
    }

    /// All that has ever arrived in order: a number that grows with every arrival.
    pub(crate) fn arrived(&self) -> u64 {
        self.rx.next
    }

    /// Whether the peer ended, and all before its end arrived.
    pub(crate) fn peer_ended(&self) -> bool {
        self.rx.ended()
    }

    /// Octets that are written and not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.tx.queue.len()
    }

    /// How many octets [`Tcp::write`] would take, and how large the send buffer is at the moment:
    /// twice the congestion window, so that a flight can be refilled while it is out.
    pub(crate) fn writable(&self) -> (usize, usize) {
        let window = sequence::length(self.congestion.window().saturating_mul(2));
        let capacity = window.max(SEND_INITIAL).min(self.tx.most);
        let free = if self.state.may_send() && !self.tx.fin {
            capacity.saturating_sub(self.tx.queue.len())
        } else {
            0
        };
        (free, capacity)
    }

    /// Takes octets to send, at most `room`.
    pub(crate) fn write(&mut self, data: &[u8], room: usize) -> usize {
        let count = data.len().min(self.writable().0).min(room);
        self.tx.queue.push(&data[..count]);
        count
    }

    /// Copies received octets without taking them.
    pub(crate) fn peek(&self, target: &mut [u8]) -> usize {
        self.rx.peek(target)
    }

    /// Takes received octets. `may_grow` says whether memory is plentiful.
    pub(crate) fn read(&mut self, target: &mut [u8], may_grow: bool, now: Duration) -> usize {
        self.rx.read(target, self.trip.smoothed(), may_grow, now)
    }

    /// Reads no more: what arrives is acknowledged and thrown away.
    pub(crate) fn discard(&mut self) {
        self.rx.discard();
    }

    /// Sends no more after what was written.
    pub(crate) fn close(&mut self) {
        if self.state == State::SynSent {
            self.end(None);
        } else if self.state.may_send() {
            self.tx.fin = true;
            // While the handshake lasts, the end waits for it.
            if self.state != State::SynReceived {
                self.state = self.state.ended_here();
            }
        }
    }

    /// Ends at once; the peer is told by a reset.
    pub(crate) fn abort(&mut self) {
        let reset = self.state.is_synchronized();
        self.end(None);
        self.owed.reset = reset;
    }

    /// Ends because of an error that a router reported.
    pub(crate) fn fail(&mut self, error: SocketError) {
        self.end(Some(error));
    }

    fn end(&mut self, failure: Option<SocketError>) {
        self.failure = self.failure.or(failure);
        self.enter(State::Closed);
    }

    /// Goes to another state; at the end nothing is kept but what can be read.
    fn enter(&mut self, state: State) {
        self.state = state;
        if matches!(state, State::Closed | State::TimeWait) {
            self.tx.queue.release(self.tx.queue.end());
            self.tx.board = Scoreboard::default();
            self.clock.stop();
            self.owed = Owed::default();
            if state == State::Closed {
                self.acknowledge = Acknowledge::No;
            }
        }
    }

    /// Whether small segments are sent at once.
    pub(crate) fn set_nodelay(&mut self, nodelay: bool) {
        self.nodelay = nodelay;
    }

    /// The path carries segments of this size only, options included: longer ones are sent again
    /// in pieces, without blame for congestion (RFC 8201 §5.4).
    pub(crate) fn narrow_path(&mut self, segment: usize) {
        if segment >= self.options.path_segment {
            return;
        }
        self.options.path_segment = segment;
        let octets = self.segment();
        self.congestion.set_segment(octets);
        self.tx.board.lose(|record| record.end - record.start > octets);
    }

    /// Whether a number lies among what is sent and unacknowledged: only who saw the connection
    /// can name one (RFC 5927 §4).
    pub(crate) fn names(&self, number: u32) -> bool {
        let position = self.tx.numbers.position(number, self.tx.una);
        (self.tx.una..self.tx.next).contains(&position)
    }

    /// Memory of buffers in octets.
    pub(crate) fn held(&self) -> usize {
        self.tx.queue.held() + self.rx.held() + self.tx.board.held()
    }

    /// An acknowledgement that says where the connection stands.
    pub(crate) fn challenge(&mut self, key: &FlowKey, now: Duration) -> TcpRepr<'static> {
        self.acknowledge = Acknowledge::No;
        self.header(key, TcpControl::None, self.tx.next, now)
    }

    /// What outlives the connection.
    pub(crate) fn remains(&mut self) -> Remains {
        Remains {
            send_next: self.tx.numbers.wire(self.tx.next),
            receive_next: self.rx.numbers.wire(self.rx.next),
            window: self.rx.offer(),
            stamps: self.options.stamps.map(|stamps| (stamps.offset(), stamps.recent())),
        }
    }

    /// Octets of data in a full segment.
    fn segment(&self) -> u64 {
        self.options.segment(0) as u64
    }

    /// Octets on their way. A duplicate acknowledgement of a peer without selective ones says that
    /// one segment left the network.
    fn in_flight(&self) -> u64 {
        self.tx.board.in_flight().saturating_sub(self.duplicates * self.segment())
    }

    fn header(
        &mut self,
        key: &FlowKey,
        control: TcpControl,
        position: Position,
        now: Duration,
    ) -> TcpRepr<'static> {
        let number = self.tx.numbers.wire(position);
        let mut segment = bare_segment(key, control, number, None, 0);
        if let Some(stamps) = self.options.stamps {
            segment.timestamp = Some(smoltcp::wire::TcpTimestampRepr {
                tsval: stamps.now(now),
                tsecr: stamps.recent(),
            });
        }
        if self.state == State::SynSent {
            segment.window_len = self.rx.offer_unscaled();
            return segment;
        }
        if self.options.sack && control != TcpControl::Rst {
            let numbers = self.rx.numbers;
            let wire = |(from, to): (Position, Position)| (numbers.wire(from), numbers.wire(to));
            segment.sack_ranges = self.rx.blocks().map(|block| block.map(wire));
        }
        let next = self.rx.numbers.wire(self.rx.next);
        segment.ack_number = Some(crate::packet::sequence_number(next));
        segment.window_len =
            if control == TcpControl::Syn { self.rx.offer_unscaled() } else { self.rx.offer() };
        segment
    }
}

/// What is remembered of a connection that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    pub(crate) send_next: u32,
    pub(crate) receive_next: u32,
    pub(crate) window: u16,
    /// The timestamp clock's offset and the peer's newest stamp, if stamps were agreed on.
    pub(crate) stamps: Option<(u32, u32)>,
}

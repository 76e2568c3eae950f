//! What happens because time passes.

use core::time::Duration;

use super::recovery::Phase;
use super::{Acknowledge, State, Tcp, rack};
use crate::config::KeepAlive;
use crate::error::SocketError;

/// The longest pause between probes of a closed window.
const PERSIST_MAX: Duration = Duration::from_secs(60);

/// The timers of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Retransmission (RFC 6298 §5).
    pub(super) timeout: Option<Duration>,
    /// Tail-loss probe (RFC 8985 §7.2).
    pub(super) probe: Option<Duration>,
    /// The end of the reordering window (RFC 8985 §6.2 step 5).
    pub(super) reorder: Option<Duration>,
    /// Probe of a closed window (RFC 9293 §3.8.6.1).
    persist: Option<Duration>,
    persist_backoff: u32,
    /// Probe of an idle peer (RFC 9293 §3.8.4).
    keepalive: Option<KeepAlive>,
    keepalive_at: Option<Duration>,
    user_timeout: Duration,
    heard: Duration,
    /// When the peer last acknowledged something new.
    progressed: Duration,
    /// Nobody holds the connection any more: a peer that lives but takes nothing is not waited for.
    orphan: bool,
    /// Since when something waits for the peer.
    waiting: Option<Duration>,
    /// When a challenge, and an answer to a segment outside of the window, was sent last.
    pub(super) challenged: Option<Duration>,
    pub(super) answered: Option<Duration>,
}

impl Clock {
    pub(super) fn new(user_timeout: Duration) -> Self {
        Self {
            timeout: None,
            probe: None,
            reorder: None,
            persist: None,
            persist_backoff: 0,
            keepalive: None,
            keepalive_at: None,
            user_timeout,
            heard: Duration::ZERO,
            progressed: Duration::ZERO,
            orphan: false,
            waiting: None,
            challenged: None,
            answered: None,
        }
    }

    /// Notes that the peer lives.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = now;
        self.keepalive_at = self.keepalive.map(|keepalive| now + keepalive.idle);
    }

    /// Stops all timers.
    pub(super) fn stop(&mut self) {
        *self = Self { heard: self.heard, ..Self::new(self.user_timeout) };
    }

    /// The peer's window is open.
    pub(super) fn window_opened(&mut self) {
        (self.persist, self.persist_backoff) = (None, 0);
    }

    /// Whether something that is limited in time may be done again.
    pub(super) fn may(last: &mut Option<Duration>, pause: Duration, now: Duration) -> bool {
        let may = last.is_none_or(|at| now >= at + pause);
        if may {
            *last = Some(now);
        }
        may
    }
}

impl Tcp {
    /// Probes an idle peer in this way from the next turn on, or no longer.
    pub(crate) fn set_keepalive(&mut self, keepalive: Option<KeepAlive>) {
        (self.clock.keepalive, self.clock.keepalive_at) = (keepalive, None);
    }

    /// The application let go: the peer has to take what is left, or it is given up.
    pub(crate) fn orphan(&mut self) {
        self.clock.orphan = true;
    }

    /// How long the peer may be silent while something is unacknowledged (RFC 5482).
    pub(crate) fn set_user_timeout(&mut self, timeout: Duration) {
        self.clock.user_timeout = timeout;
    }

    /// When [`Tcp::on_time`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let clock = &self.clock;
        let acknowledge = match self.acknowledge {
            Acknowledge::By(at) => Some(at),
            _ => None,
        };
        let times = [
            clock.timeout,
            clock.probe,
            clock.reorder,
            clock.persist,
            clock.keepalive_at,
            acknowledge,
            self.silence_ends(),
        ];
        times.into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, now: Duration) {
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if matches!(self.acknowledge, Acknowledge::By(at) if at <= now) {
            // Nobody answered in time: acknowledge sooner until somebody does.
            self.acknowledge = Acknowledge::Now;
            self.interactive = false;
        }
        if due(self.clock.reorder) {
            self.clock.reorder = None;
            self.detect_losses(now);
        }
        if due(self.clock.probe) {
            self.clock.probe = None;
            self.owed.probe = true;
            self.clock.timeout = Some(now + self.trip.timeout());
        } else if due(self.clock.timeout) {
            self.time_out(now);
        }
        if due(self.clock.persist) {
            self.clock.persist = None;
            self.clock.persist_backoff = (self.clock.persist_backoff + 1).min(16);
            (self.owed.poke, self.owed.small) = (true, true);
        }
        self.note_waiting(now);
        if due(self.clock.keepalive_at) {
            self.clock.keepalive_at =
                self.clock.keepalive.map(|keepalive| now + keepalive.interval);
            self.owed.poke |= self.clock.waiting.is_none();
        } else if let (Some(keepalive), None) = (self.clock.keepalive, self.clock.keepalive_at)
            && self.state.is_synchronized()
        {
            self.clock.keepalive_at = Some(now + keepalive.idle);
            self.clock.heard = self.clock.heard.max(now);
        }
        if due(self.silence_ends()) {
            self.abort();
            self.failure = Some(SocketError::TimedOut);
        }
    }

    /// Notes since when something waits for the peer.
    fn note_waiting(&mut self, now: Duration) {
        let waits = self.state.is_synchronized()
            && (!self.tx.board.is_empty()
                || self.tx.queue.len() > 0
                || (self.tx.fin && self.tx.una <= self.tx.queue.end()));
        self.clock.waiting = if waits { self.clock.waiting.or(Some(now)) } else { None };
    }

    /// When the connection ends if the peer stays silent.
    fn silence_ends(&self) -> Option<Duration> {
        let clock = &self.clock;
        if !self.state.is_synchronized() {
            return None;
        }
        match clock.waiting {
            Some(since) => {
                let life = if clock.orphan { clock.progressed } else { clock.heard };
                Some(since.max(life) + clock.user_timeout)
            }
            None => {
                let KeepAlive { idle, interval, give_up } = clock.keepalive?;
                Some(clock.heard + give_up.max(idle + interval))
            }
        }
    }

    /// The retransmission timeout passed (RFC 6298 §5.4 to 5.7).
    fn time_out(&mut self, now: Duration) {
        if self.tx.board.is_empty() {
            self.clock.timeout = None;
            return;
        }
        self.counts.timeouts += 1;
        self.trip.back_off();
        self.duplicates = 0;
        self.probe = None;
        self.owed.probe = false;
        (self.clock.reorder, self.clock.probe) = (None, None);
        self.tx.board.lose_all();
        self.recovery.time_out(&mut self.congestion, self.tx.next);
        self.clock.timeout = Some(now + self.trip.timeout());
    }

    /// After something was acknowledged.
    pub(super) fn arm_after_progress(&mut self, now: Duration) {
        self.clock.progressed = now;
        if self.tx.board.is_empty() {
            (self.clock.timeout, self.clock.probe, self.clock.reorder) = (None, None, None);
            return;
        }
        self.clock.timeout = Some(now + self.trip.timeout());
        self.arm_probe(now);
    }

    /// After something was sent; `first` says that it is the oldest unacknowledged, sent again.
    pub(super) fn arm_after_sending(&mut self, new: bool, first: bool, now: Duration) {
        if self.clock.timeout.is_none() || first {
            self.clock.timeout = Some(now + self.trip.timeout());
        }
        if new {
            self.arm_probe(now);
        }
    }

    /// Arms the tail-loss probe unless losses are known already (RFC 8985 §7.2).
    fn arm_probe(&mut self, now: Duration) {
        let board = &self.tx.board;
        let able = self.options.sack
            && self.state.is_synchronized()
            && self.recovery.phase == Phase::Open
            && board.sacked() == 0
            && board.in_flight() > 0
            && self.probe.is_none();
        let single = board.in_flight() <= self.segment();
        let wait = rack::probe_wait(&self.trip, single);
        let latest = self.clock.timeout.unwrap_or(Duration::MAX);
        self.clock.probe = able.then(|| latest.min(now + wait));
    }

    /// The peer's window is too small for anything: ask again later.
    pub(super) fn arm_persist(&mut self, now: Duration) {
        let idle = self.tx.board.is_empty() && self.state != State::SynSent;
        if idle && self.clock.persist.is_none() {
            let wait = self.trip.timeout().saturating_mul(1 << self.clock.persist_backoff);
            self.clock.persist = Some(now + wait.min(PERSIST_MAX));
        }
    }
}

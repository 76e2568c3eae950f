//! The two directions of a connection together: who has ended, which limit runs, and how the rest is closed.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::direction::{Direction, Stop, poll_discard};
use super::{ClientStream, Ended, Meters, Outcome};
use crate::backend::BackendConnection;
use crate::gateway::Phase;
use crate::limits::Limits;

/// How long a client's bytes are still read, and thrown away, after everything for it has been sent to it.
pub const LINGER: Duration = Duration::from_secs(2);

/// How far ahead the timer is set while no limit runs.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) struct Session<'a, C> {
    client: C,
    backend: BackendConnection,
    idle: Duration,
    half_closed: Duration,
    /// Client to backend.
    upward: Direction<'a>,
    upward_state: State,
    /// Backend to client.
    downward: Direction<'a>,
    downward_state: State,
    /// How it will have ended, once that is clear.
    verdict: Option<Ended>,
    last_activity: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Copying,
    /// The backend takes no more; the client's bytes are thrown away.
    Discarding,
    Ended,
}

impl<'a, C: ClientStream> Session<'a, C> {
    pub(super) fn new(
        client: C,
        backend: BackendConnection,
        limits: &Limits,
        meters: Meters<'a>,
    ) -> Self {
        Self {
            client,
            backend,
            idle: limits.idle,
            half_closed: limits.half_closed,
            upward: Direction::new(limits.copy_buffer_bytes, meters.bytes_in),
            upward_state: State::Copying,
            downward: Direction::new(limits.copy_buffer_bytes, meters.bytes_out),
            downward_state: State::Copying,
            verdict: None,
            last_activity: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Outcome {
        let mut stopped = pin!(phase.wait_for(|phase| *phase == Phase::Ended));
        let mut timer = pin!(sleep_until(self.last_activity));
        let ended = poll_fn(|cx| {
            if stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ended::Drained);
            }
            if let Poll::Ready(ended) = self.poll_streams(cx) {
                return Poll::Ready(ended);
            }
            self.poll_limits(cx, timer.as_mut())
        })
        .await;
        if self.upward_state != State::Ended {
            self.backend.stream.abort_on_drop();
        }
        Outcome { bytes_in: self.upward.moved(), bytes_out: self.downward.moved(), ended }
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let before = (self.moved(), self.upward_state, self.downward_state);
        let ended = match self.poll_upward(cx) {
            Poll::Pending => self.poll_downward(cx),
            ended => ended,
        };
        if before != (self.moved(), self.upward_state, self.downward_state) {
            self.last_activity = Instant::now();
        }
        ended
    }

    fn poll_upward(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.upward_state == State::Copying {
            match self.upward.poll(cx, &mut self.client, &mut self.backend.stream) {
                Poll::Pending => {}
                Poll::Ready(Stop::Ended) => {
                    self.upward_state = State::Ended;
                    self.verdict.get_or_insert(Ended::ClosedByClient);
                }
                Poll::Ready(Stop::ReadFailed(error)) => {
                    let failed = Ended::ClientError(error.kind());
                    return Poll::Ready(self.verdict.unwrap_or(failed));
                }
                Poll::Ready(Stop::WriteFailed(error)) => {
                    self.upward_state = State::Discarding;
                    self.verdict = Some(Ended::BackendError(error.kind()));
                }
            }
        }
        if self.upward_state == State::Discarding
            && poll_discard(cx, &mut self.client).is_ready()
            && self.downward_state == State::Ended
        {
            return Poll::Ready(self.verdict.unwrap_or(Ended::ClosedByBackend));
        }
        self.both_ended()
    }

    fn poll_downward(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.downward_state == State::Copying {
            match self.downward.poll(cx, &mut self.backend.stream, &mut self.client) {
                Poll::Pending => {}
                Poll::Ready(Stop::Ended) => {
                    self.downward_state = State::Ended;
                    self.verdict.get_or_insert(Ended::ClosedByBackend);
                }
                Poll::Ready(Stop::ReadFailed(error)) => {
                    self.client.socket().send_fin();
                    self.downward_state = State::Ended;
                    self.upward_state = State::Discarding;
                    self.verdict = Some(Ended::BackendError(error.kind()));
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(Stop::WriteFailed(error)) => {
                    return Poll::Ready(Ended::ClientError(error.kind()));
                }
            }
        }
        self.both_ended()
    }

    fn both_ended(&self) -> Poll<Ended> {
        match (self.upward_state, self.downward_state, self.verdict) {
            (State::Ended, State::Ended, Some(verdict)) => Poll::Ready(verdict),
            _ => Poll::Pending,
        }
    }

    /// The timer is not moved with every byte: it fires, and is set again if there was activity since.
    fn poll_limits(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Ended> {
        let (limit, ended) = match (self.upward_state, self.downward_state) {
            (State::Copying, State::Copying) => (self.idle, Ended::IdleLimit),
            (State::Discarding, State::Ended) => {
                (LINGER, self.verdict.unwrap_or(Ended::ClosedByBackend))
            }
            _ => (self.half_closed, Ended::HalfClosedLimit),
        };
        let deadline = match limit {
            Duration::ZERO => self.last_activity + NO_LIMIT,
            limit => self.last_activity + limit,
        };
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline {
                return Poll::Ready(ended);
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn moved(&self) -> u64 {
        self.upward.moved() + self.downward.moved()
    }
}

//! One TCP connection as the stack holds it: the engine, and what the socket's side adds to it.

use core::time::Duration;

use crate::error::SocketError;
use crate::flow::FlowKey;
use crate::readiness::{Edges, Readiness};
use crate::tcp::{State, Tcp};

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: FlowKey,
    /// The interface's number.
    pub(crate) port: usize,
    pub(crate) tcp: Tcp,
    /// Whether an application holds it (or will, by `accept`); otherwise it is an orphan.
    pub(crate) owned: bool,
    /// The listener whose backlog it is in.
    pub(crate) backlog_of: Option<u32>,
    pub(crate) error: Option<SocketError>,
    pub(crate) dirty: bool,
    pub(crate) armed: Option<Duration>,
    /// A limit of the stack's own: for connecting, or for an orphan's end.
    pub(crate) deadline: Option<Duration>,
    pub(crate) read_shut: bool,
    pub(crate) write_shut: bool,
    /// A `send` was cut short: writable means a good part of the buffer.
    pub(crate) starved: bool,
    /// What had arrived at the last look.
    seen: u64,
    pub(crate) edges: Edges,
    /// Memory that the stack has counted for it.
    pub(crate) buffers: usize,
}

impl Connection {
    pub(crate) fn new(key: FlowKey, port: usize, tcp: Tcp) -> Self {
        Self {
            key,
            port,
            seen: tcp.arrived(),
            tcp,
            owned: true,
            backlog_of: None,
            error: None,
            dirty: false,
            armed: None,
            deadline: None,
            read_shut: false,
            write_shut: false,
            starved: false,
            edges: Edges::default(),
            buffers: 0,
        }
    }

    /// Whether the handshake is not complete yet.
    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.tcp.state(), State::SynSent | State::SynReceived)
    }

    /// What the socket is ready for, level-triggered.
    pub(crate) fn readiness(&self) -> Readiness {
        if self.is_connecting() && self.error.is_none() {
            return Readiness::NONE;
        }
        let closed = self.tcp.state() == State::Closed;
        let ended = closed || self.read_shut || self.tcp.peer_ended();
        let mut ready = Readiness::NONE;
        if ended || self.tcp.readable() > 0 || self.error.is_some() {
            ready |= Readiness::READABLE;
        }
        if ended {
            ready |= Readiness::READ_CLOSED;
        }
        let (free, capacity) = self.tcp.writable();
        let enough = if self.starved { (capacity / 3).max(1) } else { 1 };
        if free >= enough || closed || self.write_shut || self.error.is_some() {
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

    /// Whether data arrived since the last call.
    pub(crate) fn take_arrival(&mut self) -> bool {
        let arrived = self.tcp.arrived();
        core::mem::replace(&mut self.seen, arrived) < arrived
    }

    /// Notes what changed since the last call: an error if the connection ended badly.
    pub(crate) fn note_state(&mut self) {
        if let Some(failure) = self.tcp.take_failure() {
            self.error = Some(failure);
        }
        if self.owned && !self.is_connecting() {
            self.deadline = None;
        }
    }
}

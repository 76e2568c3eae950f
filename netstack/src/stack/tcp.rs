//! Operations of TCP sockets.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::table::{Entry, Listener};
use super::{Stack, unspecified};
use crate::config::{KeepAlive, is_host};
use crate::connection::Connection;
use crate::device::Device;
use crate::error::SocketError;
use crate::flow::FlowKey;
use crate::readiness::{Edges, Readiness, SocketId};
use crate::tcp::{State, Tcp};

/// The first ephemeral port. RFC 6335 §6 sets fewer aside, which a proxy with one busy backend uses up; Linux begins here
/// too (RFC 6056 §3.2 recommends as many as possible).
const EPHEMERAL: u16 = 32_768;

/// Which halves of a connection to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Receive no more; what arrives is still acknowledged.
    Read,
    /// Send no more: the peer sees the end after everything sent so far.
    Write,
    /// Both.
    Both,
}

/// How to close a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Deliver what was sent and say so in order; if received data is unread, reset (RFC 2525
    /// §2.17, as other systems do).
    Graceful,
    /// Reset at once and forget what was not delivered (SO_LINGER of zero).
    Reset,
}

impl<D: Device> Stack<D> {
    /// Listens on an address; the unspecified address stands for all of its family, and with
    /// `dual_stack` the unspecified IPv6 address for both. At most `backlog` completed connections
    /// wait for [`Stack::accept`]; more stay unanswered until there is room.
    ///
    /// # Errors
    /// [`SocketError::AddressInUse`], [`SocketError::AddressNotAvailable`],
    /// [`SocketError::NoBuffers`]. Port zero takes a free ephemeral port.
    pub fn listen(
        &mut self,
        local: SocketAddr,
        dual_stack: bool,
        backlog: usize,
    ) -> Result<SocketId, SocketError> {
        self.check_bindable(local)?;
        let mut local = local;
        if local.port() == 0 {
            let taken = |stack: &Self, at: SocketAddr| stack.listeners.contains_key(&at);
            local.set_port(self.free_port(local, taken)?);
        }
        let dual_stack = dual_stack && local.is_ipv6() && local.ip().is_unspecified();
        let other = unspecified(SocketAddr::from(([0; 4], local.port())));
        if self.listeners.contains_key(&local)
            || (dual_stack && self.listeners.contains_key(&other))
        {
            return Err(SocketError::AddressInUse);
        }
        if self.table.len() >= self.limits.sockets {
            return Err(SocketError::NoBuffers);
        }
        let listener = Listener {
            local,
            dual_stack,
            backlog: backlog.max(1),
            queue: VecDeque::new(),
            edges: Edges::default(),
        };
        let id = self.table.insert(Entry::Listener(listener));
        self.listeners.insert(local, id.index);
        if dual_stack {
            self.listeners.insert(other, id.index);
        }
        Ok(id)
    }

    /// Takes the connection that completed first, with its peer's address.
    ///
    /// # Errors
    /// [`SocketError::WouldBlock`] if there is none, [`SocketError::WrongKind`] if the socket does
    /// not listen.
    pub fn accept(&mut self, id: SocketId) -> Result<(SocketId, SocketAddr), SocketError> {
        let Entry::Listener(listener) = self.table.entry_mut(id).ok_or(SocketError::BadSocket)?
        else {
            return Err(SocketError::WrongKind);
        };
        let index = listener.queue.pop_front().ok_or(SocketError::WouldBlock)?;
        let level = listener.readiness();
        listener.edges.update(id, level, Readiness::NONE, &mut self.events);
        let accepted = self.table.id(index);
        let connection = self.table.connection_mut(index).ok_or(SocketError::WouldBlock)?;
        connection.backlog_of = None;
        // The new holder has seen no edge yet.
        connection.edges = Edges::default();
        let level = connection.readiness();
        connection.edges.update(accepted, level, Readiness::NONE, &mut self.events);
        Ok((accepted, connection.key.remote))
    }

    /// Begins a connection. An event with [`Readiness::WRITABLE`] tells that it stands, one with
    /// [`Readiness::ERROR`] that it failed. Without `local`, or with its port zero, the route and
    /// a keyed hash choose.
    ///
    /// # Errors
    /// [`SocketError::NetworkUnreachable`], [`SocketError::AddressNotAvailable`],
    /// [`SocketError::AddressInUse`], [`SocketError::InvalidAddress`], [`SocketError::NoBuffers`].
    pub fn connect(
        &mut self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        now: Duration,
    ) -> Result<SocketId, SocketError> {
        if remote.port() == 0 || !is_host(remote.ip()) {
            return Err(SocketError::InvalidAddress);
        }
        let wanted = local.map(|address| address.ip()).filter(|ip| !ip.is_unspecified());
        let (number, source) = self.route(wanted, remote.ip())?;
        let key = match local.map_or(0, |address| address.port()) {
            0 => {
                let taken = |stack: &Self, local| stack.is_taken(&FlowKey { local, remote }, now);
                let start = SocketAddr::new(source, 0);
                let port = self.free_port_for(start, remote, taken)?;
                FlowKey { local: SocketAddr::new(source, port), remote }
            }
            port => FlowKey { local: SocketAddr::new(source, port), remote },
        };
        if self.is_taken(&key, now) {
            return Err(SocketError::AddressInUse);
        }
        if !self.has_buffers() {
            return Err(SocketError::NoBuffers);
        }
        let clock = self.secret.initial_sequence(&key, now);
        let initial = self.time_wait.succeed(&key, clock);
        let tcp = Tcp::connect(&self.settings(&key, number, now), initial);
        let mut connection = Connection::new(key, number, tcp);
        connection.deadline = Some(now + self.limits.connect);
        self.counters.connects += 1;
        Ok(self.keep_connection(connection))
    }

    /// Queues data to send and returns how many octets were taken, at least one.
    ///
    /// # Errors
    /// [`SocketError::WouldBlock`] if the buffer is full or the connection does not stand yet; the
    /// connection's error, once; [`SocketError::BrokenPipe`] after the end of sending.
    pub fn send(&mut self, id: SocketId, data: &[u8]) -> Result<usize, SocketError> {
        let room = self.room();
        let connection = self.open_connection(id)?;
        if let Some(error) = connection.error.take() {
            return Err(error);
        }
        if connection.write_shut || !connection.tcp.state().may_send() {
            let wait = connection.is_connecting() && !connection.write_shut;
            return Err(if wait { SocketError::WouldBlock } else { SocketError::BrokenPipe });
        }
        if data.is_empty() {
            return Ok(0);
        }
        let sent = connection.tcp.write(data, room);
        connection.starved = sent < data.len();
        self.touch(id);
        if sent == 0 { Err(SocketError::WouldBlock) } else { Ok(sent) }
    }

    /// Reads received data; zero octets mean that the peer ended.
    ///
    /// # Errors
    /// [`SocketError::WouldBlock`] if there is none yet; the connection's error, once.
    pub fn recv(&mut self, id: SocketId, buffer: &mut [u8]) -> Result<usize, SocketError> {
        self.read(id, buffer, false)
    }

    /// Reads received data and leaves it there (MSG_PEEK).
    ///
    /// # Errors
    /// As [`Stack::recv`].
    pub fn peek(&mut self, id: SocketId, buffer: &mut [u8]) -> Result<usize, SocketError> {
        self.read(id, buffer, true)
    }

    fn read(&mut self, id: SocketId, buffer: &mut [u8], keep: bool) -> Result<usize, SocketError> {
        let (now, may_grow) = (self.now, self.room() > self.limits.buffers_total / 2);
        let connection = self.open_connection(id)?;
        if connection.read_shut || buffer.is_empty() {
            return Ok(0);
        }
        if connection.tcp.readable() == 0 {
            if let Some(error) = connection.error.take() {
                return Err(error);
            }
            let ended = connection.tcp.state() == State::Closed || connection.tcp.peer_ended();
            return if ended { Ok(0) } else { Err(SocketError::WouldBlock) };
        }
        if keep {
            return Ok(connection.tcp.peek(buffer));
        }
        let read = connection.tcp.read(buffer, may_grow, now);
        connection.take_arrival();
        self.touch(id);
        Ok(read)
    }

    /// How many received octets wait (FIONREAD), and how many sent ones are unacknowledged
    /// (SIOCOUTQ).
    ///
    /// # Errors
    /// If the socket is no open connection.
    pub fn queued(&mut self, id: SocketId) -> Result<(usize, usize), SocketError> {
        let tcp = &self.open_connection(id)?.tcp;
        Ok((tcp.readable(), tcp.unacknowledged()))
    }

    /// Shuts halves of a connection down.
    ///
    /// # Errors
    /// [`SocketError::NotConnected`] if there is no connection any more or not yet.
    pub fn shutdown(&mut self, id: SocketId, how: Shutdown) -> Result<(), SocketError> {
        let connection = self.open_connection(id)?;
        if connection.is_connecting() || connection.tcp.state() == State::Closed {
            return Err(SocketError::NotConnected);
        }
        if how != Shutdown::Write {
            connection.read_shut = true;
            connection.tcp.discard();
        }
        if how != Shutdown::Read {
            connection.write_shut = true;
            connection.tcp.close();
        }
        self.touch(id);
        Ok(())
    }

    /// Closes a socket of any kind. The handle names nothing from now on; a connection that has
    /// yet to deliver goes on without it.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`] if it is closed.
    pub fn close(&mut self, id: SocketId, how: Close) -> Result<(), SocketError> {
        match self.table.entry_mut(id).ok_or(SocketError::BadSocket)? {
            Entry::Connection(connection) if !connection.owned => Err(SocketError::BadSocket),
            Entry::Connection(_) => {
                self.orphan(id.index, how);
                Ok(())
            }
            Entry::Udp(_) => {
                self.forget_udp(id.index);
                Ok(())
            }
            Entry::Listener(listener) => {
                let waiting = core::mem::take(&mut listener.queue);
                let (local, dual_stack) = (listener.local, listener.dual_stack);
                self.table.remove(id.index);
                self.listeners.remove(&local);
                if dual_stack {
                    self.listeners.remove(&unspecified(SocketAddr::from(([0; 4], local.port()))));
                }
                for index in waiting {
                    self.orphan(index, Close::Reset);
                }
                Ok(())
            }
        }
    }

    fn orphan(&mut self, index: u32, how: Close) {
        let Some(connection) = self.table.connection_mut(index) else { return };
        connection.owned = false;
        connection.backlog_of = None;
        self.orphans += 1;
        if how == Close::Reset || connection.tcp.readable() > 0 || connection.is_connecting() {
            connection.tcp.abort();
        } else {
            connection.tcp.orphan();
            connection.tcp.close();
        }
        // Nothing is left to say, or a stub says it. A peer that knows nothing yet has nothing that
        // could be reset; a late SYN|ACK is.
        if connection.tcp.is_over() || connection.tcp.state() == State::TimeWait {
            return self.discard(index);
        }
        self.mark(index);
    }

    /// The socket's own address.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`] if it is closed.
    pub fn local_addr(&self, id: SocketId) -> Result<SocketAddr, SocketError> {
        Ok(match self.table.entry(id).ok_or(SocketError::BadSocket)? {
            Entry::Listener(listener) => listener.local,
            Entry::Connection(connection) => connection.key.local,
            Entry::Udp(socket) => socket.local,
        })
    }

    /// The peer's address.
    ///
    /// # Errors
    /// [`SocketError::NotConnected`] if there is none.
    pub fn peer_addr(&self, id: SocketId) -> Result<SocketAddr, SocketError> {
        match self.table.entry(id).ok_or(SocketError::BadSocket)? {
            Entry::Connection(connection)
                if connection.is_connecting() || connection.tcp.state() == State::Closed =>
            {
                Err(SocketError::NotConnected)
            }
            Entry::Connection(connection) => Ok(connection.key.remote),
            Entry::Udp(socket) => socket.remote.ok_or(SocketError::NotConnected),
            Entry::Listener(_) => Err(SocketError::NotConnected),
        }
    }

    /// Whether small segments are sent at once (TCP_NODELAY).
    ///
    /// # Errors
    /// If the socket is no open connection.
    pub fn set_nodelay(&mut self, id: SocketId, nodelay: bool) -> Result<(), SocketError> {
        self.open_connection(id)?.tcp.set_nodelay(nodelay);
        Ok(())
    }

    /// Asks an idle peer whether it lives, or never with none.
    ///
    /// # Errors
    /// If the socket is no open connection.
    pub fn set_keepalive(
        &mut self,
        id: SocketId,
        keepalive: Option<KeepAlive>,
    ) -> Result<(), SocketError> {
        self.open_connection(id)?.tcp.set_keepalive(keepalive);
        self.touch(id);
        Ok(())
    }

    /// How long sent data may stay unacknowledged (TCP_USER_TIMEOUT).
    ///
    /// # Errors
    /// If the socket is no open connection.
    pub fn set_user_timeout(&mut self, id: SocketId, timeout: Duration) -> Result<(), SocketError> {
        self.open_connection(id)?.tcp.set_user_timeout(timeout);
        self.touch(id);
        Ok(())
    }

    fn open_connection(&mut self, id: SocketId) -> Result<&mut Connection, SocketError> {
        match self.table.entry_mut(id).ok_or(SocketError::BadSocket)? {
            Entry::Connection(connection) if connection.owned => Ok(connection),
            Entry::Connection(_) => Err(SocketError::BadSocket),
            Entry::Listener(_) => Err(SocketError::NotConnected),
            Entry::Udp(_) => Err(SocketError::WrongKind),
        }
    }

    /// After an operation: the level is known to the caller, and there may be something to send.
    fn touch(&mut self, id: SocketId) {
        self.account(id.index);
        if let Some(connection) = self.table.connection_mut(id.index) {
            let level = connection.readiness();
            connection.edges.update(id, level, Readiness::NONE, &mut self.events);
        }
        self.mark(id.index);
    }

    pub(super) fn keep_connection(&mut self, connection: Connection) -> SocketId {
        let key = connection.key;
        let id = self.table.insert(Entry::Connection(Box::new(connection)));
        self.flows.insert(key, id.index);
        self.mark(id.index);
        id
    }

    /// Puts a new connection in its listener's queue.
    pub(super) fn announce(&mut self, index: u32) {
        let Some(connection) = self.table.connection_mut(index) else { return };
        connection.note_state();
        let Some(listener_index) = connection.backlog_of else { return };
        let id = self.table.id(listener_index);
        let Some(listener) = self.table.listener_mut(listener_index) else { return };
        listener.queue.push_back(index);
        let readable = Readiness::READABLE;
        listener.edges.update(id, readable, readable, &mut self.events);
    }

    fn is_taken(&self, key: &FlowKey, now: Duration) -> bool {
        self.flows.contains_key(key)
            || self.time_wait.holds(key, now)
            || self.half_open.get(key).is_some()
    }

    /// Whether a connection has this local port, or had it lately. Takes the longer the more connections there are: for
    /// the rare program that wants a port of its own before it connects.
    pub fn is_port_used(&self, port: u16) -> bool {
        self.flows.keys().any(|key| key.local.port() == port) || self.time_wait.holds_port(port)
    }

    /// The interface and source address for a destination.
    pub(super) fn route(
        &self,
        source: Option<IpAddr>,
        destination: IpAddr,
    ) -> Result<(usize, IpAddr), SocketError> {
        // What this host sends to itself never leaves it.
        let own = self.ports.iter().find(|port| port.config.has(destination));
        let loopback = self.ports.iter().find(|port| port.config.is_loopback());
        if let (Some(own), Some(loopback)) = (own, loopback) {
            let source = match source {
                Some(source) => source,
                None if destination.is_loopback() => {
                    own.config.source_for(destination).unwrap_or(destination)
                }
                None => destination,
            };
            let same = source.is_ipv4() == destination.is_ipv4();
            let known = self.has_address(source);
            return match (same, known) {
                (true, true) => Ok((loopback.number, source)),
                (true, false) => Err(SocketError::AddressNotAvailable),
                (false, _) => Err(SocketError::InvalidAddress),
            };
        }
        if let Some(source) = source {
            let owner = self.ports.iter().find(|port| port.config.has(source));
            let port = owner.ok_or(SocketError::AddressNotAvailable)?;
            port.config.next_hop(destination).ok_or(SocketError::NetworkUnreachable)?;
            let same = source.is_ipv4() == destination.is_ipv4();
            return if same { Ok((port.number, source)) } else { Err(SocketError::InvalidAddress) };
        }
        let hops = self.ports.iter().filter_map(|port| {
            let (_, prefix) = port.config.next_hop(destination)?;
            Some((prefix, port.number, port.config.source_for(destination)?))
        });
        // Of interfaces with equal routes the first wins.
        let best = hops.max_by_key(|&(prefix, number, _)| (prefix, core::cmp::Reverse(number)));
        best.map(|(_, number, from)| (number, from)).ok_or(SocketError::NetworkUnreachable)
    }

    pub(super) fn check_bindable(&self, local: SocketAddr) -> Result<(), SocketError> {
        let known = self.ports.iter().any(|port| port.config.has(local.ip()));
        if known || local.ip().is_unspecified() {
            Ok(())
        } else {
            Err(SocketError::AddressNotAvailable)
        }
    }

    pub(super) fn free_port(
        &mut self,
        local: SocketAddr,
        taken: impl Fn(&Self, SocketAddr) -> bool,
    ) -> Result<u16, SocketError> {
        self.free_port_for(local, local, taken)
    }

    /// The next free ephemeral port for a destination (RFC 6056 §3.3.3).
    fn free_port_for(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        taken: impl Fn(&Self, SocketAddr) -> bool,
    ) -> Result<u16, SocketError> {
        let count = u64::from(u16::MAX - EPHEMERAL) + 1;
        let offset = self.secret.port_offset(local.ip(), remote);
        for _ in 0..count {
            self.port_counter = self.port_counter.wrapping_add(1);
            let step = offset.wrapping_add(self.port_counter) % count;
            let port = EPHEMERAL + u16::try_from(step).unwrap_or(0);
            let candidate = SocketAddr::new(local.ip(), port);
            if !taken(self, candidate) {
                return Ok(port);
            }
        }
        Err(SocketError::AddressNotAvailable)
    }
}

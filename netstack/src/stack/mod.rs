//! The stack: its tables, its turns, and its timers.
//!
//! A turn takes frames from the devices ([`input`]), which mark connections as dirty; then every
//! dirty connection sends what it has ([`output`]). Nothing looks at a connection that neither
//! received, nor was used, nor has a timer due. [`tcp`] and [`udp`] are the operations of sockets.

mod input;
mod output;
mod table;
mod tcp;
mod udp;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use hashbrown::HashMap;

use crate::config::{AddressSource, InterfaceConfig, Limits};
use crate::counters::{Census, Counters, DropReason};
use crate::device::{Device, MTU_MAX, MTU_MIN};
use crate::error::{ConfigError, SocketError};
use crate::flow::{FlowKey, Secret};
use crate::half_open::HalfOpenTable;
use crate::interface::{self, Capture, Port, Wire};
use crate::path_mtu::PathMtu;
use crate::readiness::{Readiness, SocketId};
use crate::tcp::{Settings, State};
use crate::time_wait::TimeWait;
use crate::timers::Timers;
pub use tcp::{Close, Shutdown};

use table::{Entry, Table};

/// A TCP/IP stack over devices of one kind.
///
/// Time is the duration since any fixed moment; it must not run backwards. The stack has no clock,
/// no threads and no randomness of its own.
pub struct Stack<D> {
    ports: Vec<Port<D>>,
    table: Table,
    flows: HashMap<FlowKey, u32, Secret>,
    /// Listeners by address; an unspecified address stands for all of its family.
    listeners: HashMap<SocketAddr, u32, Secret>,
    udp: HashMap<SocketAddr, u32, Secret>,
    half_open: HalfOpenTable,
    time_wait: TimeWait,
    timers: Timers,
    dirty: VecDeque<u32>,
    events: VecDeque<SocketId>,
    counters: Counters,
    limits: Limits,
    secret: Secret,
    capture: Option<Capture>,
    buffers_used: usize,
    orphans: usize,
    port_counter: u64,
    reply_window: (Duration, u32),
    more_input: bool,
    /// The time of the last turn, for operations that are not told.
    now: Duration,
}

impl<D: Device> Stack<D> {
    /// A stack without interfaces. `secret` must be random and stay unknown to peers: sequence
    /// numbers, ports and hash tables depend on it.
    pub fn new(limits: Limits, secret: [u8; 16]) -> Self {
        let secret = Secret::new(secret);
        Self {
            ports: Vec::new(),
            table: Table::default(),
            flows: HashMap::with_hasher(secret),
            listeners: HashMap::with_hasher(secret),
            udp: HashMap::with_hasher(secret),
            half_open: HalfOpenTable::new(secret, limits.half_open, limits.handshake),
            time_wait: TimeWait::new(secret, limits.time_wait_count, limits.time_wait),
            timers: Timers::default(),
            dirty: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            limits,
            secret,
            capture: None,
            buffers_used: 0,
            orphans: 0,
            port_counter: 0,
            reply_window: (Duration::ZERO, 0),
            more_input: false,
            now: Duration::ZERO,
        }
    }

    /// Adds an interface and returns its number, counted from zero.
    ///
    /// # Errors
    /// If the device or the configuration cannot be used.
    pub fn add_interface(
        &mut self,
        device: D,
        config: InterfaceConfig,
    ) -> Result<usize, ConfigError> {
        config.validate()?;
        let capabilities = device.capabilities();
        if !(MTU_MIN..=MTU_MAX).contains(&capabilities.mtu) {
            return Err(ConfigError::Mtu(capabilities.mtu));
        }
        let hardware = capabilities.hardware_address;
        if hardware[0] & 1 != 0 || hardware == [0; 6] {
            return Err(ConfigError::HardwareAddress);
        }
        let number = self.ports.len();
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let seed = self.secret.port_offset(any.ip(), any) ^ number as u64;
        let neighbors = interface::neighbors(self.secret, self.limits.neighbors);
        let paths = PathMtu::new(self.secret);
        self.ports.push(Port::new(number, device, config, seed, neighbors, paths));
        Ok(number)
    }

    /// Lets an interface take addresses from a source from now on, beside those that it has.
    ///
    /// # Errors
    /// If there is no such interface, or the given configuration cannot be used.
    pub fn obtain_addresses(
        &mut self,
        interface: usize,
        source: AddressSource,
    ) -> Result<(), ConfigError> {
        let delay = self.secret.delay(interface);
        let port = self.ports.get_mut(interface).ok_or(ConfigError::NoInterface(interface))?;
        match source {
            AddressSource::Static(config) => {
                config.validate()?;
                port.give(config);
            }
            AddressSource::Dhcp => port.start_dhcp(),
            AddressSource::Slaac => port.start_slaac(delay),
        }
        Ok(())
    }

    /// Lets an interface tell its link of the addresses that it has and gets, so that neighbours which knew another
    /// hardware address for them learn the new one at once.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn announce_addresses(&mut self, interface: usize) -> Result<(), ConfigError> {
        let port = self.ports.get_mut(interface).ok_or(ConfigError::NoInterface(interface))?;
        port.start_announcing();
        Ok(())
    }

    /// The addresses and routes of an interface at the moment, from all sources.
    pub fn interface_config(&self, interface: usize) -> Option<&InterfaceConfig> {
        self.ports.get(interface).map(|port| &port.config)
    }

    /// The name servers that the network behind an interface named, by DHCP first.
    pub fn name_servers(&self, interface: usize) -> Vec<IpAddr> {
        self.ports.get(interface).map(Port::name_servers).unwrap_or_default()
    }

    /// An interface whose addresses, routes or name servers changed since it was returned last.
    /// Connections from an address that is gone are not ended: they find out by themselves.
    pub fn next_change(&mut self) -> Option<usize> {
        let port = self.ports.iter_mut().find(|port| port.changed)?;
        port.changed = false;
        Some(port.number)
    }

    /// The device of an interface.
    pub fn device_mut(&mut self, interface: usize) -> Option<&mut D> {
        self.ports.get_mut(interface).map(|port| &mut port.device)
    }

    /// Whether an interface has this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.ports.iter().any(|port| port.config.has(address))
    }

    /// The bounds within which the stack works.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Lets `capture` see every frame from now on.
    pub fn set_capture(&mut self, capture: Option<Capture>) {
        self.capture = capture;
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections by state. Looks at every connection: for status pages, not for every packet.
    pub fn census(&self) -> Census {
        let mut census = Census {
            half_open: self.half_open.len(),
            time_wait: self.time_wait.len(),
            orphans: self.orphans,
            buffers: self.buffers_used,
            ..Census::default()
        };
        for connection in self.table.connections() {
            match connection.tcp.state() {
                State::SynSent | State::SynReceived => census.connecting += 1,
                State::Established => census.established += 1,
                State::CloseWait | State::LastAck => census.closed_by_peer += 1,
                State::FinWait1 | State::FinWait2 | State::Closing => census.closed_here += 1,
                // Counted with the stubs.
                State::TimeWait | State::Closed => {}
            }
        }
        census
    }

    /// Deadlines in the heap of timers. Those that connections have left behind by moving or ending count until their time.
    pub fn timers(&self) -> usize {
        self.timers.len()
    }

    /// One turn: timers, frames in, frames out. A caller that lets its application run between the
    /// two halves, so that acknowledgements ride on answers, calls [`Stack::receive`] and
    /// [`Stack::transmit`] instead.
    pub fn turn(&mut self, now: Duration) {
        self.receive(now);
        self.transmit(now);
    }

    /// The first half of a turn: due timers, then received frames, at most
    /// [`Limits::frames_per_turn`] per interface.
    pub fn receive(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.run_timers(now);
        self.more_input = false;
        for number in 0..self.ports.len() {
            for count in 0.. {
                if count >= self.limits.frames_per_turn {
                    self.more_input = true;
                    break;
                }
                let Some(frame) = self.ports[number].device.receive() else { break };
                self.input(number, &frame, now);
            }
        }
    }

    /// When the next turn is due at the latest: now (or earlier) if there is work left, none if
    /// only a frame or the application can bring some.
    pub fn next_deadline(&self) -> Option<Duration> {
        // A dirty connection that the device has no room for waits for the device, not for us.
        let room = |&index: &u32| {
            let port = self.table.connection(index).and_then(|c| self.ports.get(c.port));
            port.is_some_and(|port| port.device.can_transmit())
        };
        if self.more_input || self.dirty.iter().any(room) {
            return Some(Duration::ZERO);
        }
        let timers = [self.timers.next(), self.half_open.next_due(), self.time_wait.next_expiry()];
        let ports = self.ports.iter().map(|port| port.due);
        timers.into_iter().chain(ports).flatten().min()
    }

    /// The next socket whose readiness changed, with the edges since it was last drained: what it
    /// became ready for, and [`Readiness::READABLE`] again for data that arrived on top of other.
    pub fn next_event(&mut self) -> Option<(SocketId, Readiness)> {
        while let Some(id) = self.events.pop_front() {
            let Some(entry) = self.table.entry_mut(id) else { continue };
            let edges = match entry {
                Entry::Listener(listener) => listener.edges.take(),
                Entry::Connection(connection) => connection.edges.take(),
                Entry::Udp(socket) => socket.edges.take(),
            };
            let waits = matches!(entry, Entry::Connection(c) if !c.owned || c.backlog_of.is_some());
            if !edges.is_empty() && !waits {
                return Some((id, edges));
            }
        }
        None
    }

    /// What a socket is ready for at the moment.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`] if it is closed.
    pub fn readiness(&self, id: SocketId) -> Result<Readiness, SocketError> {
        Ok(match self.table.entry(id).ok_or(SocketError::BadSocket)? {
            Entry::Listener(listener) => listener.readiness(),
            Entry::Connection(connection) if !connection.owned => {
                return Err(SocketError::BadSocket);
            }
            Entry::Connection(connection) => connection.readiness(),
            Entry::Udp(socket) => socket.readiness(),
        })
    }

    /// Takes the socket's pending error (SO_ERROR).
    ///
    /// # Errors
    /// [`SocketError::BadSocket`] if it is closed.
    pub fn take_error(&mut self, id: SocketId) -> Result<Option<SocketError>, SocketError> {
        Ok(match self.table.entry_mut(id).ok_or(SocketError::BadSocket)? {
            Entry::Listener(_) => None,
            Entry::Connection(connection) => connection.error.take(),
            Entry::Udp(socket) => socket.error.take(),
        })
    }

    fn run_timers(&mut self, now: Duration) {
        self.time_wait.expire(now);
        for port in &mut self.ports {
            if port.due.is_some_and(|due| due <= now) {
                let (counters, capture) = (&mut self.counters, &mut self.capture);
                port.poll(&mut Wire { counters, capture, now });
            }
        }
        while let Some((key, entry)) = self.half_open.pop_due(now) {
            self.answer_syn(
                &key,
                &entry.syn,
                (entry.sequence, false),
                (entry.port, entry.hardware),
                now,
            );
        }
        while let Some((at, owner)) = self.timers.pop(now) {
            self.counters.timer_pops += 1;
            let Some(connection) = self.table.timer_owner(owner) else { continue };
            if connection.armed == Some(at) {
                connection.armed = None;
                self.mark(owner.index);
            }
        }
    }

    /// Puts a connection on the list of those to poll.
    fn mark(&mut self, index: u32) {
        if let Some(connection) = self.table.connection_mut(index)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push_back(index);
        }
    }

    /// Whether one more answer to a packet that concerns nobody fits in this second.
    fn may_reply(&mut self, now: Duration) -> bool {
        if now >= self.reply_window.0 + Duration::from_secs(1) {
            self.reply_window = (now, 0);
        }
        let may = self.reply_window.1 < self.limits.replies_per_second;
        if may {
            self.reply_window.1 += 1;
        } else {
            self.counters.drop(DropReason::RateLimit);
        }
        may
    }

    /// The listener of an address, exact ones first.
    fn listener_of(&self, local: SocketAddr) -> Option<u32> {
        find(&self.listeners, local)
    }

    /// Octets that buffers may still take.
    fn room(&self) -> usize {
        self.limits.buffers_total.saturating_sub(self.buffers_used)
    }

    /// Whether there is room for another connection.
    fn has_buffers(&self) -> bool {
        self.room() > 0 && self.table.len() < self.limits.sockets
    }

    /// The settings of a connection's engine.
    fn settings(&self, key: &FlowKey, number: usize, now: Duration) -> Settings {
        let limits = &self.limits;
        let (link_segment, path_segment) = self.ports[number].segment_sizes(key.remote.ip(), now);
        Settings {
            receive_buffer: limits.receive_buffer,
            send_buffer: limits.send_buffer,
            user_timeout: limits.user_timeout,
            link_segment,
            path_segment,
            stamp_offset: self.secret.stamp_offset(key),
        }
    }
}

/// The entry of an address, or of its family's unspecified one.
fn find(map: &HashMap<SocketAddr, u32, Secret>, local: SocketAddr) -> Option<u32> {
    map.get(&local).or_else(|| map.get(&unspecified(local))).copied()
}

/// The same port of the family's unspecified address.
fn unspecified(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], address.port())),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], address.port())),
    }
}

//! Operations of UDP sockets, and what ICMP says about flows.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use smoltcp::wire::IpProtocol;

use super::table::Entry;
use super::{Stack, find, unspecified};
use crate::config::is_host;
use crate::counters::DropReason;
use crate::device::Device;
use crate::error::SocketError;
use crate::flow::FlowKey;
use crate::icmp::{self, Complaint, Verdict};
use crate::packet::{Header, udp_packet};
use crate::readiness::{Readiness, SocketId};
use crate::tcp::State;
use crate::udp::UdpSocket;

impl<D: Device> Stack<D> {
    /// Opens a UDP socket on an address; the unspecified one stands for all of its family, and
    /// with `dual_stack` the unspecified IPv6 address for both. Port zero takes a free one.
    ///
    /// # Errors
    /// [`SocketError::AddressInUse`], [`SocketError::AddressNotAvailable`],
    /// [`SocketError::NoBuffers`].
    pub fn udp_bind(
        &mut self,
        local: SocketAddr,
        dual_stack: bool,
    ) -> Result<SocketId, SocketError> {
        self.check_bindable(local)?;
        let mut local = local;
        if local.port() == 0 {
            let taken = |stack: &Self, at: SocketAddr| find(&stack.udp, at).is_some();
            local.set_port(self.free_port(local, taken)?);
        }
        let dual_stack = dual_stack && local.is_ipv6() && local.ip().is_unspecified();
        let other = unspecified(SocketAddr::from(([0; 4], local.port())));
        if self.udp.contains_key(&local) || (dual_stack && self.udp.contains_key(&other)) {
            return Err(SocketError::AddressInUse);
        }
        if self.table.len() >= self.limits.sockets {
            return Err(SocketError::NoBuffers);
        }
        let socket = UdpSocket::new(local, dual_stack, self.limits.udp_buffer);
        let id = self.table.insert(Entry::Udp(socket));
        self.udp.insert(local, id.index);
        if dual_stack {
            self.udp.insert(other, id.index);
        }
        Ok(id)
    }

    /// Gives the socket a peer: it hears no one else, and hears of ICMP errors. None undoes it.
    ///
    /// # Errors
    /// [`SocketError::NetworkUnreachable`], [`SocketError::InvalidAddress`].
    pub fn udp_connect(
        &mut self,
        id: SocketId,
        remote: Option<SocketAddr>,
    ) -> Result<(), SocketError> {
        if let Some(remote) = remote {
            if remote.port() == 0 || !is_host(remote.ip()) {
                return Err(SocketError::InvalidAddress);
            }
            self.route(None, remote.ip())?;
        }
        self.udp_socket(id)?.remote = remote;
        Ok(())
    }

    /// Sends a datagram, to the socket's peer if `remote` is none.
    ///
    /// # Errors
    /// [`SocketError::MessageTooLong`] if it does not fit one packet, [`SocketError::WouldBlock`]
    /// if the device has no room, [`SocketError::NotConnected`] without any destination, and the
    /// errors of [`Stack::connect`].
    pub fn send_to(
        &mut self,
        id: SocketId,
        remote: Option<SocketAddr>,
        data: &[u8],
        now: Duration,
    ) -> Result<usize, SocketError> {
        let socket = self.udp_socket(id)?;
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let remote = remote.or(socket.remote).ok_or(SocketError::NotConnected)?;
        if remote.port() == 0 || !is_host(remote.ip()) {
            return Err(SocketError::InvalidAddress);
        }
        let local = socket.local;
        let wanted = Some(local.ip()).filter(|ip| !ip.is_unspecified());
        let (number, source) = self.route(wanted, remote.ip())?;
        let headers = if source.is_ipv4() { 28 } else { 48 };
        let port = &self.ports[number];
        if data.len() + headers > port.capabilities.mtu {
            return Err(SocketError::MessageTooLong);
        }
        if !port.device.can_transmit() {
            return Err(SocketError::WouldBlock);
        }
        let packet = udp_packet(SocketAddr::new(source, local.port()), remote, data);
        self.send_packet(number, &packet, now);
        Ok(data.len())
    }

    /// Takes the oldest datagram: its data, its sender, and the address to which it came.
    ///
    /// # Errors
    /// [`SocketError::WouldBlock`] if there is none; the socket's error, once.
    pub fn recv_from(
        &mut self,
        id: SocketId,
    ) -> Result<(Vec<u8>, SocketAddr, SocketAddr), SocketError> {
        let Entry::Udp(socket) = self.table.entry_mut(id).ok_or(SocketError::BadSocket)? else {
            return Err(SocketError::WrongKind);
        };
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let (from, to, data) = socket.pop().ok_or(SocketError::WouldBlock)?;
        let level = socket.readiness();
        socket.edges.update(id, level, Readiness::NONE, &mut self.events);
        Ok((data, from, to))
    }

    /// The oldest datagram as [`Stack::recv_from`] gives it, which stays (MSG_PEEK).
    ///
    /// # Errors
    /// As [`Stack::recv_from`].
    pub fn peek_from(
        &mut self,
        id: SocketId,
    ) -> Result<(Vec<u8>, SocketAddr, SocketAddr), SocketError> {
        let socket = self.udp_socket(id)?;
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let (from, to, data) = socket.first().ok_or(SocketError::WouldBlock)?;
        Ok((data.to_vec(), from, to))
    }

    /// Hands a received datagram to its socket.
    pub(super) fn datagram(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        data: &[u8],
    ) -> Result<(), DropReason> {
        let index = find(&self.udp, local).ok_or(DropReason::NoSocket)?;
        let id = self.table.id(index);
        let socket = self.table.udp_mut(index).ok_or(DropReason::NoSocket)?;
        if socket.remote.is_some_and(|peer| peer != remote) {
            return Err(DropReason::NoSocket);
        }
        if !socket.push(remote, local, data) {
            return Err(DropReason::NoBuffers);
        }
        let level = socket.readiness();
        socket.edges.update(id, level, Readiness::READABLE, &mut self.events);
        Ok(())
    }

    /// Acts on an ICMP error about one of this host's packets; false if the message is no such.
    /// Only a message that names a packet which is really out is believed (RFC 5927 §4).
    pub(super) fn complaint(&mut self, header: &Header, message: &[u8], now: Duration) -> bool {
        let Some(complaint) = icmp::complaint(header.source.is_ipv6(), message) else {
            return false;
        };
        if complaint.protocol == IpProtocol::Udp {
            self.udp_complaint(&complaint);
            return true;
        }
        let key = FlowKey { local: complaint.local, remote: complaint.remote };
        let Some(&index) = self.flows.get(&key) else { return true };
        let Some(connection) = self.table.connection_mut(index) else { return true };
        if !connection.tcp.names(complaint.sequence) {
            return true;
        }
        match complaint.verdict {
            Verdict::TooBig(mtu) => {
                let port = &mut self.ports[connection.port];
                port.paths.learn(key.remote.ip(), mtu, now);
                let (_, path_segment) = port.segment_sizes(key.remote.ip(), now);
                connection.tcp.narrow_path(path_segment);
                self.mark(index);
            }
            // An established connection outlives what routers say (RFC 1122 §4.2.3.9).
            Verdict::Unreachable(error) if connection.tcp.state() == State::SynSent => {
                connection.tcp.fail(error);
                self.mark(index);
            }
            Verdict::Unreachable(_) => {}
        }
        true
    }

    fn udp_complaint(&mut self, complaint: &Complaint) {
        let Verdict::Unreachable(error) = complaint.verdict else { return };
        let Some(index) = find(&self.udp, complaint.local) else { return };
        let id = self.table.id(index);
        if let Some(socket) = self.table.udp_mut(index)
            && socket.remote == Some(complaint.remote)
        {
            socket.error = Some(error);
            let level = socket.readiness();
            socket.edges.update(id, level, Readiness::ERROR, &mut self.events);
        }
    }

    pub(super) fn forget_udp(&mut self, index: u32) {
        if let Some(Entry::Udp(socket)) = self.table.remove(index) {
            self.udp.remove(&socket.local);
            if socket.dual_stack {
                self.udp.remove(&unspecified(SocketAddr::from(([0; 4], socket.local.port()))));
            }
        }
    }

    fn udp_socket(&mut self, id: SocketId) -> Result<&mut UdpSocket, SocketError> {
        match self.table.entry_mut(id).ok_or(SocketError::BadSocket)? {
            Entry::Udp(socket) => Ok(socket),
            _ => Err(SocketError::WrongKind),
        }
    }
}

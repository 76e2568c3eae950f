//! Calls on UDP sockets.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use netstack::{Device, SocketId};

use crate::files::{Errno, FileId};

use super::socket::{Socket, State};
use super::{Network, errno};

impl<D: Device> Network<D> {
    pub(super) fn bind_datagram(
        &mut self,
        file: FileId,
        socket: &mut Socket,
        local: SocketAddr,
    ) -> Result<(), Errno> {
        let id = self.stack.udp_bind(local, socket.dual_stack()).map_err(errno)?;
        self.own(id, file);
        socket.state = State::Datagram(id);
        self.refresh(socket);
        Ok(())
    }

    /// Gives a datagram socket a peer, or none any more (`connect` with `AF_UNSPEC`).
    ///
    /// # Errors
    /// `ENETUNREACH`, `EAFNOSUPPORT`; those of [`Network::bind`], because a socket without an address gets one.
    pub fn connect_datagram(
        &mut self,
        file: FileId,
        socket: &mut Socket,
        remote: Option<SocketAddr>,
    ) -> Result<(), Errno> {
        let remote = remote.map(|remote| socket.accept_address(remote)).transpose()?;
        let id = self.datagram(file, socket)?;
        self.stack.udp_connect(id, remote).map_err(errno)?;
        socket.peer = remote.map(|remote| socket.family().show(remote));
        Ok(())
    }

    /// Sends a datagram, to the socket's peer without `remote`.
    ///
    /// # Errors
    /// `EDESTADDRREQ`, `EMSGSIZE`, `ENETUNREACH`, [`Errno::AGAIN`]; the socket's error, once.
    pub fn send_to(
        &mut self,
        file: FileId,
        socket: &mut Socket,
        data: &[u8],
        remote: Option<SocketAddr>,
        now: Duration,
    ) -> Result<usize, Errno> {
        let remote = remote.map(|remote| socket.accept_address(remote)).transpose()?;
        if remote.is_none() && socket.peer.is_none() {
            return Err(Errno(libc::EDESTADDRREQ));
        }
        let id = self.datagram(file, socket)?;
        let sent = self.stack.send_to(id, remote, data, now).map_err(errno);
        self.refresh(socket);
        sent
    }

    /// Takes the oldest datagram, with its sender and the address that it came to.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is none; the socket's error, once.
    pub fn receive_from(
        &mut self,
        socket: &mut Socket,
    ) -> Result<(Vec<u8>, SocketAddr, SocketAddr), Errno> {
        // One that was never bound can't have any.
        let State::Datagram(id) = socket.state else { return Err(Errno::AGAIN) };
        let received = self.stack.recv_from(id).map_err(errno);
        self.refresh(socket);
        let family = socket.family();
        received.map(|(data, from, to)| (data, family.show(from), family.show(to)))
    }

    /// The oldest datagram, which stays.
    ///
    /// # Errors
    /// As [`Network::receive_from`].
    pub fn peek_from(
        &mut self,
        socket: &mut Socket,
    ) -> Result<(Vec<u8>, SocketAddr, SocketAddr), Errno> {
        let State::Datagram(id) = socket.state else { return Err(Errno::AGAIN) };
        let (data, from, to) = self.stack.peek_from(id).map_err(errno)?;
        let family = socket.family();
        Ok((data, family.show(from), family.show(to)))
    }

    fn datagram(&mut self, file: FileId, socket: &mut Socket) -> Result<SocketId, Errno> {
        if socket.state == State::Fresh {
            let any = socket.family().unspecified(0);
            self.bind_datagram(file, socket, any)?;
        }
        match socket.state {
            State::Datagram(id) => Ok(id),
            _ => Err(Errno(libc::EOPNOTSUPP)),
        }
    }
}

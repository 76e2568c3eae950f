//! Calls on TCP sockets.

use core::net::SocketAddr;
use core::time::Duration;

use netstack::{Device, Readiness, Shutdown, SocketError};

use crate::files::{Errno, FileId, HANGUP, OUT};

use super::names::Name;
use super::socket::{Socket, State, Transport};
use super::{Network, errno};

/// The shortest backlog that a listener gets. A program may ask for less than one burst of handshakes that arrives before
/// it runs again, and here it can't accept in the middle of a turn.
const BACKLOG_MIN: usize = 128;

impl<D: Device> Network<D> {
    /// Gives the socket an address of its own (`bind`).
    ///
    /// # Errors
    /// As `bind(2)`: `EADDRINUSE`, `EADDRNOTAVAIL`, `EAFNOSUPPORT`, [`Errno::INVALID`] for one that has an address.
    pub fn bind(
        &mut self,
        file: FileId,
        socket: &mut Socket,
        local: SocketAddr,
    ) -> Result<(), Errno> {
        if socket.state != State::Fresh || socket.bound.is_some() {
            return Err(Errno::INVALID);
        }
        let local = socket.accept_address(local)?;
        if socket.transport() == Transport::Datagram {
            return self.bind_datagram(file, socket, local);
        }
        if !local.ip().is_unspecified() && !self.stack.has_address(local.ip()) {
            return Err(Errno(libc::EADDRNOTAVAIL));
        }
        let name = Name {
            file,
            local,
            dual_stack: socket.dual_stack(),
            reuse_address: socket.options.reuse_address,
            reuse_port: socket.options.reuse_port,
            listening: false,
        };
        socket.bound = Some(self.names.bind(name, |port| self.stack.is_port_used(port))?);
        Ok(())
    }

    /// Accepts connections from now on (`listen`). Called again, it changes nothing.
    ///
    /// # Errors
    /// As `listen(2)`: `EADDRINUSE`, `EOPNOTSUPP`; [`Errno::INVALID`] for a connected socket.
    pub fn listen(&mut self, file: FileId, socket: &mut Socket, backlog: i32) -> Result<(), Errno> {
        match (socket.transport(), socket.state) {
            (Transport::Datagram, _) => return Err(Errno(libc::EOPNOTSUPP)),
            (_, State::Listening(_)) => return Ok(()),
            (_, State::Fresh) => {}
            _ => return Err(Errno::INVALID),
        }
        if socket.bound.is_none() {
            let any = socket.family().unspecified(0);
            self.bind(file, socket, any)?;
        }
        let Some(local) = socket.bound else { return Err(Errno::INVALID) };
        self.names.listen(file)?;
        let backlog = usize::try_from(backlog).unwrap_or(0).max(BACKLOG_MIN);
        let id = self.stack.listen(local, socket.dual_stack(), backlog).map_err(errno)?;
        self.own(id, file);
        socket.state = State::Listening(id);
        self.refresh(socket);
        Ok(())
    }

    /// Takes a connection that has been made, as a socket without a file, with its peer (`accept`).
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is none, [`Errno::INVALID`] when the socket does not listen.
    pub fn accept(&mut self, socket: &mut Socket) -> Result<(Socket, SocketAddr), Errno> {
        if socket.transport() == Transport::Datagram {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let State::Listening(id) = socket.state else { return Err(Errno::INVALID) };
        let accepted = self.stack.accept(id).map_err(errno);
        self.refresh(socket);
        let (id, peer) = accepted?;
        let mut new = Socket::new(socket.family(), Transport::Stream);
        new.state = State::Stream(id);
        new.options = socket.options.clone();
        self.apply_options(&new, id);
        self.refresh(&mut new);
        Ok((new, socket.family().show(peer)))
    }

    /// The file of a socket that [`Network::accept`] gave.
    pub fn adopt(&mut self, file: FileId, socket: &Socket) {
        if let Some(id) = socket.id() {
            self.own(id, file);
        }
    }

    /// Begins a connection, or says how far the one that was begun is (`connect`).
    ///
    /// # Errors
    /// As `connect(2)`: `EINPROGRESS` when it has begun, `EALREADY` while it goes on, `EISCONN`; what it failed of.
    pub fn connect(
        &mut self,
        file: FileId,
        socket: &mut Socket,
        remote: SocketAddr,
        now: Duration,
    ) -> Result<(), Errno> {
        if socket.transport() == Transport::Datagram {
            return self.connect_datagram(file, socket, Some(remote));
        }
        match socket.state {
            State::Fresh => {}
            State::Connecting(_) => {
                return match self.connected(socket) {
                    Err(Errno::AGAIN) => Err(Errno(libc::EALREADY)),
                    result => result,
                };
            }
            State::Listening(_) => return Err(Errno(libc::EISCONN)),
            State::Stream(_) | State::Datagram(_) => return Err(Errno(libc::EISCONN)),
        }
        if core::mem::take(&mut socket.failed) {
            // The end of the attempt before, or that somebody has asked for it already, as Linux tells it.
            return Err(socket.error.take().unwrap_or(Errno(libc::ECONNABORTED)));
        }
        let remote = socket.accept_address(remote)?;
        let mut remote = remote;
        if remote.ip().is_unspecified() {
            // Linux takes it for this host.
            remote.set_ip(match remote {
                SocketAddr::V4(_) => core::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => core::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let local = socket.bound.map(|local| match (local, remote) {
            // A socket for both families that is bound to a port alone.
            (SocketAddr::V6(v6), SocketAddr::V4(_)) if v6.ip().is_unspecified() => {
                SocketAddr::from(([0; 4], v6.port()))
            }
            _ => local,
        });
        let id = self.stack.connect(local, remote, now).map_err(|error| match error {
            SocketError::InvalidAddress if remote.port() == 0 => Errno(libc::ECONNREFUSED),
            other => errno(other),
        })?;
        self.own(id, file);
        socket.state = State::Connecting(id);
        self.apply_options(socket, id);
        self.refresh(socket);
        Err(Errno(libc::EINPROGRESS))
    }

    /// How the connection attempt of a stream ended.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] while it goes on; what it failed of, after which the socket can try again.
    pub fn connected(&mut self, socket: &mut Socket) -> Result<(), Errno> {
        self.settle(socket);
        match socket.state {
            State::Connecting(_) => Err(Errno::AGAIN),
            State::Stream(_) => Ok(()),
            _ => {
                socket.failed = false;
                Err(socket.error.take().unwrap_or(Errno(libc::ENOTCONN)))
            }
        }
    }

    /// Looks whether a connection attempt has ended.
    pub(super) fn settle(&mut self, socket: &mut Socket) {
        let State::Connecting(id) = socket.state else { return };
        let ready = self.stack.readiness(id).unwrap_or(Readiness::HANG_UP);
        if ready.contains(Readiness::ERROR) || ready.contains(Readiness::HANG_UP) {
            let error = self.stack.take_error(id).ok().flatten();
            socket.error = Some(error.map_or(Errno(libc::ECONNREFUSED), errno));
            socket.failed = true;
            // It is over already.
            let _ = self.stack.close(id, netstack::Close::Reset);
            self.disown(id);
            socket.state = State::Fresh;
            socket.ready = OUT | HANGUP;
        } else if ready.contains(Readiness::WRITABLE) || ready.contains(Readiness::READ_CLOSED) {
            socket.state = State::Stream(id);
            self.refresh(socket);
        }
    }

    /// Sends (`send` on a stream).
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is no room, [`Errno::BROKEN_PIPE`], `ENOTCONN`; the connection's error, once.
    pub fn send(&mut self, socket: &mut Socket, data: &[u8]) -> Result<usize, Errno> {
        let id = match self.stream_id(socket)? {
            Some(id) => id,
            None if matches!(socket.state, State::Listening(_)) => return Err(Errno::BROKEN_PIPE),
            None => return Err(Errno::BROKEN_PIPE),
        };
        let sent = self.stack.send(id, data).map_err(errno);
        self.refresh(socket);
        sent
    }

    /// Receives (`recv` on a stream); with `peek` the data stays. Zero octets mean that the peer has ended.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is nothing, `ENOTCONN`; the connection's error, once.
    pub fn receive(
        &mut self,
        socket: &mut Socket,
        buffer: &mut [u8],
        peek: bool,
    ) -> Result<usize, Errno> {
        let id = self.stream_id(socket)?.ok_or(Errno(libc::ENOTCONN))?;
        let received = if peek { self.stack.peek(id, buffer) } else { self.stack.recv(id, buffer) };
        self.refresh(socket);
        received.map_err(errno)
    }

    /// Ends one or both directions (`shutdown`).
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn shutdown(
        &mut self,
        file: FileId,
        socket: &mut Socket,
        how: Shutdown,
    ) -> Result<(), Errno> {
        match socket.state {
            State::Listening(id) if how != Shutdown::Write => {
                // It listens no more; whoever waits in `accept` gets EINVAL.
                self.names.forget(file);
                let _ = self.stack.close(id, netstack::Close::Graceful);
                self.disown(id);
                socket.state = State::Fresh;
                socket.ready = OUT | HANGUP;
                Ok(())
            }
            State::Datagram(_) if socket.peer.is_some() => Ok(()),
            _ => {
                let id = self.stream_id(socket)?.ok_or(Errno(libc::ENOTCONN))?;
                let done = self.stack.shutdown(id, how).map_err(errno);
                self.refresh(socket);
                done
            }
        }
    }

    /// The stack's socket of a stream; none for one that has no connection.
    fn stream_id(&mut self, socket: &mut Socket) -> Result<Option<netstack::SocketId>, Errno> {
        self.settle(socket);
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        match socket.state {
            State::Stream(id) | State::Connecting(id) => Ok(Some(id)),
            _ => Ok(None),
        }
    }
}

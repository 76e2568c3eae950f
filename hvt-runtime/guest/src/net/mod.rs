//! Sockets over the network stack, as Linux has them.
//!
//! A [`Socket`] is a file; [`Network`] holds the stack and does what its calls ask for. Nothing here waits: a call that
//! would answers [`Errno::AGAIN`], as with every file. The stack tells what became ready, and [`Network::deliver`] passes
//! it on to the files, so that their watchers and waiters learn of it.
//!
//! This part is pure: time, randomness and devices come from outside, and it is tested on any host. [`address`] is the
//! form of addresses in C, [`interfaces`] the part of the command line that belongs to the network.

pub mod address;
mod datagram;
pub mod interfaces;
mod names;
mod options;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use netstack::{Close, Device, Readiness, SocketError, SocketId, Stack};

use crate::files::{Errno, FileId, Files, HANGUP, IN, Kind, Mask, OUT, READ_HANGUP};

use names::Names;
pub use options::Value;
use socket::State;
pub use socket::{Family, Socket, Transport};

/// An error waits to be taken (`EPOLLERR`).
const ERROR: Mask = libc::EPOLLERR as Mask;

/// The stack, and which file each of its sockets belongs to.
pub struct Network<D> {
    stack: Stack<D>,
    /// By [`SocketId::index`].
    owners: Vec<Option<(SocketId, FileId)>>,
    names: Names,
}

impl<D> core::fmt::Debug for Network<D> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Network").field("names", &self.names).finish_non_exhaustive()
    }
}

impl<D: Device> Network<D> {
    /// Sockets over this stack; `seed` must be random: free ports are chosen by it.
    pub fn new(stack: Stack<D>, seed: u64) -> Self {
        Self { stack, owners: Vec::new(), names: Names::new(seed) }
    }

    /// The stack, for its turns.
    pub fn stack(&mut self) -> &mut Stack<D> {
        &mut self.stack
    }

    /// Tells the files whose sockets became ready for something; true if there were any.
    pub fn deliver(&mut self, files: &mut Files) -> bool {
        let mut any = false;
        while let Some((id, edges)) = self.stack.next_event() {
            let owner = self.owners.get(id.index()).copied().flatten();
            let Some((_, file)) = owner.filter(|&(owned, _)| owned == id) else { continue };
            if let Some(socket) = files.socket(file) {
                self.refresh(socket);
                files.changed(file, mask(edges));
                any = true;
            }
        }
        any
    }

    /// Closes a socket whose file is closed.
    pub fn close(&mut self, file: FileId, socket: &Socket) {
        self.names.forget(file);
        if let Some(id) = socket.id() {
            let how = if socket.resets_on_close() { Close::Reset } else { Close::Graceful };
            // It is open as long as its file is.
            let _ = self.stack.close(id, how);
            self.disown(id);
        }
    }

    /// The socket's own address (`getsockname`).
    ///
    /// # Errors
    /// [`Errno::BAD_DESCRIPTOR`] when the stack knows it no more.
    pub fn local_address(&self, socket: &Socket) -> Result<SocketAddr, Errno> {
        match (socket.id(), socket.bound()) {
            (Some(id), _) => self.stack.local_addr(id).map_err(errno),
            (None, Some(local)) => Ok(local),
            (None, None) => Ok(socket.family().unspecified(0)),
        }
    }

    /// The peer's address (`getpeername`).
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn peer_address(&self, socket: &Socket) -> Result<SocketAddr, Errno> {
        let not_connected = Errno(libc::ENOTCONN);
        match socket.state {
            State::Stream(id) => self.stack.peer_addr(id).map_err(|_| not_connected),
            State::Datagram(_) => socket.peer().ok_or(not_connected),
            _ => Err(not_connected),
        }
    }

    /// How many received octets wait (`FIONREAD`).
    ///
    /// # Errors
    /// [`Errno::INVALID`] for a listener.
    pub fn waiting(&mut self, socket: &Socket) -> Result<usize, Errno> {
        match socket.state {
            State::Stream(id) | State::Connecting(id) => {
                self.stack.queued(id).map(|(received, _)| received).map_err(errno)
            }
            State::Listening(_) => Err(Errno::INVALID),
            _ => Ok(0),
        }
    }

    /// Takes the pending error (`SO_ERROR`).
    pub fn take_error(&mut self, socket: &mut Socket) -> Option<Errno> {
        self.settle(socket);
        let kept = socket.error.take();
        let pending = socket.id().and_then(|id| self.stack.take_error(id).ok().flatten());
        self.refresh(socket);
        kept.or_else(|| pending.map(errno))
    }

    /// Brings the socket's readiness up to date after an operation.
    fn refresh(&self, socket: &mut Socket) {
        let Some(id) = socket.id() else { return };
        socket.ready = self.stack.readiness(id).map_or(ERROR | HANGUP | IN | OUT, mask);
        if socket.error.is_some() {
            socket.ready |= ERROR | IN | OUT;
        }
    }

    fn own(&mut self, id: SocketId, file: FileId) {
        let index = id.index();
        if self.owners.len() <= index {
            self.owners.resize(index + 1, None);
        }
        self.owners[index] = Some((id, file));
    }

    fn disown(&mut self, id: SocketId) {
        if let Some(owner) = self.owners.get_mut(id.index())
            && owner.is_some_and(|(owned, _)| owned == id)
        {
            *owner = None;
        }
    }
}

impl Files {
    /// The socket of a file, if it is one.
    pub fn socket(&mut self, id: FileId) -> Option<&mut Socket> {
        match &mut self.by_id(id)?.kind {
            Kind::Socket(socket) => Some(socket),
            _ => None,
        }
    }
}

/// What the stack tells, as epoll does.
fn mask(readiness: Readiness) -> Mask {
    [
        (Readiness::READABLE, IN),
        (Readiness::WRITABLE, OUT),
        (Readiness::READ_CLOSED, READ_HANGUP),
        (Readiness::HANG_UP, HANGUP),
        (Readiness::ERROR, ERROR),
    ]
    .into_iter()
    .filter(|&(bit, _)| readiness.contains(bit))
    .fold(0, |mask, (_, bit)| mask | bit)
}

/// The number of Linux for a reason of the stack's.
fn errno(error: SocketError) -> Errno {
    Errno(match error {
        SocketError::WouldBlock => libc::EAGAIN,
        SocketError::BadSocket => libc::EBADF,
        SocketError::WrongKind => libc::EOPNOTSUPP,
        SocketError::NotConnected => libc::ENOTCONN,
        SocketError::BrokenPipe => libc::EPIPE,
        SocketError::ConnectionRefused => libc::ECONNREFUSED,
        SocketError::ConnectionReset => libc::ECONNRESET,
        SocketError::TimedOut => libc::ETIMEDOUT,
        SocketError::HostUnreachable => libc::EHOSTUNREACH,
        SocketError::NetworkUnreachable => libc::ENETUNREACH,
        SocketError::AddressInUse => libc::EADDRINUSE,
        SocketError::AddressNotAvailable => libc::EADDRNOTAVAIL,
        SocketError::InvalidAddress => libc::EINVAL,
        SocketError::NoBuffers => libc::ENOBUFS,
        SocketError::MessageTooLong => libc::EMSGSIZE,
    })
}

/// Time as the stack takes it.
#[must_use]
pub const fn moment(nanoseconds: u64) -> Duration {
    Duration::from_nanos(nanoseconds)
}

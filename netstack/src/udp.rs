//! UDP sockets: bounded queues of datagrams, without smoltcp's sockets, which a datagram needs not.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::error::SocketError;
use crate::readiness::{Edges, Readiness};

/// What a queued datagram costs beside its data, so that empty ones fill the buffer too.
const OVERHEAD: usize = 64;

/// A UDP socket.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    pub(crate) local: SocketAddr,
    pub(crate) dual_stack: bool,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) error: Option<SocketError>,
    pub(crate) edges: Edges,
    queue: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    held: usize,
    limit: usize,
}

impl UdpSocket {
    pub(crate) fn new(local: SocketAddr, dual_stack: bool, limit: usize) -> Self {
        Self {
            local,
            dual_stack,
            remote: None,
            error: None,
            edges: Edges::default(),
            queue: VecDeque::new(),
            held: 0,
            limit,
        }
    }

    /// Queues a datagram; false if there is no room.
    pub(crate) fn push(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> bool {
        let cost = data.len() + OVERHEAD;
        if self.held + cost > self.limit {
            return false;
        }
        self.held += cost;
        self.queue.push_back((from, to, data.to_vec()));
        true
    }

    /// The oldest datagram: its sender, the address to which it came, and its data.
    pub(crate) fn pop(&mut self) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let datagram = self.queue.pop_front()?;
        self.held -= datagram.2.len() + OVERHEAD;
        Some(datagram)
    }

    /// What [`UdpSocket::pop`] would give.
    pub(crate) fn first(&self) -> Option<(SocketAddr, SocketAddr, &[u8])> {
        self.queue.front().map(|(from, to, data)| (*from, *to, data.as_slice()))
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let mut ready = Readiness::WRITABLE;
        if !self.queue.is_empty() || self.error.is_some() {
            ready |= Readiness::READABLE;
        }
        if self.error.is_some() {
            ready |= Readiness::ERROR;
        }
        ready
    }
}

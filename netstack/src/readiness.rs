//! What a socket is ready for, and the queue of sockets whose readiness changed.

use alloc::collections::VecDeque;
use core::ops::{BitOr, BitOrAssign};

/// A handle of a socket. The generation keeps a handle of a closed socket from naming its
/// successor in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SocketId {
    /// The socket's place among the open ones: below the number of sockets that were ever open at
    /// the same time, and used again after a close.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// A set of things that a socket is ready for, as `epoll` reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness(u8);

impl Readiness {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `recv` or `accept` would not wait (EPOLLIN): data, the end of data, a connection, an error.
    pub const READABLE: Self = Self(1);
    /// `send` would not wait (EPOLLOUT).
    pub const WRITABLE: Self = Self(2);
    /// The peer sends no more (EPOLLRDHUP).
    pub const READ_CLOSED: Self = Self(4);
    /// Both halves are closed (EPOLLHUP).
    pub const HANG_UP: Self = Self(8);
    /// [`crate::Stack::take_error`] has something to say (EPOLLERR).
    pub const ERROR: Self = Self(16);

    /// Whether all of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Readiness {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Readiness {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What one socket owes the caller: the level last seen, and edges not yet drained.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    level: Readiness,
    pending: Readiness,
}

impl Edges {
    /// Takes the new level. `again` are bits that count as edges although they were set before:
    /// new data must wake a reader who has left older data unread.
    pub(crate) fn update(
        &mut self,
        id: SocketId,
        level: Readiness,
        again: Readiness,
        queue: &mut VecDeque<SocketId>,
    ) {
        let mut edges = level.without(self.level);
        edges |= Readiness(level.0 & again.0);
        self.level = level;
        if edges.is_empty() {
            return;
        }
        if self.pending.is_empty() {
            queue.push_back(id);
        }
        self.pending |= edges;
    }

    /// The edges since the last call.
    pub(crate) fn take(&mut self) -> Readiness {
        core::mem::take(&mut self.pending)
    }
}

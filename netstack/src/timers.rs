//! A heap of deadlines with at most one live entry per owner.
//!
//! An owner that moves its deadline later leaves its entry where it is: when the entry comes up,
//! the owner is asked again. So moving a timer on every packet costs nothing.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use core::time::Duration;

/// What a deadline belongs to: a place in the table of sockets, with its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerOwner {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The deadlines of all connections.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, TimerOwner)>>,
}

impl Timers {
    /// Arms the owner's timer for `deadline`, given when it is armed already.
    pub(crate) fn arm(
        &mut self,
        owner: TimerOwner,
        armed: &mut Option<Duration>,
        deadline: Option<Duration>,
    ) {
        let Some(deadline) = deadline else { return };
        if armed.is_none_or(|at| deadline < at) {
            *armed = Some(deadline);
            self.heap.push(Reverse((deadline, owner)));
        }
    }

    /// The next owner whose deadline is not after `now`, with that deadline.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<(Duration, TimerOwner)> {
        let Reverse((at, _)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// How many deadlines there are, left ones included.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

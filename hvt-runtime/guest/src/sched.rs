//! Who runs next: ready threads, waiting threads, deadlines. Pure bookkeeping of numbers; it must not know what a thread
//! is, what time it is, or how to switch.
//!
//! A thread waits on a *channel*, a number that both sides agree upon: the address of a futex, or a tagged id for
//! everything else. Waiters of a channel wake in the order in which they came.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// Number of a thread, reused after its end.
pub type ThreadId = u32;

/// What a waiter waits for.
pub type Channel = u64;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Somebody called [`Scheduler::wake`] for its channel.
    Woken,
    /// Its deadline passed first.
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No thread has this number.
    Unused,
    /// In the ready queue, or the one that runs.
    Ready(Wake),
    Waiting {
        channel: Channel,
        sequence: u64,
        deadline: Option<u64>,
    },
}

/// The threads of a program and what each waits for.
#[derive(Debug, Default)]
pub struct Scheduler {
    states: Vec<State>,
    unused: Vec<ThreadId>,
    ready: VecDeque<ThreadId>,
    waiters: BTreeMap<(Channel, u64), ThreadId>,
    deadlines: BTreeSet<(u64, ThreadId)>,
    sequence: u64,
}

impl Scheduler {
    /// No threads.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            states: Vec::new(),
            unused: Vec::new(),
            ready: VecDeque::new(),
            waiters: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            sequence: 0,
        }
    }

    /// A number for a new thread. It is not in the ready queue yet.
    pub fn add(&mut self) -> ThreadId {
        if let Some(id) = self.unused.pop() {
            self.states[id as usize] = State::Ready(Wake::Woken);
            return id;
        }
        self.states.push(State::Ready(Wake::Woken));
        u32::try_from(self.states.len() - 1).unwrap_or(u32::MAX)
    }

    /// The running thread has ended; its number may be given to another.
    pub fn remove(&mut self, id: ThreadId) {
        self.states[id as usize] = State::Unused;
        self.unused.push(id);
    }

    /// Ends a thread's wait without making it ready.
    pub fn forget(&mut self, id: ThreadId) {
        if let State::Waiting { channel, sequence, deadline } = self.states[id as usize] {
            self.waiters.remove(&(channel, sequence));
            if let Some(deadline) = deadline {
                self.deadlines.remove(&(deadline, id));
            }
        }
    }

    /// Puts a thread at the end of the ready queue: a new one, or the running one that yields.
    pub fn make_ready(&mut self, id: ThreadId) {
        self.ready.push_back(id);
    }

    /// The running thread waits on a channel from now on, until `deadline` (in the clock's units) if there is one.
    pub fn wait(&mut self, id: ThreadId, channel: Channel, deadline: Option<u64>) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.states[id as usize] = State::Waiting { channel, sequence, deadline };
        self.waiters.insert((channel, sequence), id);
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
    }

    /// Wakes up to `limit` waiters of a channel and says how many there were.
    pub fn wake(&mut self, channel: Channel, limit: usize) -> usize {
        let mut woken = 0;
        while woken < limit {
            let next = self.waiters.range((channel, 0)..=(channel, u64::MAX)).next();
            let Some(id) = next.map(|(_, &id)| id) else { break };
            self.finish(id, Wake::Woken);
            woken += 1;
        }
        woken
    }

    /// Moves up to `limit` waiters of one channel to another, behind those that wait there.
    pub fn requeue(&mut self, from: Channel, to: Channel, limit: usize) -> usize {
        let mut moved = 0;
        while moved < limit {
            let next = self.waiters.range((from, 0)..=(from, u64::MAX)).next();
            let Some((&key, &id)) = next else { break };
            self.waiters.remove(&key);
            let sequence = self.sequence;
            self.sequence += 1;
            if let State::Waiting { deadline, .. } = self.states[id as usize] {
                self.states[id as usize] = State::Waiting { channel: to, sequence, deadline };
            }
            self.waiters.insert((to, sequence), id);
            moved += 1;
        }
        moved
    }

    /// Wakes everybody whose deadline is not after `now`.
    pub fn expire(&mut self, now: u64) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.finish(id, Wake::TimedOut);
        }
    }

    /// Takes the next ready thread and why its wait ended.
    pub fn take_next(&mut self) -> Option<(ThreadId, Wake)> {
        let id = self.ready.pop_front()?;
        let State::Ready(wake) = self.states[id as usize] else { return Some((id, Wake::Woken)) };
        Some((id, wake))
    }

    /// Whether somebody else could run.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// How many threads there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.states.len() - self.unused.len()
    }

    fn finish(&mut self, id: ThreadId, wake: Wake) {
        self.forget(id);
        self.states[id as usize] = State::Ready(wake);
        self.ready.push_back(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_wake_in_their_order_and_only_on_their_channel() {
        let mut sched = Scheduler::new();
        let ids: Vec<_> = (0..4).map(|_| sched.add()).collect();
        sched.wait(ids[2], 7, None);
        sched.wait(ids[0], 7, None);
        sched.wait(ids[1], 8, None);
        assert_eq!(sched.wake(9, 1), 0);
        assert_eq!(sched.wake(7, 1), 1);
        assert_eq!(sched.take_next(), Some((ids[2], Wake::Woken)));
        assert_eq!(sched.wake(7, usize::MAX), 1);
        assert_eq!(sched.wake(8, usize::MAX), 1);
        assert_eq!(sched.take_next(), Some((ids[0], Wake::Woken)));
        assert_eq!(sched.take_next(), Some((ids[1], Wake::Woken)));
        assert_eq!(sched.take_next(), None);
    }

    #[test]
    fn a_deadline_ends_a_wait_once() {
        let mut sched = Scheduler::new();
        let id = sched.add();
        sched.wait(id, 7, Some(100));
        assert_eq!(sched.next_deadline(), Some(100));
        sched.expire(99);
        assert!(!sched.has_ready());
        sched.expire(100);
        assert_eq!(sched.take_next(), Some((id, Wake::TimedOut)));
        assert_eq!(sched.wake(7, 1), 0);
        assert_eq!(sched.next_deadline(), None);
    }

    #[test]
    fn a_woken_thread_keeps_no_deadline() {
        let mut sched = Scheduler::new();
        let id = sched.add();
        sched.wait(id, 7, Some(100));
        assert_eq!(sched.wake(7, 1), 1);
        assert_eq!(sched.take_next(), Some((id, Wake::Woken)));
        sched.expire(1000);
        assert!(!sched.has_ready());
    }

    #[test]
    fn requeued_waiters_stand_behind_those_of_the_other_channel() {
        let mut sched = Scheduler::new();
        let (a, b) = (sched.add(), sched.add());
        sched.wait(a, 1, Some(5));
        sched.wait(b, 2, None);
        assert_eq!(sched.requeue(1, 2, 10), 1);
        assert_eq!(sched.wake(1, 1), 0);
        assert_eq!(sched.wake(2, 2), 2);
        assert_eq!(sched.take_next(), Some((b, Wake::Woken)));
        assert_eq!(sched.take_next(), Some((a, Wake::Woken)));
        assert_eq!(sched.next_deadline(), None);
    }

    #[test]
    fn numbers_are_reused() {
        let mut sched = Scheduler::new();
        let first = sched.add();
        let second = sched.add();
        sched.remove(first);
        assert_eq!(sched.count(), 1);
        assert_eq!(sched.add(), first);
        assert_ne!(first, second);
    }
}

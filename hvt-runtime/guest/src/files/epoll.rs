//! `epoll`: which files a program watches, and which of them have news.
//!
//! Readiness is told, not searched: a file that changes puts its interests into the queue of each epoll that watches it.
//! Taking from the queue asks the file again, so that what has passed in between is not reported. A level-triggered
//! interest goes back to the end of the queue as long as its file is ready; an edge-triggered one waits for the next change.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::{Errno, FileId, Files, HANGUP, IN, Kind, Mask};

const EDGE: Mask = 1 << 31;
const ONE_SHOT: Mask = 1 << 30;
/// Reported whether asked for or not.
const ALWAYS: Mask = HANGUP | 8;

/// One `epoll_ctl` operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Watch a file for `events` (with the flags of `epoll_event`), to be reported with `data`.
    Add {
        /// What to watch for.
        events: Mask,
        /// What to report with it.
        data: u64,
    },
    /// Change what a watched file is watched for.
    Modify {
        /// What to watch for.
        events: Mask,
        /// What to report with it.
        data: u64,
    },
    /// Watch no more.
    Delete,
}

/// News of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What it is ready for.
    pub events: Mask,
    /// As given to [`Control::Add`].
    pub data: u64,
}

#[derive(Debug)]
struct Interest {
    events: Mask,
    data: u64,
    queued: bool,
    armed: bool,
}

/// The interests of an epoll.
#[derive(Debug, Default)]
pub struct Epoll {
    interests: BTreeMap<(i32, FileId), Interest>,
    queue: VecDeque<(i32, FileId)>,
}

impl Epoll {
    pub(super) fn readiness(&self) -> Mask {
        if self.queue.is_empty() { 0 } else { IN }
    }

    /// A watched file changed; true when somebody who waits here should look.
    pub(super) fn notify(&mut self, fd: i32, file: FileId, mask: Mask) -> bool {
        let Some(interest) = self.interests.get_mut(&(fd, file)) else { return false };
        if !interest.armed || mask & (interest.events | ALWAYS) == 0 {
            return false;
        }
        if !interest.queued {
            interest.queued = true;
            self.queue.push_back((fd, file));
        }
        true
    }

    pub(super) fn forget(&mut self, fd: i32, file: FileId) {
        self.interests.remove(&(fd, file));
        self.queue.retain(|&key| key != (fd, file));
    }

    pub(super) fn watched(&self) -> Vec<FileId> {
        self.interests.keys().map(|&(_, file)| file).collect()
    }
}

impl Files {
    /// Changes what an epoll watches.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`: [`Errno::EXISTS`], [`Errno::NOT_FOUND`], [`Errno::NOT_PERMITTED`] for files that are always
    /// ready, [`Errno::INVALID`] for an epoll in an epoll, which Linux has and nobody here needs.
    pub fn epoll_control(
        &mut self,
        epoll_id: FileId,
        fd: i32,
        control: Control,
    ) -> Result<(), Errno> {
        let id = self.id(fd)?;
        match &self.file(id)?.kind {
            Kind::Event(_) | Kind::Stream(_) | Kind::Socket(_) => {}
            Kind::Epoll(_) => return Err(Errno::INVALID),
            _ => return Err(Errno::NOT_PERMITTED),
        }
        let now = self.readiness(id);
        let Kind::Epoll(epoll) = &mut self.file(epoll_id)?.kind else {
            return Err(Errno::INVALID);
        };
        let known = epoll.interests.contains_key(&(fd, id));
        match control {
            Control::Delete if known => {
                epoll.forget(fd, id);
                self.file(id)?.watchers.retain(|&watcher| watcher != (epoll_id, fd));
                return Ok(());
            }
            Control::Delete | Control::Modify { .. } if !known => return Err(Errno::NOT_FOUND),
            Control::Add { .. } if known => return Err(Errno::EXISTS),
            Control::Add { events, data } | Control::Modify { events, data } => {
                let queued = epoll.interests.get(&(fd, id)).is_some_and(|old| old.queued);
                let interest = Interest { events, data, queued, armed: true };
                epoll.interests.insert((fd, id), interest);
                if epoll.notify(fd, id, now) {
                    self.wakes.push(epoll_id);
                }
            }
            Control::Delete => {}
        }
        if !known {
            self.file(id)?.watchers.push((epoll_id, fd));
        }
        Ok(())
    }

    /// Takes up to `limit` news.
    ///
    /// # Errors
    /// [`Errno::INVALID`] when it is not an epoll.
    pub fn epoll_take(&mut self, epoll_id: FileId, limit: usize) -> Result<Vec<Ready>, Errno> {
        let Kind::Epoll(epoll) = &self.file(epoll_id)?.kind else { return Err(Errno::INVALID) };
        let mut news = Vec::new();
        for _ in 0..epoll.queue.len() {
            if news.len() == limit {
                break;
            }
            let Kind::Epoll(epoll) = &mut self.file(epoll_id)?.kind else { break };
            let Some((fd, id)) = epoll.queue.pop_front() else { break };
            let ready = self.readiness(id);
            let Kind::Epoll(epoll) = &mut self.file(epoll_id)?.kind else { break };
            let Some(interest) = epoll.interests.get_mut(&(fd, id)) else { continue };
            interest.queued = false;
            let events = ready & (interest.events | ALWAYS);
            if events == 0 || !interest.armed {
                continue;
            }
            news.push(Ready { events, data: interest.data });
            if interest.events & ONE_SHOT != 0 {
                interest.armed = false;
            } else if interest.events & EDGE == 0 {
                interest.queued = true;
                epoll.queue.push_back((fd, id));
            }
        }
        Ok(news)
    }
}

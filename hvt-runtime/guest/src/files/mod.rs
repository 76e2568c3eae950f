//! Descriptors, the files behind them, and their readiness.
//!
//! A descriptor is a number for a file; several may mean the same one (`dup`), so files count references. This part is
//! pure: it never waits and never calls the tender. An operation that would wait answers [`Errno::AGAIN`], and the caller
//! decides what that means. Whatever makes a file ready is told to the epolls that watch it, and the files whose waiters
//! should look again are collected for [`Files::take_wakes`].

mod epoll;
mod event;
mod stream;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::net::Socket;

pub use epoll::{Control, Epoll, Ready};
pub use event::Event;
pub use stream::Stream;

/// An error number of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The operation would wait.
    pub const AGAIN: Self = Self(libc::EAGAIN);
    /// No such descriptor.
    pub const BAD_DESCRIPTOR: Self = Self(libc::EBADF);
    /// An argument makes no sense for this file.
    pub const INVALID: Self = Self(libc::EINVAL);
    /// All descriptor numbers are taken.
    pub const TOO_MANY: Self = Self(libc::EMFILE);
    /// The file can't do this.
    pub const NOT_PERMITTED: Self = Self(libc::EPERM);
    /// There is none.
    pub const NOT_FOUND: Self = Self(libc::ENOENT);
    /// It is there already.
    pub const EXISTS: Self = Self(libc::EEXIST);
    /// Nobody reads any more.
    pub const BROKEN_PIPE: Self = Self(libc::EPIPE);
}

/// Number of a file, reused when its last descriptor is closed.
pub type FileId = u32;

/// Readiness as in `epoll_event.events`.
pub type Mask = u32;

/// Something to read, or the end.
pub const IN: Mask = libc::EPOLLIN as Mask;
/// Room to write.
pub const OUT: Mask = libc::EPOLLOUT as Mask;
/// The other side has gone.
pub const HANGUP: Mask = libc::EPOLLHUP as Mask;
/// The other side writes no more.
pub const READ_HANGUP: Mask = libc::EPOLLRDHUP as Mask;

/// As many descriptors as Linux gives a process by default at the hard limit of most distributions.
pub const MAX_DESCRIPTORS: usize = 1 << 20;

/// What a file is.
#[derive(Debug)]
pub enum Kind {
    /// The tender's console: writes only.
    Console,
    /// `/dev/null`.
    Null,
    /// `/dev/zero`.
    Zero,
    /// `/dev/random` and `/dev/urandom`.
    Random,
    /// Bytes that are part of the image.
    Memory(&'static [u8]),
    /// A text that was written when the file was opened.
    Text(Vec<u8>),
    /// A block device, by its index among the program's devices.
    Block(usize),
    /// `eventfd`.
    Event(Event),
    /// `epoll_create1`.
    Epoll(Epoll),
    /// One end of a `socketpair` or pipe.
    Stream(Stream),
    /// A socket of the network.
    Socket(Box<Socket>),
}

/// An open file.
#[derive(Debug)]
pub struct File {
    /// What it is.
    pub kind: Kind,
    /// Whether operations answer [`Errno::AGAIN`] instead of waiting (`O_NONBLOCK`).
    pub nonblocking: bool,
    /// Where the next plain read or write goes on, in bytes.
    pub position: u64,
    /// `O_RDONLY`, `O_WRONLY` or `O_RDWR`.
    pub access: i32,
    references: u32,
    watchers: Vec<(FileId, i32)>,
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    file: FileId,
    close_on_exec: bool,
}

/// The descriptors of the program.
#[derive(Debug, Default)]
pub struct Files {
    descriptors: Vec<Option<Descriptor>>,
    files: Vec<Option<File>>,
    /// Numbers of `files` that are free.
    unused: Vec<FileId>,
    /// No descriptor below this one is free.
    full_below: usize,
    wakes: Vec<FileId>,
    closed: Vec<(FileId, Box<Socket>)>,
}

impl Files {
    /// No descriptors.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            descriptors: Vec::new(),
            files: Vec::new(),
            unused: Vec::new(),
            full_below: 0,
            wakes: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// A new file under the lowest free descriptor.
    ///
    /// # Errors
    /// [`Errno::TOO_MANY`].
    pub fn open(&mut self, kind: Kind, access: i32, nonblocking: bool) -> Result<i32, Errno> {
        let fd = self.lowest_free(0)?;
        let file =
            File { kind, nonblocking, position: 0, access, references: 0, watchers: Vec::new() };
        let id = match self.unused.pop() {
            Some(id) => {
                self.files[id as usize] = Some(file);
                id
            }
            None => {
                self.files.push(Some(file));
                FileId::try_from(self.files.len() - 1).map_err(|_| Errno::TOO_MANY)?
            }
        };
        self.bind(fd, id, true);
        Ok(fd)
    }

    /// A second descriptor, at least `minimum`, for the same file.
    ///
    /// # Errors
    /// [`Errno::BAD_DESCRIPTOR`], [`Errno::TOO_MANY`], [`Errno::INVALID`] for a negative minimum.
    pub fn duplicate(&mut self, fd: i32, minimum: i32) -> Result<i32, Errno> {
        let file = self.id(fd)?;
        let new = self.lowest_free(usize::try_from(minimum).map_err(|_| Errno::INVALID)?)?;
        self.bind(new, file, true);
        Ok(new)
    }

    /// Makes `new` mean the file of `fd`, closing what it meant before.
    ///
    /// # Errors
    /// [`Errno::BAD_DESCRIPTOR`].
    pub fn duplicate_to(&mut self, fd: i32, new: i32) -> Result<i32, Errno> {
        let file = self.id(fd)?;
        if !(0..MAX_DESCRIPTORS).contains(&usize::try_from(new).unwrap_or(MAX_DESCRIPTORS)) {
            return Err(Errno::BAD_DESCRIPTOR);
        }
        if fd != new {
            if self.id(new).is_ok() {
                self.close(new)?;
            }
            self.bind(new, file, false);
        }
        Ok(new)
    }

    /// Closes a descriptor, and with the last one its file.
    ///
    /// # Errors
    /// [`Errno::BAD_DESCRIPTOR`].
    pub fn close(&mut self, fd: i32) -> Result<(), Errno> {
        let id = self.id(fd)?;
        self.descriptors[index(fd)] = None;
        self.full_below = self.full_below.min(index(fd));
        let file = self.file(id)?;
        file.references -= 1;
        if file.references > 0 {
            return Ok(());
        }
        let Some(file) = self.files[id as usize].take() else { return Ok(()) };
        self.unused.push(id);
        for (epoll, fd) in &file.watchers {
            if let Ok(Kind::Epoll(epoll)) = self.file(*epoll).map(|file| &mut file.kind) {
                epoll.forget(*fd, id);
            }
        }
        match file.kind {
            Kind::Epoll(epoll) => {
                for watched in epoll.watched() {
                    if let Ok(file) = self.file(watched) {
                        file.watchers.retain(|&(epoll, _)| epoll != id);
                    }
                }
            }
            Kind::Stream(Stream { peer: Some(peer), .. }) => {
                if let Ok(Kind::Stream(stream)) = self.file(peer).map(|file| &mut file.kind) {
                    stream.peer = None;
                }
                self.changed(peer, IN | OUT | HANGUP | READ_HANGUP);
            }
            Kind::Socket(socket) => self.closed.push((id, socket)),
            _ => {}
        }
        self.wakes.push(id);
        Ok(())
    }

    /// The file of a descriptor.
    ///
    /// # Errors
    /// [`Errno::BAD_DESCRIPTOR`].
    pub fn get(&mut self, fd: i32) -> Result<&mut File, Errno> {
        let id = self.id(fd)?;
        self.file(id)
    }

    /// The number of a descriptor's file.
    ///
    /// # Errors
    /// [`Errno::BAD_DESCRIPTOR`].
    pub fn id(&self, fd: i32) -> Result<FileId, Errno> {
        let slot = usize::try_from(fd).map_err(|_| Errno::BAD_DESCRIPTOR)?;
        let descriptor = self.descriptors.get(slot).copied().flatten();
        descriptor.map(|descriptor| descriptor.file).ok_or(Errno::BAD_DESCRIPTOR)
    }

    /// Whether a descriptor would be closed by `exec`; sets it when `set` is given. Nothing is ever executed here, but
    /// programs ask back what they set.
    ///
    /// # Errors
    /// [`Errno::BAD_DESCRIPTOR`].
    pub fn close_on_exec(&mut self, fd: i32, set: Option<bool>) -> Result<bool, Errno> {
        self.id(fd)?;
        let slot = self.descriptors[index(fd)].as_mut().ok_or(Errno::BAD_DESCRIPTOR)?;
        slot.close_on_exec = set.unwrap_or(slot.close_on_exec);
        Ok(slot.close_on_exec)
    }

    /// How many descriptors there were at the same time, at most.
    #[must_use]
    pub fn table_size(&self) -> usize {
        self.descriptors.len()
    }

    /// All sockets of the network.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.files.iter().flatten().filter_map(|file| match &file.kind {
            Kind::Socket(socket) => Some(&**socket),
            _ => None,
        })
    }

    /// What a file is ready for now.
    #[must_use]
    pub fn readiness(&self, id: FileId) -> Mask {
        let Some(file) = self.files.get(id as usize).and_then(Option::as_ref) else { return 0 };
        match &file.kind {
            Kind::Event(event) => event.readiness(),
            Kind::Epoll(epoll) => epoll.readiness(),
            Kind::Stream(stream) => {
                let room = stream.peer.and_then(|peer| self.files.get(peer as usize)?.as_ref());
                let room = match room.map(|file| &file.kind) {
                    Some(Kind::Stream(peer)) => peer.room(),
                    _ => 0,
                };
                stream.readiness(room)
            }
            Kind::Socket(socket) => socket.readiness(),
            _ => IN | OUT,
        }
    }

    /// Files whose waiters should look again since the last call.
    pub fn take_wakes(&mut self) -> Option<FileId> {
        self.wakes.pop()
    }

    /// A socket whose file was closed since the last call; the network must close it before anything else is opened.
    pub fn take_closed(&mut self) -> Option<(FileId, Box<Socket>)> {
        self.closed.pop()
    }

    /// The file of this number.
    pub fn by_id(&mut self, id: FileId) -> Option<&mut File> {
        self.files.get_mut(id as usize)?.as_mut()
    }

    /// Tells the watchers of a file that it became ready for something in `mask`, even if it was before.
    pub fn changed(&mut self, id: FileId, mask: Mask) {
        self.wakes.push(id);
        let Ok(file) = self.file(id) else { return };
        let watchers = core::mem::take(&mut file.watchers);
        for &(epoll_id, fd) in &watchers {
            if let Ok(Kind::Epoll(epoll)) = self.file(epoll_id).map(|file| &mut file.kind)
                && epoll.notify(fd, id, mask)
            {
                self.wakes.push(epoll_id);
            }
        }
        if let Ok(file) = self.file(id) {
            file.watchers = watchers;
        }
    }

    fn file(&mut self, id: FileId) -> Result<&mut File, Errno> {
        let file = self.files.get_mut(id as usize).and_then(Option::as_mut);
        file.ok_or(Errno::BAD_DESCRIPTOR)
    }

    fn lowest_free(&mut self, minimum: usize) -> Result<i32, Errno> {
        if minimum >= MAX_DESCRIPTORS {
            return Err(Errno::INVALID);
        }
        if self.descriptors.len() < minimum {
            self.descriptors.resize(minimum, None);
        }
        let start = self.full_below.max(minimum);
        let free =
            self.descriptors[start.min(self.descriptors.len())..].iter().position(Option::is_none);
        let end = self.descriptors.len().max(start);
        let slot = free.map_or(end, |offset| start + offset);
        if start == self.full_below {
            self.full_below = slot;
        }
        if slot >= MAX_DESCRIPTORS {
            return Err(Errno::TOO_MANY);
        }
        i32::try_from(slot).map_err(|_| Errno::TOO_MANY)
    }

    fn bind(&mut self, fd: i32, file: FileId, close_on_exec: bool) {
        let slot = index(fd);
        if self.descriptors.len() <= slot {
            self.descriptors.resize(slot + 1, None);
        }
        self.descriptors[slot] = Some(Descriptor { file, close_on_exec });
        if let Ok(file) = self.file(file) {
            file.references += 1;
        }
    }
}

/// A descriptor that is known to be valid as an index.
fn index(fd: i32) -> usize {
    usize::try_from(fd).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;

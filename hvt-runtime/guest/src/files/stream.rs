//! `socketpair` and pipes inside of the program: two ends, each with the bytes that wait for it.

use alloc::collections::VecDeque;

use super::{Errno, FileId, Files, HANGUP, IN, Kind, Mask, OUT, READ_HANGUP};

/// How many bytes wait at one end at most; the size of a pipe on Linux.
pub(super) const CAPACITY: usize = 64 * 1024;

/// One end.
#[derive(Debug, Default)]
pub struct Stream {
    /// The other end, until it is closed.
    pub peer: Option<FileId>,
    /// Whether the other end writes no more (`shutdown`).
    pub finished: bool,
    /// Bytes that this end can read.
    pub inbox: VecDeque<u8>,
}

impl Stream {
    pub(super) fn room(&self) -> usize {
        CAPACITY - self.inbox.len()
    }

    pub(super) fn readiness(&self, room: usize) -> Mask {
        let ended = self.finished || self.peer.is_none();
        let mut mask = 0;
        if !self.inbox.is_empty() || ended {
            mask |= IN;
        }
        if room > 0 || self.peer.is_none() {
            mask |= OUT;
        }
        if ended {
            mask |= READ_HANGUP;
        }
        if self.peer.is_none() {
            mask |= HANGUP;
        }
        mask
    }
}

impl Files {
    /// Two connected ends.
    ///
    /// # Errors
    /// [`Errno::TOO_MANY`].
    pub fn open_pair(&mut self, access: [i32; 2], nonblocking: bool) -> Result<[i32; 2], Errno> {
        let first = self.open(Kind::Stream(Stream::default()), access[0], nonblocking)?;
        let second = match self.open(Kind::Stream(Stream::default()), access[1], nonblocking) {
            Ok(second) => second,
            Err(error) => {
                self.close(first)?;
                return Err(error);
            }
        };
        let ids = [self.id(first)?, self.id(second)?];
        for (id, peer) in [(ids[0], ids[1]), (ids[1], ids[0])] {
            if let Kind::Stream(stream) = &mut self.file(id)?.kind {
                stream.peer = Some(peer);
            }
        }
        Ok([first, second])
    }

    /// Reads what waits at an end; 0 when the other one has finished.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when nothing waits.
    pub fn stream_read(&mut self, id: FileId, buffer: &mut [u8]) -> Result<usize, Errno> {
        let Kind::Stream(stream) = &mut self.file(id)?.kind else { return Err(Errno::INVALID) };
        if stream.inbox.is_empty() && !buffer.is_empty() {
            let ended = stream.finished || stream.peer.is_none();
            return if ended { Ok(0) } else { Err(Errno::AGAIN) };
        }
        let was_full = stream.room() == 0;
        let count = buffer.len().min(stream.inbox.len());
        for (to, from) in buffer.iter_mut().zip(stream.inbox.drain(..count)) {
            *to = from;
        }
        if let (true, Some(peer)) = (was_full && count > 0, stream.peer) {
            self.changed(peer, OUT);
        }
        Ok(count)
    }

    /// Writes as much as there is room for at the other end.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is none, [`Errno::BROKEN_PIPE`] when that end is closed.
    pub fn stream_write(&mut self, id: FileId, data: &[u8]) -> Result<usize, Errno> {
        let Kind::Stream(stream) = &self.file(id)?.kind else { return Err(Errno::INVALID) };
        let peer_id = stream.peer.ok_or(Errno::BROKEN_PIPE)?;
        let Kind::Stream(peer) = &mut self.file(peer_id)?.kind else { return Err(Errno::INVALID) };
        if peer.finished {
            return Err(Errno::BROKEN_PIPE);
        }
        let count = data.len().min(peer.room());
        if count == 0 && !data.is_empty() {
            return Err(Errno::AGAIN);
        }
        peer.inbox.extend(&data[..count]);
        self.changed(peer_id, IN);
        Ok(count)
    }

    /// This end writes no more: the other one reads what waits, and then the end.
    ///
    /// # Errors
    /// [`Errno::INVALID`] for another kind of file.
    pub fn stream_finish(&mut self, id: FileId) -> Result<(), Errno> {
        let Kind::Stream(stream) = &self.file(id)?.kind else { return Err(Errno::INVALID) };
        let Some(peer_id) = stream.peer else { return Ok(()) };
        if let Kind::Stream(peer) = &mut self.file(peer_id)?.kind {
            peer.finished = true;
        }
        self.changed(peer_id, IN | READ_HANGUP);
        Ok(())
    }
}

//! Frames over a stream socket: four bytes of length, big endian, then the frame. passt, QEMU (`-netdev stream`) and
//! libkrun speak it.
//!
//! Both directions are buffered here, because a stream keeps neither frames apart nor whole. The other end is not
//! trusted: a length that no frame has ends the connection.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use hvt_abi::exchange::MAX_FRAME_LEN;
use vm_memory::VolatileSlice;

use super::net::{MIN_FRAME, Received};

/// Bytes of the length.
const PREFIX: usize = 4;
/// What one read takes at most. Twice the longest frame, so that a frame never needs more than it holds.
const INBOX: usize = 2 * (PREFIX + MAX_FRAME_LEN as usize);
/// No frame is taken for sending while so many bytes wait for the socket.
const OUTBOX_FULL: usize = 256 * 1024;

/// Both directions of a connection.
#[derive(Debug, Default)]
pub(super) struct FrameStream {
    /// What was read; `inbox[start..end]` is not yet taken. Empty until the first read.
    inbox: Vec<u8>,
    start: usize,
    end: usize,
    /// What is to be written; `outbox[written..]` is not yet.
    outbox: Vec<u8>,
    written: usize,
}

impl FrameStream {
    /// Takes a frame for sending. False when too much is waiting.
    pub(super) fn push(&mut self, frame: &VolatileSlice<'_>) -> bool {
        if self.outbox.len() - self.written >= OUTBOX_FULL {
            return false;
        }
        let Ok(len) = u32::try_from(frame.len()) else { return false };
        self.outbox.extend(len.to_be_bytes());
        let at = self.outbox.len();
        self.outbox.resize(at + frame.len(), 0);
        frame.copy_to(&mut self.outbox[at..]);
        true
    }

    /// Whether bytes wait for the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.written < self.outbox.len()
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(super) fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        while self.has_unsent() {
            let rest = &self.outbox[self.written..];
            // SAFETY: pointer and length are those of `rest`.
            let n = unsafe { libc::write(fd.as_raw_fd(), rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(n) {
                Ok(n) => self.written += n,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::WouldBlock => break,
                    error => return Err(error),
                },
            }
        }
        if self.written == self.outbox.len() {
            self.outbox.clear();
            self.written = 0;
        } else if self.written >= OUTBOX_FULL {
            self.outbox.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Whether a whole frame was read already, or a length that is refused.
    pub(super) fn is_decided(&self) -> bool {
        let waiting = self.end - self.start;
        self.next_len().is_some_and(|len| is_refused(len) || waiting - PREFIX >= len)
    }

    /// As [`FrameStream::is_decided`], reading once when it is not.
    ///
    /// # Errors
    /// When the other end is gone ([`io::ErrorKind::UnexpectedEof`]).
    pub(super) fn complete(&mut self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        if !self.is_decided() {
            self.fill(fd)?;
        }
        Ok(self.is_decided())
    }

    /// The next frame, reading at most once; `None` when there is no whole one.
    ///
    /// # Errors
    /// When the other end is gone ([`io::ErrorKind::UnexpectedEof`]) or sends what is no frame
    /// ([`io::ErrorKind::InvalidData`]).
    pub(super) fn pop(
        &mut self,
        fd: BorrowedFd<'_>,
        room: &VolatileSlice<'_>,
    ) -> io::Result<Option<Received>> {
        if !self.complete(fd)? {
            return Ok(None);
        }
        let Some(len) = self.next_len() else { return Ok(None) };
        if is_refused(len) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let at = self.start + PREFIX;
        self.start = at + len;
        let kept = len.min(room.len());
        room.copy_from(&self.inbox[at..at + kept]);
        Ok(Some(Received { len: kept, cut: kept < len, ..Received::default() }))
    }

    fn next_len(&self) -> Option<usize> {
        let prefix = self.inbox.get(self.start..self.end)?.first_chunk::<PREFIX>()?;
        usize::try_from(u32::from_be_bytes(*prefix)).ok()
    }

    /// Reads once what there is.
    fn fill(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.inbox.resize(INBOX, 0);
        self.inbox.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            // A whole frame fits, and there is none, so there is room.
            let room = &mut self.inbox[self.end..];
            // SAFETY: pointer and length are those of `room`.
            let n = unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
            match usize::try_from(n) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.end += n;
                    return Ok(());
                }
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    error => return Err(error),
                },
            }
        }
    }
}

fn is_refused(len: usize) -> bool {
    !(MIN_FRAME..=u64::from(MAX_FRAME_LEN)).contains(&(len as u64))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    fn frame(byte: u8, len: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        bytes.resize(PREFIX + len, byte);
        bytes
    }

    fn pop(stream: &mut FrameStream, fd: &UnixStream) -> io::Result<Option<(usize, u8, bool)>> {
        let mut room = [0; 2000];
        let slice = VolatileSlice::from(&mut room[..]);
        let received = stream.pop(fd.as_fd(), &slice)?;
        Ok(received.map(|received| (received.len, room[received.len - 1], received.cut)))
    }

    #[test]
    fn frames_come_out_however_the_bytes_came_in() {
        let (ours, mut theirs) = pair();
        let mut stream = FrameStream::default();
        let mut bytes = frame(1, 14);
        bytes.extend(frame(2, 1500));
        bytes.extend(frame(3, 3000));
        for byte in &bytes[..20] {
            assert_eq!(pop(&mut stream, &ours).unwrap(), None);
            theirs.write_all(&[*byte]).unwrap();
            if stream.end - stream.start == 17 {
                assert_eq!(pop(&mut stream, &ours).unwrap(), Some((14, 1, false)));
            }
        }
        theirs.write_all(&bytes[20..]).unwrap();
        assert_eq!(pop(&mut stream, &ours).unwrap(), Some((1500, 2, false)));
        assert!(stream.is_decided());
        assert_eq!(pop(&mut stream, &ours).unwrap(), Some((2000, 3, true)));
        assert_eq!(pop(&mut stream, &ours).unwrap(), None);
        drop(theirs);
        let error = pop(&mut stream, &ours).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_length_that_no_frame_has_is_an_error() {
        for len in [0, 13, MAX_FRAME_LEN + 1, u32::MAX] {
            let (ours, mut theirs) = pair();
            theirs.write_all(&len.to_be_bytes()).unwrap();
            theirs.write_all(&[7; 100]).unwrap();
            let error = pop(&mut FrameStream::default(), &ours).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{len}");
        }
    }

    #[test]
    fn what_the_socket_does_not_take_waits_in_order() {
        let (ours, mut theirs) = pair();
        let mut stream = FrameStream::default();
        let mut taken = 0_u8;
        loop {
            let mut bytes = [taken; 10_000];
            if !stream.push(&VolatileSlice::from(&mut bytes[..])) {
                break;
            }
            taken += 1;
            stream.flush(ours.as_fd()).unwrap();
        }
        assert!(stream.has_unsent() && taken > 25);
        for expected in 0..taken {
            let mut bytes = [0; PREFIX + 10_000];
            theirs.read_exact(&mut bytes).unwrap();
            assert_eq!((&bytes[..PREFIX], bytes[9999]), (&10_000_u32.to_be_bytes()[..], expected));
            stream.flush(ours.as_fd()).unwrap();
        }
        assert!(!stream.has_unsent());
    }
}

//! The console: the guest's text goes to standard output, the tender's own messages to standard error.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use vm_memory::VolatileSlice;

use super::transfer;

/// Where the guest's text goes.
#[derive(Debug)]
pub struct Console {
    out: OwnedFd,
}

impl Console {
    /// A console on this descriptor.
    #[must_use]
    pub fn new(out: OwnedFd) -> Self {
        Self { out }
    }

    /// A console on standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn stdout() -> io::Result<Self> {
        io::stdout().as_fd().try_clone_to_owned().map(Self::new)
    }

    /// Writes all of the text, waiting for a slow reader until `give_up` says otherwise; it is asked after each signal.
    /// When the reader is gone the text is lost: a guest does not die of nobody listening.
    pub fn put(&self, text: &VolatileSlice<'_>, give_up: impl Fn() -> bool) {
        let mut rest = *text;
        while !rest.is_empty() && !give_up() {
            match transfer::write_once(self.out.as_fd(), &rest) {
                Ok(0) => return,
                Ok(n) => match rest.offset(n) {
                    Ok(next) => rest = next,
                    Err(_) => return,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn wait(&self) {
        let mut poll = libc::pollfd { fd: self.out.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one pollfd is passed, and it lives through the call; no time limit and no signal mask.
        unsafe { libc::ppoll(&raw mut poll, 1, std::ptr::null(), std::ptr::null()) };
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.out.as_fd()
    }
}

/// Puts a message of the tender on standard error, as one write, so that lines of several threads stay whole.
pub fn message(text: &str) {
    let line = format!("hvt: {text}\n");
    // Nothing can be done about a standard error that takes nothing.
    _ = io::Write::write_all(&mut io::stderr().lock(), line.as_bytes());
}

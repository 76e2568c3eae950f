//! The connection to gdb: one descriptor, read and written with nothing but read(2) and write(2).

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use gdbstub::conn::ConnectionExt;

use crate::device::console::message;
use crate::shutdown;

/// A connection to gdb.
#[derive(Debug)]
pub struct Connection {
    stream: File,
    out: Vec<u8>,
    /// A byte that was looked at and not taken.
    peeked: Option<u8>,
}

impl Connection {
    /// Waits at an address until gdb connects.
    ///
    /// # Errors
    /// When the address can't be used.
    pub fn wait(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let local = listener.local_addr()?;
        message(&format!("waiting for gdb: gdb IMAGE -ex 'target remote {local}'"));
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let stream = File::from(OwnedFd::from(stream));
        shutdown::interrupt_on_input()?;
        // A byte raises SIGIO, which the machine's interrupt handler takes.
        let set = |command, value: libc::c_int| {
            // SAFETY: sets flags and owner of an open descriptor; no memory is involved.
            match unsafe { libc::fcntl(stream.as_raw_fd(), command, value) } {
                -1 => Err(io::Error::last_os_error()),
                now => Ok(now),
            }
        };
        set(libc::F_SETOWN, libc::pid_t::try_from(std::process::id()).unwrap_or(0))?;
        let flags = set(libc::F_GETFL, 0)?;
        set(libc::F_SETFL, flags | libc::O_ASYNC)?;
        Ok(Self { stream, out: Vec::new(), peeked: None })
    }

    /// The descriptor, for the sandbox.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether a byte, or the end of the connection, can be read without waiting.
    ///
    /// # Errors
    /// When the host can't tell.
    pub fn has_input(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.raw_fd(), events: libc::POLLIN, revents: 0 };
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: one pollfd and a time are passed, and both live through the call.
        match unsafe { libc::ppoll(&raw mut poll, 1, &raw const now, std::ptr::null()) } {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
            ready => Ok(ready > 0 || self.peeked.is_some()),
        }
    }
}

impl gdbstub::conn::Connection for Connection {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.out.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.stream.write_all(&self.out);
        self.out.clear();
        result
    }
}

impl ConnectionExt for Connection {
    fn read(&mut self) -> io::Result<u8> {
        if let Some(byte) = self.peeked.take() {
            return Ok(byte);
        }
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.peeked.is_none() && self.has_input()? {
            self.peeked = Some(self.read()?);
        }
        Ok(self.peeked)
    }
}

//! The connection to gdb: one descriptor, read and written with nothing but read(2), write(2) and ppoll(2).
//!
//! Whoever waits here also looks for requests to stop: nobody else does while the guest stands still.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use gdbstub::conn::ConnectionExt;

use crate::device::console::message;
use crate::shutdown::{self, Shutdown};

/// A connection to gdb.
#[derive(Debug)]
pub struct Connection {
    stream: File,
    out: Vec<u8>,
    /// A byte that was looked at and not taken.
    peeked: Option<u8>,
    /// Whether the guest understands requests to stop, so that it takes two to end it.
    understands_shutdown: bool,
}

impl Connection {
    /// Waits at an address until gdb connects.
    ///
    /// # Errors
    /// When the address can't be used; [`io::ErrorKind::Interrupted`] when a signal asks to stop: there is no guest yet
    /// that could.
    pub fn wait(address: &str, understands_shutdown: bool) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let local = listener.local_addr()?;
        message(&format!("waiting for gdb: gdb IMAGE -ex 'target remote {local}'"));
        wait_for_input(listener.as_raw_fd(), false)?;
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
        Ok(Self { stream, out: Vec::new(), peeked: None, understands_shutdown })
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
        Ok(self.peeked.is_some() || poll(&mut [watch(self.raw_fd())], Some(Duration::ZERO))?)
    }
}

fn watch(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Waits for a byte, a connection or the end of one.
///
/// # Errors
/// [`io::ErrorKind::Interrupted`] when the guest must end.
fn wait_for_input(fd: RawFd, understands_shutdown: bool) -> io::Result<()> {
    loop {
        if Shutdown::must_end(understands_shutdown).is_some() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut set = [watch(fd), watch(shutdown::wake_fd())];
        poll(&mut set, None)?;
        if set[1].revents != 0 {
            shutdown::drain_wake();
        }
        if set[0].revents != 0 {
            return Ok(());
        }
    }
}

/// Whether there was something before the time was over, or a signal came.
fn poll(set: &mut [libc::pollfd], time: Option<Duration>) -> io::Result<bool> {
    let time = time.map(|time| libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the pointer and the length are those of one slice that is borrowed for the call; the time, when there is
    // one, lives as long.
    match unsafe { libc::ppoll(set.as_mut_ptr(), set.len() as _, time, std::ptr::null()) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {
                set.iter_mut().for_each(|entry| entry.revents = 0);
                Ok(false)
            }
            error => Err(error),
        },
        ready => Ok(ready > 0),
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
        wait_for_input(self.raw_fd(), self.understands_shutdown)?;
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

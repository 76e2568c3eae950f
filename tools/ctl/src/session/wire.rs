//! Names, sockets and clocks: connecting, reading and writing until a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// When waiting ends, and how long that was from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    end: Option<Instant>,
    total: Duration,
}

impl Deadline {
    pub(crate) fn after(total: Duration) -> Self {
        // A time that the clock cannot hold is no limit.
        Self { end: Instant::now().checked_add(total), total }
    }

    /// The time that is left; `None` when it is over.
    fn left(self) -> Option<Duration> {
        let left = match self.end {
            Some(end) => end.saturating_duration_since(Instant::now()),
            None => self.total,
        };
        (!left.is_zero()).then_some(left)
    }
}

/// Opens a connection to `HOST:PORT`, trying each address of the host.
///
/// # Errors
/// No address answers in time; the failure is that of the last one.
pub(crate) fn connect(remote: &str, deadline: Deadline) -> Result<TcpStream, Failure> {
    let addresses = resolve(remote, deadline)?;
    let mut failure = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for (tried, address) in (0u32..).zip(&addresses) {
        let Some(left) = deadline.left() else { break };
        let others = u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_sub(tried);
        // An address that never answers must leave time for the next one.
        match TcpStream::connect_timeout(address, left / others.max(1)) {
            Ok(stream) => {
                // Small requests that wait for nothing; where this fails they are only slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(explain("cannot connect to", remote, &failure, deadline))
}

/// Looks the host up. The system's resolver has no time limit of its own, so it runs in a thread that is left behind
/// when it takes too long; the process ends soon after.
fn resolve(remote: &str, deadline: Deadline) -> Result<Vec<SocketAddr>, Failure> {
    if let Ok(address) = remote.parse() {
        return Ok(vec![address]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = remote.to_owned();
    thread::spawn(move || sender.send(name.to_socket_addrs().map(Iterator::collect)));
    let found: io::Result<Vec<SocketAddr>> = receiver
        .recv_timeout(deadline.left().unwrap_or_default())
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    found.map_err(|error| Failure::Unreachable {
        message: format!("cannot look up {remote}: {error}"),
        hint: Some("check the name after --remote (HOST:PORT), or use the address".to_owned()),
    })
}

/// Writes all bytes.
///
/// # Errors
/// The peer is gone or takes nothing until the deadline.
pub(crate) fn write(
    stream: &mut TcpStream,
    mut bytes: &[u8],
    remote: &str,
    deadline: Deadline,
) -> Result<(), Failure> {
    while !bytes.is_empty() {
        let written = wait(deadline, |left| {
            stream.set_write_timeout(Some(left))?;
            stream.write(bytes)
        });
        match written {
            Ok(0) => {
                return Err(explain(
                    "cannot write to",
                    remote,
                    &ErrorKind::WriteZero.into(),
                    deadline,
                ));
            }
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) => return Err(explain("cannot write to", remote, &error, deadline)),
        }
    }
    Ok(())
}

/// Reads what is there, at least one byte; 0 means that the peer has finished.
///
/// # Errors
/// The peer is gone or silent until the deadline.
pub(crate) fn read(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    remote: &str,
    deadline: Deadline,
) -> Result<usize, Failure> {
    wait(deadline, |left| {
        stream.set_read_timeout(Some(left))?;
        stream.read(buffer)
    })
    .map_err(|error| explain("no answer from", remote, &error, deadline))
}

fn wait(
    deadline: Deadline,
    mut attempt: impl FnMut(Duration) -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        let left = deadline.left().ok_or(ErrorKind::TimedOut)?;
        match attempt(left) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn explain(what: &str, remote: &str, error: &io::Error, deadline: Deadline) -> Failure {
    let (reason, hint) = match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => (
            format!("it took longer than {}", humantime::format_duration(deadline.total)),
            Some("check the address and the firewall between; --timeout allows more time"),
        ),
        ErrorKind::ConnectionRefused => (
            "connection refused".to_owned(),
            Some(
                "is the gateway running? Its control port is printed at start; --remote HOST:PORT names it",
            ),
        ),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => (
            "it closed the connection".to_owned(),
            Some("it may have stopped just now, or this is not the control port; try again"),
        ),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            (error.to_string(), Some("is this machine connected to the gateway's network?"))
        }
        _ => (error.to_string(), None),
    };
    Failure::Unreachable {
        message: format!("{what} {remote}: {reason}"),
        hint: hint.map(str::to_owned),
    }
}

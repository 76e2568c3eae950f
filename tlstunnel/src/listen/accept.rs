//! The accept loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::socket;
use crate::gateway::{Gateway, Phase};
use crate::live::{OverCap, Slot};
use crate::tcp;

/// How long accepting rests when the process or the system is out of file descriptors or memory. Long enough for
/// connections to end, short enough that a client's first retransmission still finds its place in the queue.
const REST: Duration = Duration::from_millis(50);
/// At most one log line per kind of trouble in this time; the line says how often it happened.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// How long a stopping listener goes on accepting: a round trip to a distant client. A client whose SYN was ignored
/// sends it again after a second (RFC 6298, section 2).
const SETTLE: Duration = Duration::from_millis(250);

/// Accepts until the gateway stops serving, gives each connection to `serve` in a task of its own, and counts it against
/// the total cap.
///
/// At a stop, clients that the kernel has told that they are connected are accepted still: when the socket closes it
/// would reset them. First a socket that shares its port stops taking new ones ([`socket::ignore_new_clients`]), then those
/// whose handshake is under way get [`SETTLE`] to finish it, then the queue is emptied. So a successor that shares the port
/// (SO_REUSEPORT) or inherits the socket takes over without a refused connection.
///
/// # Errors
/// When the socket cannot be used in this runtime; trouble with single connections is logged and survived.
pub(super) async fn run<F, Fut>(
    gateway: Arc<Gateway>,
    listener: std::net::TcpListener,
    serve: F,
) -> io::Result<()>
where
    F: Fn(TcpStream, SocketAddr, Slot) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut phase = gateway.phase.subscribe();
    let mut trouble = Trouble::default();
    let stop = async {
        // The guard of what was seen is let go of at once: it must not be held over an await.
        drop(phase.wait_for(|phase| *phase != Phase::Serving).await);
    };
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => {
                take(&gateway, accepted, &serve, &mut trouble).await;
            }
        }
    }
    if let Err(error) = socket::ignore_new_clients(&listener) {
        tracing::debug!(%error, "new clients cannot be left to a successor");
    }
    let settled = sleep(SETTLE);
    tokio::pin!(settled);
    loop {
        tokio::select! {
            // Accepting comes first: when time is up and nothing is left to accept, the queue is empty.
            biased;
            accepted = listener.accept() => {
                take(&gateway, accepted, &serve, &mut trouble).await;
            }
            () = &mut settled => return Ok(()),
        }
    }
}

/// Starts serving what was accepted, or survives that nothing was.
async fn take<F, Fut>(
    gateway: &Gateway,
    accepted: io::Result<(TcpStream, SocketAddr)>,
    serve: &F,
    trouble: &mut Trouble,
) where
    F: Fn(TcpStream, SocketAddr, Slot) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    match accepted {
        Ok((stream, peer)) => start(gateway, stream, peer, serve, trouble),
        Err(error) => {
            trouble.note(&error);
            if !is_about_one_connection(&error) {
                sleep(REST).await;
            }
        }
    }
}

fn start<F, Fut>(
    gateway: &Gateway,
    stream: TcpStream,
    peer: SocketAddr,
    serve: &F,
    trouble: &mut Trouble,
) where
    F: Fn(TcpStream, SocketAddr, Slot) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let slot = match gateway.live.enter() {
        Ok(slot) => slot,
        Err(over) => {
            gateway.counters.refused_over_cap.add_one();
            trouble.note_over_cap(over);
            return;
        }
    };
    tcp::tune(&stream, &gateway.limits);
    tokio::spawn(serve(stream, peer, slot));
}

/// Errors of accept(2) that belong to the connection that was about to be accepted: it died in the queue, or its network
/// did. The next one may be fine at once.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// Says what goes wrong, rarely enough that saying it is no trouble of its own.
#[derive(Debug, Default)]
struct Trouble {
    accepting: Quiet,
    over_cap: Quiet,
}

impl Trouble {
    fn note(&mut self, error: &io::Error) {
        if let Some(times) = self.accepting.due() {
            tracing::warn!(%error, times, "accepting a connection failed");
        }
    }

    fn note_over_cap(&mut self, over: OverCap) {
        if let Some(times) = self.over_cap.due() {
            tracing::warn!(reason = %over, times, "a connection was refused");
        }
    }
}

/// Lets one line through in [`LOG_EVERY`].
#[derive(Debug, Default)]
struct Quiet {
    last_line: Option<Instant>,
    since: u64,
}

impl Quiet {
    /// How often it has happened since the last line, if it is time for the next.
    fn due(&mut self) -> Option<u64> {
        self.since += 1;
        let now = Instant::now();
        if self.last_line.is_some_and(|last| now - last < LOG_EVERY) {
            return None;
        }
        self.last_line = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

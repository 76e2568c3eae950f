//! Copies bytes both ways between a client and a backend until both are done.
//!
//! It must not know names, routes or certificates: two byte streams, limits and counters come in, an [`Outcome`] comes
//! out. Each direction ends by itself, so half-close is preserved in every order.

pub(crate) mod pool;
mod socket;

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::backend::BackendConnection;
use crate::counters::Counter;
use crate::gateway::Phase;
use crate::limits::Limits;

pub use socket::Socket;

/// The counters that a connection's bytes are added to while it lives: its own, its route's, the gateway's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meters<'a> {
    /// Bytes from the client to the backend.
    pub bytes_in: &'a [&'a Counter],
    /// Bytes from the backend to the client.
    pub bytes_out: &'a [&'a Counter],
}

/// How a forwarded connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes from the client that the backend's stream accepted.
    pub bytes_in: u64,
    /// Bytes from the backend that the client's stream accepted.
    pub bytes_out: u64,
    /// What ended it.
    pub ended: Ended,
}

/// What ended a forwarded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both directions ended in order, the client's first.
    ClosedByClient,
    /// Both directions ended in order, the backend's first.
    ClosedByBackend,
    /// No byte moved for [`Limits::idle`].
    IdleLimit,
    /// One direction had ended and no byte moved for [`Limits::half_closed`].
    HalfClosedLimit,
    /// The client's stream failed; `UnexpectedEof` is a TLS client that left without close_notify.
    ClientError(io::ErrorKind),
    /// The backend's stream failed.
    BackendError(io::ErrorKind),
    /// The gateway stopped and the time for draining was over.
    Drained,
}

/// Copies both ways until both directions have ended, something failed, a limit passed or the gateway ended.
///
/// `client` is a [`Socket`] (passthrough; its replayed bytes go first) or a TLS stream over one.
pub async fn forward<C>(
    client: C,
    backend: BackendConnection,
    limits: &Limits,
    meters: Meters<'_>,
    phase: watch::Receiver<Phase>,
) -> Outcome
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let _ = (client, backend, limits, meters, phase);
    todo!()
}

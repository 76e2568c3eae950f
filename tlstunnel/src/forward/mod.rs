//! Copies bytes both ways between a client and a backend until both are done.
//!
//! It must not know names, routes or certificates: two byte streams, limits and counters come in, an [`Outcome`] comes
//! out. Each direction ends by itself, so half-close is preserved in every order: FIN or close_notify of one side
//! becomes FIN or close_notify to the other, and the opposite direction goes on.
//!
//! # What is not an orderly end
//!
//! A backend must never take a stream for complete that was cut. When the client's stream fails, the backend gets RST
//! after everything that had arrived. A TLS client that leaves without close_notify is such a failure: TCP's FIN is not
//! authenticated, anybody on the way can send it (RFC 8446, section 6.1). Clients that are merely sloppy lose nothing
//! by it: what they sent has been delivered, and a backend that speaks HTTP knows from the message's framing whether it
//! has all of it.
//!
//! When the backend's stream fails, the client gets all that the backend sent, then FIN without close_notify. When the
//! backend only stops reading (an early HTTP answer to a large upload), its answer still goes to the client; the
//! client's bytes are thrown away meanwhile, since closing with unread bytes makes the kernel send RST, which
//! can destroy the answer on its way.

mod direction;
mod pool;
mod session;
mod socket;

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use crate::backend::BackendConnection;
use crate::counters::Counter;
use crate::gateway::Phase;
use crate::limits::Limits;

pub use session::LINGER;
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
    /// Both directions ended in order, the backend's first; also when the client then left without close_notify.
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

/// A client's stream: a [`Socket`] in passthrough, or TLS over one.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// The TCP stream below.
    fn socket(&self) -> &Socket;
}

impl ClientStream for Socket {
    fn socket(&self) -> &Socket {
        self
    }
}

impl ClientStream for TlsStream<Socket> {
    fn socket(&self) -> &Socket {
        self.get_ref().0
    }
}

/// Copies both ways until both directions have ended, something failed, a limit passed or the gateway ended
/// ([`Phase::Ended`], or `phase`'s sender is gone).
///
/// In passthrough `client` is a [`Socket`] whose replayed bytes, the ClientHello, go first.
pub async fn forward<C: ClientStream>(
    client: C,
    backend: BackendConnection,
    limits: &Limits,
    meters: Meters<'_>,
    phase: watch::Receiver<Phase>,
) -> Outcome {
    session::Session::new(client, backend, limits, meters).run(phase).await
}

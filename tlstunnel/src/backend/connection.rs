//! One connection to a backend, and what the backend is told about the client.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::state::{Backend, OpenGuard};
use crate::forward::Socket;

/// What the gateway knows about a client when it connects to a backend.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client's address, from the socket or from a trusted PROXY header.
    pub peer: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The server name of its ClientHello, lower case, without final dot.
    pub server_name: Option<Arc<str>>,
    /// What was negotiated with it; absent in passthrough.
    pub tls: Option<TlsInfo>,
}

/// What was negotiated with a client whose TLS the gateway terminates.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// As OpenSSL and the PROXY protocol write it: `TLSv1.3`, `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite's name, for example `TLS13_AES_128_GCM_SHA256`.
    pub cipher: String,
    /// The ALPN protocol, if one was negotiated.
    pub alpn: Option<Vec<u8>>,
    /// Whether the client showed a certificate that was verified.
    pub client_certificate: bool,
}

/// An open connection to a backend. While it lives it counts in the backend's open connections.
#[derive(Debug)]
pub struct BackendConnection {
    /// The stream; a PROXY header has been written already.
    pub stream: BackendStream,
    /// The address that was connected to.
    pub address: SocketAddr,
    pub(super) open: OpenGuard,
}

impl BackendConnection {
    /// The backend, as configured.
    pub fn backend(&self) -> &Arc<Backend> {
        self.open.backend()
    }
}

/// The stream to a backend.
#[derive(Debug)]
pub enum BackendStream {
    /// Plain TCP.
    Tcp(Socket),
    /// TLS of the gateway's own (mode re-encrypt).
    Tls(Box<TlsStream<Socket>>),
}

impl BackendStream {
    /// Makes the coming close abortive: the backend gets RST and cannot take the stream for complete.
    pub fn abort_on_drop(&self) {
        match self {
            Self::Tcp(socket) => socket.abort_on_drop(),
            Self::Tls(stream) => stream.get_ref().0.abort_on_drop(),
        }
    }
}

/// Why no backend could be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The route has no backends (mode reject).
    #[error("the route has no backends")]
    NoBackends,
    /// Every backend that the time allowed was tried.
    #[error("no backend could be reached: {}", list(attempts))]
    AllFailed {
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
}

/// One backend that was tried in vain.
#[derive(Debug)]
pub struct Attempt {
    /// The backend, as configured.
    pub backend: String,
    /// Why it failed.
    pub error: String,
}

fn list(attempts: &[Attempt]) -> String {
    let lines: Vec<String> =
        attempts.iter().map(|attempt| format!("{}: {}", attempt.backend, attempt.error)).collect();
    lines.join("; ")
}

/// Delegates one poll method to the stream inside.
macro_rules! inner {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            BackendStream::Tcp(inner) => {
                let $stream = Pin::new(inner);
                $call
            }
            BackendStream::Tls(inner) => {
                let $stream = Pin::new(inner.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for BackendStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_shutdown(cx))
    }
}

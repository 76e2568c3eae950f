//! A client's or backend's TCP stream as TLS and the copying loop want it.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::pool;

/// Bytes that one read asks the kernel for: four TLS records of full size.
const READ_AHEAD: usize = 64 * 1024;

/// A reader that offers this much space is served by the stream itself.
const DIRECT_READ: usize = 8 * 1024;

/// A TCP stream that first replays bytes which were read before (a ClientHello), and that reads in large pieces.
///
/// rustls asks for 4 KiB at a time; over the plain stream a record of 16 KiB would cost five system calls. This reads up
/// to 64 KiB ahead into a buffer of the thread's pool and holds one only while it has unread bytes.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// The unread bytes are `ahead[start..end]`; without any, the buffer is empty.
    ahead: Vec<u8>,
    start: usize,
    end: usize,
}

impl Socket {
    /// A socket whose reader gets `replay` first, then what the stream brings.
    pub fn new(stream: TcpStream, replay: Vec<u8>) -> Self {
        Self { stream, start: 0, end: replay.len(), ahead: replay }
    }

    /// The stream below, for its addresses and options. Reading from it would lose order.
    pub fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// Makes the close of this socket abortive: the peer gets RST instead of FIN and cannot take the stream for
    /// complete. Where the system has no such option the close stays an ordinary one.
    pub fn abort_on_drop(&self) {
        if let Err(error) = self.stream.set_zero_linger() {
            tracing::debug!(%error, "abortive close is not available");
        }
    }

    /// Sends FIN, below any TLS: a TLS peer that got no close_notify before knows that the stream was cut.
    pub(super) fn send_fin(&self) {
        if let Err(error) = socket2::SockRef::from(&self.stream).shutdown(Shutdown::Write) {
            tracing::debug!(%error, "the peer is gone already");
        }
    }

    /// Hands unread bytes to `buf`, and lets go of the buffer after the last one.
    fn serve_ahead(&mut self, buf: &mut ReadBuf<'_>) {
        let unread = &self.ahead[self.start..self.end];
        let n = unread.len().min(buf.remaining());
        buf.put_slice(&unread[..n]);
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            let buffer = std::mem::take(&mut self.ahead);
            if buffer.len() == READ_AHEAD {
                pool::give_back(buffer);
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start < this.end {
            this.serve_ahead(buf);
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= DIRECT_READ {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let mut ahead = pool::take(READ_AHEAD);
        let mut read = ReadBuf::new(&mut ahead);
        let result = Pin::new(&mut this.stream).poll_read(cx, &mut read);
        let filled = read.filled().len();
        if filled == 0 {
            pool::give_back(ahead);
            return result;
        }
        (this.ahead, this.start, this.end) = (ahead, 0, filled);
        this.serve_ahead(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

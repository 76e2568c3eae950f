//! A client's connection: gives up when nothing moves, and replays what was read to find out which HTTP it speaks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How an HTTP/2 connection begins (RFC 9113 section 3.4). No HTTP/1 request begins with its first four bytes.
const PREFACE: &[u8] = b"PRI ";

/// Which HTTP a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// A connection on which something must move from time to time.
#[derive(Debug)]
pub(super) struct Stream<S> {
    socket: S,
    replay: Vec<u8>,
    idle_time: Duration,
    idle: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + Unpin> Stream<S> {
    /// A connection of which it is known already what the client speaks.
    pub(super) fn new(socket: S, idle_time: Duration) -> Self {
        Self { socket, replay: Vec::new(), idle_time, idle: Box::pin(sleep(idle_time)) }
    }

    /// Reads just enough to know what the client speaks. `None` when it leaves, or says nothing for `wait`.
    pub(super) async fn open(
        mut socket: S,
        wait: Duration,
        idle_time: Duration,
    ) -> Option<(Protocol, Self)> {
        let mut read = [0; PREFACE.len()];
        let mut length = 0;
        let first_bytes = async {
            while PREFACE.starts_with(&read[..length]) && length < read.len() {
                match socket.read(&mut read[length..]).await {
                    Ok(0) | Err(_) => return None,
                    Ok(more) => length += more,
                }
            }
            Some(())
        };
        tokio::time::timeout(wait, first_bytes).await.ok()??;
        let replay = read[..length].to_vec();
        let protocol = if replay == PREFACE { Protocol::Http2 } else { Protocol::Http1 };
        Some((protocol, Self { replay, ..Self::new(socket, idle_time) }))
    }
}

impl<S> Stream<S> {
    /// Starts the clock anew when something moved; ends the connection when nothing has for too long.
    fn watch<T>(
        &mut self,
        moved: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            let deadline = Instant::now() + self.idle_time;
            self.idle.as_mut().reset(deadline);
            return moved;
        }
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.replay.is_empty() {
            let length = self.replay.len().min(buffer.remaining());
            buffer.put_slice(&self.replay[..length]);
            self.replay.drain(..length);
            return Poll::Ready(Ok(()));
        }
        let moved = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.watch(moved, cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.socket).poll_write(cx, data);
        self.watch(moved, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.socket).poll_write_vectored(cx, data);
        self.watch(moved, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

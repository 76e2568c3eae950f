//! A client's connection: gives up when nothing moves, and replays what was read to find out which HTTP it speaks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
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

/// Bytes that are gathered before they are written.
const GATHERED: usize = 32 << 10;

/// A connection on which something must move from time to time.
///
/// With HTTP/2 it gathers what is written: the frames of all answers that are ready leave together, in one TLS record and
/// one call of the system where they fit. Flushing only asks for that: the connection's task is woken, and what it does
/// first when it runs again, behind the tasks of other answers, is to read.
#[derive(Debug)]
pub(super) struct Stream<S> {
    socket: S,
    replay: Vec<u8>,
    idle_time: Duration,
    idle: Pin<Box<Sleep>>,
    moved: Instant,
    gather: bool,
    gathered: Vec<u8>,
    written: usize,
    /// Whether the socket may hold what it has not sent.
    flushing: bool,
}

impl<S: AsyncRead + Unpin> Stream<S> {
    /// A connection of which it is known already what the client speaks.
    pub(super) fn new(socket: S, protocol: Protocol, idle_time: Duration) -> Self {
        Self {
            socket,
            replay: Vec::new(),
            idle_time,
            idle: Box::pin(sleep(idle_time)),
            moved: Instant::now(),
            gather: protocol == Protocol::Http2,
            gathered: Vec::new(),
            written: 0,
            flushing: false,
        }
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
        Some((protocol, Self { replay, ..Self::new(socket, protocol, idle_time) }))
    }
}

impl<S> Stream<S> {
    /// Notes that something moved; ends the connection when nothing has for too long. The clock is set anew only when
    /// it rings: most of the time something has moved by then.
    fn watch<T>(
        &mut self,
        moved: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.moved = Instant::now();
            return moved;
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            let deadline = self.moved + self.idle_time;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.idle.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    /// Writes everything that was gathered.
    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let rest = self.gathered.get(self.written..).unwrap_or_default();
            let wrote = Pin::new(&mut self.socket).poll_write(cx, rest);
            match ready!(self.watch(wrote, cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => self.written += more,
            }
            self.flushing = true;
        }
        // A connection that is silent holds no buffer.
        self.gathered = Vec::new();
        self.written = 0;
        if self.flushing {
            let flushed = Pin::new(&mut self.socket).poll_flush(cx);
            ready!(self.watch(flushed, cx))?;
            self.flushing = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Gathers `length` bytes that `append` adds, when there is room for them.
    fn gather(
        &mut self,
        length: usize,
        cx: &mut Context<'_>,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Poll<io::Result<bool>> {
        if self.gathered.len() + length > GATHERED {
            ready!(self.write_out(cx))?;
            if length > GATHERED {
                return Poll::Ready(Ok(false));
            }
        }
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(GATHERED);
        }
        append(&mut self.gathered);
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if (!self.gathered.is_empty() || self.flushing)
            && let Poll::Ready(Err(error)) = self.write_out(cx)
        {
            return Poll::Ready(Err(error));
        }
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
        if self.gather
            && ready!(self.gather(data.len(), cx, |gathered| gathered.extend_from_slice(data)))?
        {
            return Poll::Ready(Ok(data.len()));
        }
        let moved = Pin::new(&mut self.socket).poll_write(cx, data);
        self.watch(moved, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gather {
            let length = data.iter().map(|part| part.len()).sum();
            let append = |gathered: &mut Vec<u8>| {
                for part in data {
                    gathered.extend_from_slice(part);
                }
            };
            if ready!(self.gather(length, cx, append))? {
                return Poll::Ready(Ok(length));
            }
        }
        let moved = Pin::new(&mut self.socket).poll_write_vectored(cx, data);
        self.watch(moved, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.gather || self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gather && !self.gathered.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_is_gathered_leaves_in_order_and_whole() {
        let (near, mut far) = duplex(1000);
        let mut stream = Stream::new(near, Protocol::Http2, TIME);
        let text: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
        let wanted = text.clone();
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            assert!(got == wanted);
        });
        let mut rest = &text[..];
        for length in (1..).map(|turn| turn * 7919 % 50_000) {
            let (piece, tail) = rest.split_at(length.min(rest.len()));
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        stream.shutdown().await.unwrap();
        drop(stream);
        reader.await.unwrap();
    }

    #[tokio::test]
    async fn flushed_bytes_leave_with_the_next_look_for_input() {
        let (near, mut far) = duplex(1000);
        let mut stream = Stream::new(near, Protocol::Http2, TIME);
        stream.write_all(b"one ").await.unwrap();
        stream.write_all(b"two").await.unwrap();
        stream.flush().await.unwrap();
        let mut byte = [0];
        let pending = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut byte);
            Poll::Ready(Pin::new(&mut stream).poll_read(cx, &mut buffer).is_pending())
        });
        assert!(pending.await);
        let mut got = [0; 7];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one two");
        assert_eq!(stream.gathered.capacity(), 0, "no buffer while nothing is said");
    }

    #[tokio::test]
    async fn silence_and_a_client_that_does_not_read_end_the_connection() {
        let time = Duration::from_millis(50);
        let (near, _far) = duplex(10);
        let mut stream = Stream::new(near, Protocol::Http1, time);
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (near, _far) = duplex(10);
        let mut stream = Stream::new(near, Protocol::Http2, time);
        stream.write_all(&[0; 100]).await.unwrap();
        let begin = Instant::now();
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= time, "{:?}", begin.elapsed());
    }
}

//! One direction of a forwarded connection: reads from one stream, writes to the other, hands on the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pool;
use crate::counters::Counter;

/// Buffers that one poll moves before the other direction and other connections get their turn.
const ROUNDS_PER_POLL: usize = 16;

/// One direction, with the bytes that were read and not written yet.
#[derive(Debug)]
pub(super) struct Direction<'a> {
    meters: &'a [&'a Counter],
    buffer_len: usize,
    /// The unwritten bytes are `buffer[start..end]`; without any, the buffer is with the pool.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    needs_flush: bool,
    source: Source,
    moved: u64,
}

/// What the reading side has said.
#[derive(Debug)]
enum Source {
    Open,
    /// It ended in order.
    Ended,
    /// It failed; what came before is written first.
    Failed(io::Error),
    /// The end has been handed on.
    Done,
}

/// Why a direction stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The end of the stream was handed on to the other side.
    Ended,
    /// Reading failed; everything that came before was written and flushed.
    ReadFailed(io::Error),
    /// Writing failed.
    WriteFailed(io::Error),
}

impl<'a> Direction<'a> {
    pub(super) fn new(buffer_len: usize, meters: &'a [&'a Counter]) -> Self {
        Self {
            meters,
            buffer_len,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            needs_flush: false,
            source: Source::Open,
            moved: 0,
        }
    }

    /// Bytes written to the other side.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Moves what can be moved. Must not be polled again after it has stopped.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Stop>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS_PER_POLL {
            let starved = self.poll_fill(cx, reader);
            match self.poll_drain(cx, writer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(self.stop(Stop::WriteFailed(error))),
                Poll::Pending => return Poll::Pending,
            }
            let ended = match &self.source {
                Source::Open if !starved => continue,
                Source::Open | Source::Failed(_) => {
                    self.needs_flush.then(|| Pin::new(&mut *writer).poll_flush(cx))
                }
                Source::Ended => Some(poll_shutdown(cx, writer)),
                Source::Done => None,
            };
            self.release();
            if let Some(ended) = ended {
                if let Err(error) = ready!(ended) {
                    return Poll::Ready(self.stop(Stop::WriteFailed(error)));
                }
                self.needs_flush = false;
            }
            return match std::mem::replace(&mut self.source, Source::Done) {
                Source::Open => {
                    self.source = Source::Open;
                    Poll::Pending
                }
                Source::Failed(error) => Poll::Ready(Stop::ReadFailed(error)),
                Source::Ended | Source::Done => Poll::Ready(Stop::Ended),
            };
        }
        self.release();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads until the buffer is full or nothing more is there; true in the latter case. Filling first makes large
    /// writes out of small records.
    fn poll_fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, reader: &mut R) -> bool {
        while matches!(self.source, Source::Open) {
            if self.buffer.is_empty() {
                self.buffer = pool::take(self.buffer_len);
            }
            if self.end == self.buffer.len() {
                return false;
            }
            let mut space = ReadBuf::new(&mut self.buffer[self.end..]);
            match Pin::new(&mut *reader).poll_read(cx, &mut space) {
                Poll::Pending => return true,
                Poll::Ready(Ok(())) => match space.filled().len() {
                    0 => self.source = Source::Ended,
                    n => self.end += n,
                },
                Poll::Ready(Err(error)) => self.source = Source::Failed(error),
            }
        }
        true
    }

    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.start < self.end {
            let unwritten = &self.buffer[self.start..self.end];
            let n = ready!(Pin::new(&mut *writer).poll_write(cx, unwritten))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += n;
            self.needs_flush = true;
            let n = u64::try_from(n).unwrap_or(u64::MAX);
            self.moved += n;
            self.meters.iter().for_each(|meter| meter.add(n));
        }
        (self.start, self.end) = (0, 0);
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer back to the pool if it holds nothing.
    fn release(&mut self) {
        if self.start == self.end && !self.buffer.is_empty() {
            pool::give_back(std::mem::take(&mut self.buffer));
        }
    }

    fn stop(&mut self, stop: Stop) -> Stop {
        self.source = Source::Done;
        (self.start, self.end) = (0, 0);
        self.release();
        stop
    }
}

/// Ends the writing side. A peer that has closed both sides already needs no end.
fn poll_shutdown<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    writer: &mut W,
) -> Poll<io::Result<()>> {
    match ready!(Pin::new(writer).poll_shutdown(cx)) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        result => Poll::Ready(result),
    }
}

/// Reads and throws away, so that the peer can finish writing and come to read what it was sent. Ready when the stream
/// has ended or failed.
pub(super) fn poll_discard<R: AsyncRead + Unpin>(cx: &mut Context<'_>, reader: &mut R) -> Poll<()> {
    let mut scratch = [0; 8 * 1024];
    for _ in 0..ROUNDS_PER_POLL {
        let mut space = ReadBuf::new(&mut scratch);
        match ready!(Pin::new(&mut *reader).poll_read(cx, &mut space)) {
            Ok(()) if !space.filled().is_empty() => {}
            _ => return Poll::Ready(()),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_buffer_is_held_only_while_the_writer_is_held_up() {
        let (mut source, mut reader) = tokio::io::duplex(1024);
        let (mut writer, mut sink) = tokio::io::duplex(10);
        let mut cx = Context::from_waker(Waker::noop());
        let mut direction = Direction::new(4096, &[]);

        assert!(direction.poll(&mut cx, &mut reader, &mut writer).is_pending());
        assert!(direction.buffer.is_empty(), "nothing was there to read");

        source.write_all(&[7; 25]).await.unwrap();
        assert!(direction.poll(&mut cx, &mut reader, &mut writer).is_pending());
        assert_eq!((direction.moved(), direction.end - direction.start), (10, 15));

        let mut received = [0; 10];
        for (read, held) in [(10, 5), (10, 0)] {
            sink.read_exact(&mut received[..read]).await.unwrap();
            assert!(direction.poll(&mut cx, &mut reader, &mut writer).is_pending());
            assert_eq!(direction.end - direction.start, held);
        }
        assert!(direction.buffer.is_empty(), "everything was written");
        assert_eq!(direction.moved(), 25);
    }
}

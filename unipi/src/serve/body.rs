//! The body of an answer: chunks that lie in memory already, so that nothing is copied on the way to the socket.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::UnboundedReceiver;

/// Bytes to send. One chunk, as nearly every answer has, costs no allocation.
#[derive(Debug, Default)]
pub struct Chunks {
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    left: u64,
    /// What is not known yet, if there will be any.
    to_come: Option<UnboundedReceiver<Bytes>>,
}

impl Chunks {
    /// The bytes of all `chunks`, in their order.
    pub fn new(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let mut chunks = chunks.into_iter().filter(|chunk| !chunk.is_empty());
        let first = chunks.next();
        let more: VecDeque<Bytes> = chunks.collect();
        let left = first.iter().chain(&more).map(|chunk| chunk.len() as u64).sum();
        Self { first, more, left, to_come: None }
    }

    /// Bytes that come one by one, until nobody can send any more. Whoever sends must be brief: all that the client has
    /// not read yet is held.
    pub(crate) fn in_pieces(pieces: UnboundedReceiver<Bytes>) -> Self {
        Self { to_come: Some(pieces), ..Self::default() }
    }

    /// How many bytes are left to send, of those that are known.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl<B: Into<Bytes>> From<B> for Chunks {
    fn from(bytes: B) -> Self {
        Self::new([bytes.into()])
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pieces) = &mut self.to_come {
            return pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))));
        }
        let chunk = self.first.take().or_else(|| self.more.pop_front());
        self.left -= chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.to_come.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.to_come {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.left),
        }
    }
}

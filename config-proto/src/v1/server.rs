//! The server's side of v1: bytes of one client in, its one request out, and the bytes of the reply.

use super::message::{NOT_AUTHENTICATED, UNDECODABLE};
use super::{BadFrame, DerError, MAX_REQUEST_BYTES, Reply, Request, collect, frame};
use crate::buffer::Buffer;
use crate::mac::{self, TAG_LEN};

/// Collects the request of one connection.
#[derive(Debug)]
pub struct Decoder {
    buffer: Buffer,
    max: usize,
}

/// Why a connection is refused. [`Refused::reply`] says what to answer before closing; [`Refused::as_str`] names the
/// reason in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A request is announced with more bytes than allowed.
    #[error("a request of {0} bytes is announced, which is more than allowed")]
    TooLong(u64),
    /// The request has no room for a tag, or bytes follow it.
    #[error("the request does not have the protocol's form")]
    Malformed,
    /// The tag does not hold.
    #[error("authentication failure")]
    BadTag,
    /// The tag holds, and the DER is no request.
    #[error("the request is not understood: {0}")]
    Undecodable(DerError),
    /// The stream ended inside the request.
    #[error("the stream ended too early")]
    Truncated,
}

impl Decoder {
    /// For requests of at most [`MAX_REQUEST_BYTES`].
    pub fn new() -> Self {
        Self::with_max(MAX_REQUEST_BYTES)
    }

    /// For requests of at most `max` bytes after the length.
    pub fn with_max(max: usize) -> Self {
        Self { buffer: Buffer::default(), max }
    }

    /// Takes bytes from the client, any number of them, and returns the request once it is whole and `key` made its tag.
    /// The key is the bytes of the text that both sides were given, not what base64 makes of them.
    ///
    /// # Errors
    /// The connection is over: answer [`Refused::reply`] if there is one, and close.
    pub fn feed(&mut self, input: &[u8], key: &[u8]) -> Result<Option<Request>, Refused> {
        let content = match collect(&mut self.buffer, input, self.max) {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(None),
            Err(BadFrame::TooLong(length)) => return Err(Refused::TooLong(length)),
            Err(BadFrame::Trailing) => return Err(Refused::Malformed),
        };
        let (tag, der) = content.split_at_checked(TAG_LEN).ok_or(Refused::Malformed)?;
        if !mac::verify(key, &[der], tag) {
            return Err(Refused::BadTag);
        }
        Request::decode(der).map(Some).map_err(Refused::Undecodable)
    }

    /// The client has ended its stream before there was a request.
    ///
    /// # Errors
    /// [`Refused::Truncated`] when part of one had come.
    pub fn end(&self) -> Result<(), Refused> {
        if self.buffer.is_empty() { Ok(()) } else { Err(Refused::Truncated) }
    }

    /// Bytes of memory that this connection's unfinished input holds.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Refused {
    /// The reason as one word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong(_) => "too_long",
            Self::Malformed => "malformed",
            Self::BadTag => "bad_tag",
            Self::Undecodable(_) => "undecodable",
            Self::Truncated => "truncated",
        }
    }

    /// What the original answers in this case; nothing to what is not even a frame.
    pub fn reply(self) -> Option<Reply> {
        let exit = match self {
            Self::BadTag => NOT_AUTHENTICATED,
            Self::Undecodable(_) => UNDECODABLE,
            Self::TooLong(_) | Self::Malformed | Self::Truncated => return None,
        };
        Some(Reply::Result { exit, message: self.to_string() })
    }
}

/// The bytes of a reply; the connection is closed after them.
pub fn reply(reply: &Reply) -> Vec<u8> {
    frame(&[&reply.encode()])
}

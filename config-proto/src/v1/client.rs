//! The client's side of v1: the bytes of its one request, and the reply out of the server's bytes.
//!
//! Nothing proves that a reply comes from the server.

use super::{BadFrame, DerError, MAX_REPLY_BYTES, Reply, Request, collect, frame};
use crate::buffer::Buffer;
use crate::mac;

/// Collects the reply of one connection.
#[derive(Debug)]
pub struct Decoder {
    buffer: Buffer,
    max: usize,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A reply is announced with more bytes than allowed.
    #[error("the server announced a reply of {0} bytes, which is more than allowed")]
    TooLong(u64),
    /// The reply is not one.
    #[error("the server's reply is not understood: {0}")]
    Undecodable(DerError),
    /// The stream ended before the reply was whole.
    #[error("the server closed the connection before it answered")]
    Truncated,
}

/// The bytes of a request. The key is the bytes of the text that both sides were given.
pub fn request(request: &Request, key: &[u8]) -> Vec<u8> {
    let der = request.encode();
    frame(&[&mac::tag(key, &[&der]), &der])
}

impl Decoder {
    /// For replies of at most [`MAX_REPLY_BYTES`].
    pub fn new() -> Self {
        Self::with_max(MAX_REPLY_BYTES)
    }

    /// For replies of at most `max` bytes after the length.
    pub fn with_max(max: usize) -> Self {
        Self { buffer: Buffer::default(), max }
    }

    /// Takes bytes from the server, any number of them, and returns the reply once it is whole.
    ///
    /// # Errors
    /// The connection is over.
    pub fn feed(&mut self, input: &[u8]) -> Result<Option<Reply>, ReplyError> {
        match collect(&mut self.buffer, input, self.max) {
            Ok(Some(der)) => Reply::decode(&der).map(Some).map_err(ReplyError::Undecodable),
            Ok(None) => Ok(None),
            Err(BadFrame::TooLong(length)) => Err(ReplyError::TooLong(length)),
            Err(BadFrame::Trailing) => Err(ReplyError::Undecodable(DerError::Trailing)),
        }
    }

    /// The server has ended its stream before there was a reply.
    pub const fn end(&self) -> ReplyError {
        ReplyError::Truncated
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

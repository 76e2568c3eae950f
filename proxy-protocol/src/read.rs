//! Reads exactly one PROXY header from a stream.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{Addresses, MalformedHeader, Parsed, parse};

/// Why no header could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadHeaderError {
    /// The bytes are no header.
    #[error(transparent)]
    Malformed(#[from] MalformedHeader),
    /// The stream failed or ended within the header.
    #[error("the connection failed within its PROXY protocol header: {0}")]
    Stream(#[from] io::Error),
}

/// Reads the header that a proxy sends before its client's stream, and not a byte more.
///
/// The parser says how many bytes a header has more at least, and exactly those are read. So nothing has to be given
/// back, and an ordinary stream can follow. (Peeking would see bytes before they are complete and turn in circles.) The
/// bytes held are bounded by [`crate::MAX_V1_LEN`] and [`crate::MAX_V2_LEN`].
///
/// `None`: the connection is the proxy's own, or the proxy does not tell. The caller sets the time limit.
///
/// # Errors
/// [`ReadHeaderError`]; bytes may have been read then, and the connection is of no further use.
pub async fn read_header<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<Option<Addresses>, ReadHeaderError> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes)? {
            Parsed::Complete { addresses, .. } => return Ok(addresses),
            Parsed::Incomplete { missing } => {
                // Piece by piece, so that bytes which are no header are refused at once.
                let mut piece = (&mut *stream).take(u64::try_from(missing).unwrap_or(u64::MAX));
                if piece.read_buf(&mut bytes).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
}

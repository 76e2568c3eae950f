//! Protocol v1, the original's, byte for byte: one request and one reply per connection.
//!
//! ```text
//! request: length (8) | HMAC-SHA256 tag (32) | DER        reply: length (8) | DER
//! ```
//!
//! The length is big-endian and counts what follows it. A request can be recorded and sent again by anyone, and replies
//! are not authenticated at all: that is the protocol, and why a gateway speaks it only when asked to. What can be done
//! better without changing a byte is done: requests may arrive in any pieces, lengths are bounded, and tags are compared
//! in constant time.
//!
//! [`message`] is what is said, [`server`] and [`client`] are the two sides, [`store`] is the list of names as the
//! original keeps it on its block device, and `der` is the part of DER (ITU-T X.690) that all of them need.

use std::time::Duration;

use crate::buffer::Buffer;

pub mod client;
mod der;
pub mod message;
pub mod server;
pub mod store;

pub use der::DerError;
pub use message::{Reply, Request, Sni};

/// The longest request in bytes that a server accepts, after the length; `add` with the longest name needs about 330.
pub const MAX_REQUEST_BYTES: usize = 4096;
/// The longest reply in bytes that a client accepts, after the length: about 20,000 names.
pub const MAX_REPLY_BYTES: usize = 1 << 20;
/// The time from the start of a connection to the last byte of the request; the caller holds the clock.
pub const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The bytes of a frame's length field.
const LENGTH_LEN: usize = 8;

/// A frame could not be taken out of a stream.
enum BadFrame {
    /// The announced length, which is above the bound.
    TooLong(u64),
    /// Bytes follow the only frame that a side sends.
    Trailing,
}

/// Takes `input` in and returns what follows the length once it is whole.
fn collect(buffer: &mut Buffer, mut input: &[u8], max: usize) -> Result<Option<Vec<u8>>, BadFrame> {
    loop {
        let held = buffer.as_slice();
        let wanted = match held.get(..LENGTH_LEN).map(<[u8; LENGTH_LEN]>::try_from) {
            Some(Ok(length)) => match u64::from_be_bytes(length) {
                length if length > max as u64 => return Err(BadFrame::TooLong(length)),
                length => usize::try_from(length).unwrap_or(max) + LENGTH_LEN,
            },
            _ => LENGTH_LEN,
        };
        if held.len() == wanted {
            return match input {
                [] => Ok(Some(buffer.take().split_off(LENGTH_LEN))),
                _ => Err(BadFrame::Trailing),
            };
        }
        if input.is_empty() {
            return Ok(None);
        }
        buffer.fill(&mut input, wanted);
    }
}

/// Writes a length and the parts that it counts.
fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [&(content.len() as u64).to_be_bytes(), content.as_slice()].concat()
}

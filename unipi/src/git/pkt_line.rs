//! Packet lines (gitprotocol-common): how everything but the pack is framed, and the pack's side-bands too.

use bytes::{Buf, Bytes, BytesMut};
use gix_packetline::PacketLineRef;
use gix_packetline::decode::{Stream, streaming};

/// The largest packet line, its length prefix included.
pub const MAX_LINE: usize = 65520;

/// A flush packet: the end of a message.
pub const FLUSH: &[u8] = b"0000";

/// A delimiter packet: the end of a section of a message.
pub const DELIMITER: &[u8] = b"0001";

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A line. It may end in a line feed.
    Data(Bytes),
    /// The end of a message.
    Flush,
    /// The end of a section.
    Delimiter,
    /// The end of a response, in stateless connections.
    ResponseEnd,
}

/// Bytes that are no packet line: its length prefix is not hexadecimal, or is too large or too small.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("a packet line has an invalid length")]
pub struct BadLength;

/// Takes the first packet out of `buffer`. `None`: its end has not arrived yet.
///
/// # Errors
///
/// [`BadLength`]; there is no way to find the next packet then.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Packet>, BadLength> {
    let (packet, consumed) = match streaming(buffer) {
        Ok(Stream::Complete { line, bytes_consumed }) => (
            match line {
                PacketLineRef::Data(_) => None,
                PacketLineRef::Flush => Some(Packet::Flush),
                PacketLineRef::Delimiter => Some(Packet::Delimiter),
                PacketLineRef::ResponseEnd => Some(Packet::ResponseEnd),
            },
            bytes_consumed,
        ),
        Ok(Stream::Incomplete { .. }) => return Ok(None),
        Err(_) => return Err(BadLength),
    };
    let mut line = buffer.split_to(consumed);
    Ok(Some(packet.unwrap_or_else(|| {
        line.advance(4);
        Packet::Data(line.freeze())
    })))
}

/// Appends a line. It must be shorter than [`MAX_LINE`] less 4; what is beyond is cut off.
pub fn line(out: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(MAX_LINE - 4)];
    out.extend_from_slice(format!("{:04x}", text.len() + 4).as_bytes());
    out.extend_from_slice(text);
}

/// Appends `data` in as many lines of side-band `band` as it needs.
pub fn band(out: &mut Vec<u8>, band: u8, data: &[u8]) {
    for piece in data.chunks(MAX_LINE - 5) {
        out.extend_from_slice(format!("{:04x}", piece.len() + 5).as_bytes());
        out.push(band);
        out.extend_from_slice(piece);
    }
}

/// A line as text, without its line feed; bytes that are no UTF-8 are replaced.
#[must_use]
pub fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned()
}

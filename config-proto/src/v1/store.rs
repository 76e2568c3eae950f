//! The list of names as the original keeps it on its block device: `CHOICE { snis [0] SEQUENCE OF Sni, empty [1] NULL }`.

use super::der::{self, DerError, Reader, context};
use super::message::Sni;

/// Reads the data of a v1 device. No data at all is a fresh device: no names.
///
/// # Errors
/// When the data is anything else than exactly one list.
pub fn decode(data: &[u8]) -> Result<Vec<Sni>, DerError> {
    if data.is_empty() {
        return Ok(Vec::new());
    }
    Reader::new(data).whole(|reader| match reader.any()? {
        (tag, content) if tag == context(0) => content.whole(Sni::read_all),
        (tag, content) if tag == context(1) => content.whole(Reader::null).map(|()| Vec::new()),
        (tag, _) => Err(DerError::UnexpectedTag(tag)),
    })
}

/// Writes the data of a v1 device.
pub fn encode(snis: &[Sni]) -> Vec<u8> {
    match snis {
        [] => der::value(context(1), &[&der::null()]),
        snis => der::value(context(0), &[&Sni::encode_all(snis)]),
    }
}

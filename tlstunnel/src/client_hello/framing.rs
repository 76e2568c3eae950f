//! Where a ClientHello ends: TLS records (RFC 8446, section 5.1) and the handshake header inside (section 4).
//!
//! Only lengths are looked at; what they frame is rustls's business. Each byte is looked at once however the hello is
//! cut, so that a client gains nothing by sending single bytes or records of one byte.

/// Bytes of a record's header: type, version, length.
pub(super) const HEADER: usize = 5;
/// The longest payload of a plaintext record (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;
const TYPE_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Bytes of a handshake message's header: type and length.
pub(super) const MESSAGE_HEADER: usize = 4;

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The first record is none of a TLS handshake.
    #[error("the client does not speak TLS")]
    NotTls,
    /// A record in the middle is of another type, empty or too long.
    #[error("a TLS record of the ClientHello is not valid")]
    BadRecord,
    /// The handshake begins with another message.
    #[error("the first TLS message is no ClientHello")]
    NotHello,
    /// Larger than `Limits::client_hello_bytes`.
    #[error("the ClientHello is larger than the limit")]
    TooLarge,
    /// The lengths inside contradict each other.
    #[error("the ClientHello contradicts its own length")]
    Incomplete,
}

impl Malformed {
    /// The fatal alert for it (RFC 8446, section 6), as one record.
    pub fn alert(self) -> [u8; 7] {
        match self {
            Self::NotTls | Self::NotHello => fatal_alert(10), // unexpected_message
            Self::BadRecord | Self::Incomplete => fatal_alert(50), // decode_error
            Self::TooLarge => fatal_alert(47),                // illegal_parameter
        }
    }
}

/// One plaintext record with a fatal alert.
pub(crate) const fn fatal_alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// This many bytes more, and perhaps others after them.
    Bytes(usize),
    /// The hello is complete.
    Nothing,
}

/// How far a hello has come.
#[derive(Debug)]
pub(super) struct Framing {
    limit: usize,
    /// Where the next record header begins in the raw bytes.
    next_record: usize,
    /// Payload bytes of the records before `next_record`.
    payload: usize,
    /// The first payload bytes: the handshake header, possibly split over records.
    header: [u8; MESSAGE_HEADER],
}

impl Framing {
    /// Nothing has come yet; `limit` bytes may.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, next_record: 0, payload: 0, header: [0; MESSAGE_HEADER] }
    }

    /// Looks at all the bytes that have come so far, of which earlier calls saw a prefix.
    pub(super) fn advance(&mut self, raw: &[u8]) -> Result<Need, Malformed> {
        loop {
            let record = raw.get(self.next_record..).unwrap_or_default();
            let Some((header, body)) = record.split_first_chunk::<HEADER>() else {
                return self.need(raw, HEADER - record.len());
            };
            let [kind, major, _, high, low] = *header;
            let length = usize::from(u16::from_be_bytes([high, low]));
            if self.next_record == 0 && (kind != TYPE_HANDSHAKE || major != 3) {
                return Err(Malformed::NotTls);
            }
            if kind != TYPE_HANDSHAKE || major != 3 || length == 0 || length > MAX_RECORD {
                return Err(Malformed::BadRecord);
            }
            let Some(body) = body.get(..length) else {
                return self.need(raw, length - body.len());
            };
            for (slot, byte) in self.header.iter_mut().skip(self.payload).zip(body) {
                *slot = *byte;
            }
            self.payload += length;
            self.next_record += HEADER + length;
            if self.payload < MESSAGE_HEADER {
                continue;
            }
            let [kind, a, b, c] = self.header;
            if kind != CLIENT_HELLO {
                return Err(Malformed::NotHello);
            }
            let message = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if message > self.limit {
                return Err(Malformed::TooLarge);
            }
            if self.payload >= MESSAGE_HEADER + message {
                return Ok(Need::Nothing);
            }
        }
    }

    fn need(&self, raw: &[u8], missing: usize) -> Result<Need, Malformed> {
        if raw.len() + missing > self.limit {
            return Err(Malformed::TooLarge);
        }
        Ok(Need::Bytes(missing))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello message with `length` arbitrary bytes, in records of `piece` bytes.
    fn records(length: usize, piece: usize) -> Vec<u8> {
        let mut message = vec![CLIENT_HELLO];
        message.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
        message.resize(MESSAGE_HEADER + length, 7);
        message
            .chunks(piece)
            .flat_map(|piece| {
                let [high, low] = u16::try_from(piece.len()).unwrap().to_be_bytes();
                [&[TYPE_HANDSHAKE, 3, 1, high, low][..], piece].concat()
            })
            .collect()
    }

    /// Gives exactly what is asked for until the hello is complete; returns how many bytes that took.
    fn feed(all: &[u8], limit: usize) -> Result<usize, Malformed> {
        let mut framing = Framing::new(limit);
        let mut given = 0;
        while let Need::Bytes(missing) = framing.advance(&all[..given])? {
            assert!(missing > 0);
            given += missing;
        }
        Ok(given)
    }

    proptest! {
        #[test]
        fn asks_for_exactly_the_hello(length in 0usize..40_000, piece in 1usize..=MAX_RECORD) {
            let mut all = records(length, piece);
            let hello = all.len();
            all.extend_from_slice(b"early data");
            prop_assert_eq!(feed(&all, usize::MAX / 2), Ok(hello));
            prop_assert_eq!(feed(&all, hello), Ok(hello));
            prop_assert_eq!(feed(&all, hello - 1), Err(Malformed::TooLarge));
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut framing = Framing::new(500);
            let mut end = 0;
            while let Ok(Need::Bytes(missing)) = framing.advance(&bytes[..end]) {
                prop_assert!(end + missing <= 500);
                if end + missing > bytes.len() { break }
                end += missing;
            }
        }
    }

    #[test]
    fn what_is_no_hello_is_told_apart() {
        assert_eq!(feed(b"SSH-2.0-x", 500), Err(Malformed::NotTls));
        assert_eq!(feed(&[22, 2, 0, 0, 1, 1], 500), Err(Malformed::NotTls));
        assert_eq!(feed(&[22, 3, 1, 0, 0], 500), Err(Malformed::BadRecord));
        assert_eq!(feed(&[22, 3, 1, 0x40, 1], 500), Err(Malformed::BadRecord));
        assert_eq!(feed(&[22, 3, 1, 0, 4, 2, 0, 0, 0], 500), Err(Malformed::NotHello));
        assert_eq!(feed(&[22, 3, 1, 0, 2, 1, 0, 23, 3, 1, 0, 1], 500), Err(Malformed::BadRecord));
        assert_eq!(feed(&[22, 3, 1, 0, 4, 1, 0xff, 0, 0], 500), Err(Malformed::TooLarge));
    }
}

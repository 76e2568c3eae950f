//! The part of DER (ITU-T X.690) that v1 needs: context-specific explicit tags, INTEGER, UTF8String, NULL, SEQUENCE.
//!
//! A [`Reader`] is a view of undecoded bytes that hands out values from its front. It is strict: lengths and integers in
//! their shortest form only, nothing left over. The grammar has no recursion, so neither has the reader.

/// Why bytes are not the DER of a v1 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DerError {
    /// A value ends after its bytes do.
    #[error("the DER ends too early")]
    Truncated,
    /// Something follows where nothing may.
    #[error("bytes are left over after the DER")]
    Trailing,
    /// A tag that the grammar does not have here.
    #[error("the DER has the tag {0:#04x} where the grammar has another")]
    UnexpectedTag(u8),
    /// A length that is indefinite, not in its shortest form, or beyond 32 bits.
    #[error("the DER has a length in a form that DER does not allow")]
    BadLength,
    /// An integer that is empty, not in its shortest form, or out of the range that its place allows.
    #[error("the DER has an integer that is out of range or not in its shortest form")]
    BadInteger,
    /// A text that is not UTF-8.
    #[error("the DER has a text that is not UTF-8")]
    BadText,
}

pub(super) const INTEGER: u8 = 0x02;
pub(super) const NULL: u8 = 0x05;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const SEQUENCE: u8 = 0x30;

/// The tag `[number]`, explicit and context-specific.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Undecoded bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Parses with `parse` and insists that nothing is left.
    pub(super) fn whole<T>(
        mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, DerError>,
    ) -> Result<T, DerError> {
        let value = parse(&mut self)?;
        if self.rest.is_empty() { Ok(value) } else { Err(DerError::Trailing) }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next tag and the content after it.
    pub(super) fn any(&mut self) -> Result<(u8, Self), DerError> {
        let tag = self.byte()?;
        let len = match self.byte()? {
            short @ ..0x80 => usize::from(short),
            form => self.long_length(form & 0x7f)?,
        };
        let (content, rest) = self.rest.split_at_checked(len).ok_or(DerError::Truncated)?;
        self.rest = rest;
        Ok((tag, Self::new(content)))
    }

    /// The content of the next value, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<Self, DerError> {
        match self.any()? {
            (found, content) if found == tag => Ok(content),
            (found, _) => Err(DerError::UnexpectedTag(found)),
        }
    }

    /// An INTEGER that fits into `T`.
    pub(super) fn integer<T: TryFrom<i64>>(&mut self) -> Result<T, DerError> {
        let content = self.expect(INTEGER)?.rest;
        let shortest = match content {
            [] => false,
            [0x00, next, ..] => *next >= 0x80,
            [0xff, next, ..] => *next < 0x80,
            _ => true,
        };
        if !shortest || content.len() > 8 {
            return Err(DerError::BadInteger);
        }
        let sign = if content[0] < 0x80 { 0 } else { -1 };
        let value = content.iter().fold(sign, |value: i64, byte| (value << 8) | i64::from(*byte));
        T::try_from(value).map_err(|_| DerError::BadInteger)
    }

    pub(super) fn text(&mut self) -> Result<String, DerError> {
        let content = self.expect(UTF8_STRING)?.rest;
        std::str::from_utf8(content).map(str::to_owned).map_err(|_| DerError::BadText)
    }

    pub(super) fn null(&mut self) -> Result<(), DerError> {
        self.expect(NULL)?.whole(|_| Ok(()))
    }

    fn long_length(&mut self, bytes: u8) -> Result<usize, DerError> {
        if !(1..=4).contains(&bytes) {
            return Err(DerError::BadLength);
        }
        let mut len = 0_usize;
        for position in 0..bytes {
            let byte = self.byte()?;
            if position == 0 && byte == 0 {
                return Err(DerError::BadLength);
            }
            len = (len << 8) | usize::from(byte);
        }
        if len < 0x80 { Err(DerError::BadLength) } else { Ok(len) }
    }

    fn byte(&mut self) -> Result<u8, DerError> {
        let (byte, rest) = self.rest.split_first().ok_or(DerError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }
}

/// Writes a value of this tag, whose content is the concatenation of `parts`.
pub(super) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(len + 6);
    out.push(tag);
    match u8::try_from(len) {
        Ok(short @ ..0x80) => out.push(short),
        _ => {
            let bytes = significant(&(len as u64).to_be_bytes(), |first, _| first == 0).to_vec();
            // At most eight bytes.
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(8));
            out.extend_from_slice(&bytes);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(super) fn integer(number: i64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let redundant =
        |first: u8, next: u8| (first == 0x00 && next < 0x80) || (first == 0xff && next >= 0x80);
    value(INTEGER, &[significant(&bytes, redundant)])
}

pub(super) fn text(text: &str) -> Vec<u8> {
    value(UTF8_STRING, &[text.as_bytes()])
}

pub(super) fn null() -> Vec<u8> {
    value(NULL, &[])
}

/// `bytes` without the leading ones that are redundant before their successor.
fn significant(mut bytes: &[u8], redundant: impl Fn(u8, u8) -> bool) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && let [next, ..] = rest
        && redundant(*first, *next)
    {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_form() {
        for number in [0, 1, 127, 128, 255, 256, -1, -128, -129, i64::MAX, i64::MIN, 65_535] {
            let der = integer(number);
            assert_eq!(Reader::new(&der).whole(|r| r.integer::<i64>()), Ok(number));
        }
        for der in
            [&[2, 0][..], &[2, 2, 0, 0x7f], &[2, 2, 0xff, 0x80], &[2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(Reader::new(der).integer::<i64>(), Err(DerError::BadInteger), "{der:02x?}");
        }
        assert_eq!(Reader::new(&integer(65_536)).integer::<u16>(), Err(DerError::BadInteger));
        assert_eq!(Reader::new(&integer(-1)).integer::<u16>(), Err(DerError::BadInteger));
    }

    #[test]
    fn lengths_have_one_form() {
        for len in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![b'x'; len];
            let der = value(UTF8_STRING, &[&content]);
            assert_eq!(Reader::new(&der).whole(Reader::text).map(|t| t.len()), Ok(len));
        }
        for der in [
            &[5, 0x80][..],
            &[5, 0x81, 0],
            &[5, 0x81, 5],
            &[5, 0x82, 0, 0x80],
            &[5, 0x85, 1, 1, 1, 1, 1],
        ] {
            assert_eq!(Reader::new(der).null(), Err(DerError::BadLength), "{der:02x?}");
        }
        assert_eq!(Reader::new(&[5, 1]).null(), Err(DerError::Truncated));
        assert_eq!(Reader::new(&[5, 1, 0]).null(), Err(DerError::Trailing));
        assert_eq!(Reader::new(&[12, 1, 0xff]).text(), Err(DerError::BadText));
        assert_eq!(Reader::new(&[4, 0]).null(), Err(DerError::UnexpectedTag(4)));
    }
}

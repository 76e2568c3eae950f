//! Range requests (RFC 9110 section 14): which bytes, and how several ranges go into one body.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

/// Ranges that one request may ask for; more, and it gets everything.
pub const MAX_RANGES: usize = 32;

/// What a Range header comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything: not understood, not `bytes`, or so much that everything is less.
    Whole,
    /// These, in the order asked for; at least one.
    Parts(Vec<Range<usize>>),
    /// 416: none of them is inside.
    Unsatisfiable,
}

/// Selects from `length` bytes what `header` asks for.
pub fn select(header: &HeaderValue, length: usize) -> Selection {
    let Some(set) = header.to_str().ok().and_then(|text| strip_unit(text.trim())) else {
        return Selection::Whole;
    };
    let mut parts = Vec::new();
    let mut asked = 0;
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        asked += 1;
        if asked > MAX_RANGES {
            return Selection::Whole;
        }
        match range(spec, length) {
            Err(Malformed) => return Selection::Whole,
            Ok(part) => parts.extend(part),
        }
    }
    let total = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    match (asked, parts.is_empty()) {
        (0, _) => Selection::Whole,
        (_, true) => Selection::Unsatisfiable,
        // Overlapping ranges would make a small request cost many times the file.
        _ if parts.len() > 1 && total > length => Selection::Whole,
        _ => Selection::Parts(parts),
    }
}

/// Units are compared without case (section 14.1).
fn strip_unit(text: &str) -> Option<&str> {
    let (unit, set) = text.split_once('=')?;
    unit.eq_ignore_ascii_case("bytes").then_some(set)
}

struct Malformed;

/// One range; nothing when it lies outside.
fn range(spec: &str, length: usize) -> Result<Option<Range<usize>>, Malformed> {
    let (first, last) = spec.split_once('-').ok_or(Malformed)?;
    let (first, last) = (first.trim(), last.trim());
    let range = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Err(Malformed),
        (true, false) => length.saturating_sub(number(last)?)..length,
        (false, true) => number(first)?..length,
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(Malformed);
            }
            first..last.saturating_add(1).min(length)
        }
    };
    Ok((range.start < range.end).then_some(range))
}

/// Digits; a number that is larger than any file counts as the largest.
fn number(digits: &str) -> Result<usize, Malformed> {
    match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(digits.parse().unwrap_or(usize::MAX)),
        false => Err(Malformed),
    }
}

/// `Content-Range` of one part.
pub fn content_range(part: &Range<usize>, length: usize) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end.saturating_sub(1))
}

/// The chunks of a `multipart/byteranges` body (section 14.6); the data is not copied.
pub fn multipart(
    data: &Bytes,
    parts: &[Range<usize>],
    content_type: &HeaderValue,
    boundary: &str,
) -> Vec<Bytes> {
    let mut chunks = Vec::with_capacity(parts.len() * 2 + 1);
    for part in parts {
        let mut head = format!("\r\n--{boundary}\r\nContent-Type: ").into_bytes();
        head.extend_from_slice(content_type.as_bytes());
        let range = content_range(part, data.len());
        head.extend_from_slice(format!("\r\nContent-Range: {range}\r\n\r\n").as_bytes());
        chunks.push(head.into());
        chunks.push(data.slice(part.clone()));
    }
    chunks.push(format!("\r\n--{boundary}--\r\n").into());
    chunks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init)]
    use super::*;

    #[test]
    fn ranges_by_the_rfc() {
        use Selection::{Parts, Unsatisfiable, Whole};
        let table: &[(&str, usize, Selection)] = &[
            ("bytes=0-499", 1000, Parts(vec![0..500])),
            ("bytes=500-", 1000, Parts(vec![500..1000])),
            ("bytes=-300", 1000, Parts(vec![700..1000])),
            ("bytes=-3000", 1000, Parts(vec![0..1000])),
            ("bytes=900-3000", 1000, Parts(vec![900..1000])),
            ("bytes=0-0,-1", 1000, Parts(vec![0..1, 999..1000])),
            ("Bytes= 0-0 , 5-6", 1000, Parts(vec![0..1, 5..7])),
            ("bytes=9-9,0-0", 1000, Parts(vec![9..10, 0..1])),
            ("bytes=0-0,2000-", 1000, Parts(vec![0..1])),
            ("bytes=99999999999999999999999-", 1000, Unsatisfiable),
            ("bytes=0-99999999999999999999999", 1000, Parts(vec![0..1000])),
            ("bytes=1000-", 1000, Unsatisfiable),
            ("bytes=-0", 1000, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-5", 0, Unsatisfiable),
            ("bytes=5-4", 1000, Whole),
            ("bytes=", 1000, Whole),
            ("bytes=,", 1000, Whole),
            ("bytes=-", 1000, Whole),
            ("bytes=a-b", 1000, Whole),
            ("bytes=+1-2", 1000, Whole),
            ("bytes=0-1,x", 1000, Whole),
            ("bytes 0-1", 1000, Whole),
            ("lines=0-1", 1000, Whole),
            ("bytes=0-,0-", 1000, Whole),
            ("bytes=0-999,0-0", 1000, Whole),
        ];
        for (header, length, wanted) in table {
            let value = HeaderValue::from_static(header);
            assert_eq!(select(&value, *length), *wanted, "{header}");
        }
    }

    #[test]
    fn too_many_ranges_are_not_obeyed() {
        let many = |count: usize| {
            let specs: Vec<_> = (0..count).map(|n| format!("{n}-{n}")).collect();
            HeaderValue::from_str(&format!("bytes={}", specs.join(",")))
                .unwrap_or_else(|_| unreachable!())
        };
        assert!(
            matches!(select(&many(MAX_RANGES), 1000), Selection::Parts(p) if p.len() == MAX_RANGES)
        );
        assert_eq!(select(&many(MAX_RANGES + 1), 1000), Selection::Whole);
    }

    #[test]
    fn several_ranges_in_one_body() {
        let data = Bytes::from_static(b"0123456789");
        let kind = HeaderValue::from_static("text/plain");
        let body = multipart(&data, &[0..2, 9..10], &kind, "B").concat();
        let wanted = "\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
                      \r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 9-9/10\r\n\r\n9\
                      \r\n--B--\r\n";
        assert_eq!(String::from_utf8_lossy(&body), wanted);
    }
}

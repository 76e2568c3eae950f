//! Conditional requests (RFC 9110 section 13): preconditions in the order of section 13.2.2, and If-Range.

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{
    HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};

/// What the preconditions of a GET or HEAD come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request is carried out.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// The validators of the representation that would be sent.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// A strong entity tag, quoted.
    pub etag: &'a HeaderValue,
    /// Whole seconds.
    pub last_modified: SystemTime,
}

/// Judges the preconditions of a GET or HEAD.
pub fn judge(headers: &HeaderMap, validators: Validators<'_>) -> Outcome {
    let etag = validators.etag.as_bytes();
    if headers.contains_key(IF_MATCH) {
        if !tags(headers, &IF_MATCH, |tag| tag == Tag::Any || tag == Tag::Strong(etag)) {
            return Outcome::Failed;
        }
    } else if let Some(date) = date(headers, &IF_UNMODIFIED_SINCE)
        && validators.last_modified > date
    {
        return Outcome::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        let matches = tags(headers, &IF_NONE_MATCH, |tag| match tag {
            Tag::Any => true,
            Tag::Strong(tag) | Tag::Weak(tag) => tag == etag,
        });
        if matches {
            return Outcome::NotModified;
        }
    } else if let Some(date) = date(headers, &IF_MODIFIED_SINCE)
        && validators.last_modified <= date
    {
        return Outcome::NotModified;
    }
    Outcome::Proceed
}

/// Whether Range may be obeyed: there is no If-Range, or it names exactly this representation (section 13.1.5).
pub fn range_applies(headers: &HeaderMap, validators: Validators<'_>) -> bool {
    let mut values = headers.get_all(IF_RANGE).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(value), None) if value.as_bytes().starts_with(b"\"") => value == validators.etag,
        // A weak tag parses as no date, and never applies.
        (Some(_), None) => date(headers, &IF_RANGE) == Some(validators.last_modified),
        (Some(_), Some(_)) => false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag<'a> {
    Any,
    Strong(&'a [u8]),
    Weak(&'a [u8]),
}

/// Whether any tag of a list matches. Reading stops at what is no tag: the rest of that field cannot be trusted.
fn tags(headers: &HeaderMap, name: &HeaderName, matches: impl Fn(Tag<'_>) -> bool) -> bool {
    headers.get_all(name).iter().any(|value| {
        let mut rest = value.as_bytes();
        loop {
            rest = rest.trim_ascii_start();
            rest = match rest {
                [] => return false,
                [b',', tail @ ..] => tail,
                [b'*', tail @ ..] => {
                    return tail.trim_ascii().is_empty() && matches(Tag::Any);
                }
                _ => {
                    let (weak, quoted) = match rest.strip_prefix(b"W/") {
                        Some(quoted) => (true, quoted),
                        None => (false, rest),
                    };
                    let Some(length) = quoted_length(quoted) else { return false };
                    let (tag, tail) = quoted.split_at(length);
                    let next = tail.trim_ascii_start();
                    if !next.is_empty() && !next.starts_with(b",") {
                        return false;
                    }
                    if matches(if weak { Tag::Weak(tag) } else { Tag::Strong(tag) }) {
                        return true;
                    }
                    tail
                }
            };
        }
    })
}

/// The length of an opaque tag with its quotes.
fn quoted_length(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"\"")?;
    inner.iter().position(|&byte| byte == b'"').map(|end| end + 2)
}

/// A date, in any of the three forms; anything else, or two of them, is as if it were not there.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    match values.next() {
        Some(_) => None,
        None => httpdate::parse_http_date(value.to_str().ok()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const OLDER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const NEWER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn with(list: &[(&'static str, &'static str)], check: impl Fn(&HeaderMap, Validators<'_>)) {
        let mut headers = HeaderMap::new();
        for &(name, value) in list {
            headers.append(name, HeaderValue::from_static(value));
        }
        let etag = HeaderValue::from_static("\"abc\"");
        let last_modified = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        check(&headers, Validators { etag: &etag, last_modified });
    }

    #[test]
    fn preconditions_in_the_order_of_the_rfc() {
        use Outcome::{Failed, NotModified, Proceed};
        let table: &[(&[(&str, &str)], Outcome)] = &[
            (&[], Proceed),
            (&[("if-match", "\"abc\"")], Proceed),
            (&[("if-match", "*")], Proceed),
            (&[("if-match", "\"x\", \"abc\"")], Proceed),
            (&[("if-match", "\"x\"")], Failed),
            (&[("if-match", "W/\"abc\"")], Failed),
            (&[("if-match", "")], Failed),
            (&[("if-match", "abc")], Failed),
            (&[("if-unmodified-since", SAME)], Proceed),
            (&[("if-unmodified-since", NEWER)], Proceed),
            (&[("if-unmodified-since", OLDER)], Failed),
            (&[("if-unmodified-since", "yesterday")], Proceed),
            (&[("if-match", "\"abc\""), ("if-unmodified-since", OLDER)], Proceed),
            (&[("if-none-match", "\"abc\"")], NotModified),
            (&[("if-none-match", "W/\"abc\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"x\",,  \"abc\"")], NotModified),
            (&[("if-none-match", "\"x\""), ("if-none-match", "\"abc\"")], NotModified),
            (&[("if-none-match", "\"x, \\\"abc\"")], Proceed),
            (&[("if-none-match", "\"x\"")], Proceed),
            (&[("if-none-match", "\"abc")], Proceed),
            (&[("if-none-match", "\"a,b\", \"abc\"")], NotModified),
            (&[("if-none-match", "\"x\""), ("if-modified-since", NEWER)], Proceed),
            (&[("if-modified-since", SAME)], NotModified),
            (&[("if-modified-since", NEWER)], NotModified),
            (&[("if-modified-since", OLDER)], Proceed),
            (&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], NotModified),
            (&[("if-modified-since", "Sun Nov  6 08:49:37 1994")], NotModified),
            (&[("if-modified-since", "0")], Proceed),
            (&[("if-modified-since", SAME), ("if-modified-since", SAME)], Proceed),
            (&[("if-match", "\"abc\""), ("if-none-match", "\"abc\"")], NotModified),
            (&[("if-match", "\"x\""), ("if-none-match", "\"abc\"")], Failed),
        ];
        for (list, wanted) in table {
            with(list, |headers, validators| {
                assert_eq!(judge(headers, validators), *wanted, "{list:?}");
            });
        }
    }

    #[test]
    fn if_range_wants_the_very_same() {
        for (value, wanted) in [
            ("\"abc\"", true),
            ("\"x\"", false),
            ("W/\"abc\"", false),
            (SAME, true),
            (NEWER, false),
            (OLDER, false),
            ("", false),
        ] {
            with(&[("if-range", value)], |headers, validators| {
                assert_eq!(range_applies(headers, validators), wanted, "{value}");
            });
        }
        with(&[], |headers, validators| assert!(range_applies(headers, validators)));
        with(&[("if-range", "\"abc\""), ("if-range", "\"abc\"")], |headers, validators| {
            assert!(!range_applies(headers, validators));
        });
    }
}

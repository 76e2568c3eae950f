//! From the path of a request target to the path of a file in the site (RFC 3986).
//!
//! Percent-encoding is undone once, then empty and dot segments go (sections 5.2.4 and 6.2.2.3), so that whatever is
//! asked for names something inside the site. Paths are bytes: git does not promise UTF-8.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// A path below the site's root, without the leading slash: `docs/a.html`, `docs/` or, for the root, nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SitePath(Vec<u8>);

/// Why a path names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The client sent what is no URI path.
    #[error("a % in the path is not followed by two hexadecimal digits")]
    Escape,
    /// The client sent a NUL, which no file name holds.
    #[error("the path holds a NUL")]
    Nul,
    /// A slash inside a name, encoded as `%2F`: legal, and the name of no file.
    #[error("the path holds an encoded slash")]
    Slash,
}

/// What stays as it is in a path: RFC 3986 `pchar` and the slash, except what HTML or shells would mind.
const ENCODE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'+')
    .remove(b',')
    .remove(b'=')
    .remove(b':');

impl SitePath {
    /// Reads the path of a request target, or of a rule; a leading slash is not needed.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(path: &[u8]) -> Result<Self, PathError> {
        let mut joined = Vec::with_capacity(path.len());
        let mut open = true;
        for raw in path.split(|&byte| byte == b'/') {
            let before = joined.len();
            if before > 0 {
                joined.push(b'/');
            }
            let start = joined.len();
            decode(raw, &mut joined)?;
            let segment = joined.get(start..).unwrap_or_default();
            // A path that ends in a dot segment names a directory.
            open = matches!(segment, b"" | b"." | b"..");
            if open {
                let parent = segment == b"..";
                joined.truncate(before);
                if parent {
                    joined.truncate(joined.iter().rposition(|&byte| byte == b'/').unwrap_or(0));
                }
            }
        }
        if open && !joined.is_empty() {
            joined.push(b'/');
        }
        Ok(Self(joined))
    }

    /// The path as it is in git, and a slash at the end where a directory is meant.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a directory is meant: the root, or a path that ends in a slash.
    pub fn is_directory(&self) -> bool {
        self.0.is_empty() || self.0.ends_with(b"/")
    }

    /// The path without the slash at its end.
    pub fn name(&self) -> &[u8] {
        self.0.strip_suffix(b"/").unwrap_or(&self.0)
    }

    /// The same as a directory.
    pub(super) fn with_slash(mut self) -> Self {
        if !self.is_directory() {
            self.0.push(b'/');
        }
        self
    }

    /// The same as a file.
    pub(super) fn without_slash(mut self) -> Self {
        self.0.truncate(self.name().len());
        self
    }

    /// The path as it stands in a URL, with the leading slash.
    pub fn to_url(&self) -> String {
        format!("/{}", encode(&self.0))
    }
}

/// Percent-encodes a path, or a part of one; slashes stay.
pub(super) fn encode(path: &[u8]) -> String {
    percent_encode(path, ENCODE).to_string()
}

/// Undoes the percent-encoding of one segment, and appends it to `decoded`.
fn decode(raw: &[u8], decoded: &mut Vec<u8>) -> Result<(), PathError> {
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let byte = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                rest = tail;
                match (nibble(*high), nibble(*low)) {
                    (Some(high), Some(low)) => match high << 4 | low {
                        b'/' => return Err(PathError::Slash),
                        byte => byte,
                    },
                    _ => return Err(PathError::Escape),
                }
            }
            (b'%', _) => return Err(PathError::Escape),
            (byte, _) => *byte,
        };
        if byte == 0 {
            return Err(PathError::Nul);
        }
        decoded.push(byte);
    }
    Ok(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_are_normalised_by_the_rfc() {
        for (given, wanted) in [
            ("/", ""),
            ("", ""),
            ("/a", "a"),
            ("/a/", "a/"),
            ("//a///b", "a/b"),
            ("/a/./b", "a/b"),
            ("/a/../b", "b"),
            ("/a/b/..", "a/"),
            ("/a/.", "a/"),
            ("/../../etc/passwd", "etc/passwd"),
            ("/%2e%2E/x", "x"),
            ("/%7Euser", "~user"),
            ("/a%20b", "a b"),
            ("/%C3%A9", "é"),
            ("/100%25", "100%"),
            ("/a\\..\\b", "a\\..\\b"),
            ("/...", "..."),
        ] {
            let parsed = SitePath::parse(given.as_bytes()).unwrap();
            assert_eq!(parsed.as_bytes(), wanted.as_bytes(), "{given}");
        }
        for (given, error) in [
            ("/%", PathError::Escape),
            ("/%2", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/a%00b", PathError::Nul),
            ("/a%2Fb", PathError::Slash),
            ("/..%2f..%2fetc", PathError::Slash),
        ] {
            assert_eq!(SitePath::parse(given.as_bytes()), Err(error), "{given}");
        }
    }

    #[test]
    fn urls_are_encoded_so_that_they_parse_to_the_same() {
        let path = SitePath::parse("/a b/%25/é?\"<\r\n".as_bytes()).unwrap();
        assert_eq!(path.to_url(), "/a%20b/%25/%C3%A9%3F%22%3C%0D%0A");
        assert_eq!(SitePath::parse(path.to_url().as_bytes()), Ok(path));
    }
}

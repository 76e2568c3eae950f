//! The paths that rules are for: literal text, `:name` for one segment, and one `*` for anything.
//!
//! Matching takes time linear in the path: there is at most one `*`, and only literal text after it.

use super::path::{PathError, SitePath};

/// The path of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    before: Vec<Token>,
    /// What follows the `*`, if there is one.
    after: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(Vec<u8>),
    /// One or more bytes up to the next slash.
    Placeholder(String),
}

/// What the parts of a pattern stand for in one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Captures(Vec<(String, Vec<u8>)>);

/// The name of what `*` stands for.
const SPLAT: &str = "splat";
/// Placeholders in one pattern.
const MAX_PLACEHOLDERS: usize = 16;

/// Why a pattern is not understood; the text completes "line 3: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    #[error("the path must begin with /")]
    NoSlash,
    #[error("{0}")]
    Path(#[from] PathError),
    #[error("more than one * in the path")]
    TwoSplats,
    #[error("a :placeholder after * is not supported")]
    AfterSplat,
    #[error("more than {MAX_PLACEHOLDERS} :placeholders")]
    TooMany,
}

impl Pattern {
    /// Reads the path of a rule.
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError::NoSlash);
        }
        let normal = SitePath::parse(text.as_bytes())?;
        // A slash at the end makes no difference to a rule.
        let path = [b"/", normal.name()].concat();
        let mut parts = path.split(|&byte| byte == b'*');
        let before = tokens(parts.next().unwrap_or_default());
        let after = parts.next().map(<[u8]>::to_vec);
        if parts.next().is_some() {
            return Err(PatternError::TwoSplats);
        }
        if after.as_deref().is_some_and(|after| after.windows(2).any(|pair| pair == b"/:")) {
            return Err(PatternError::AfterSplat);
        }
        let placeholders = before.iter().filter(|token| matches!(token, Token::Placeholder(_)));
        if placeholders.count() > MAX_PLACEHOLDERS {
            return Err(PatternError::TooMany);
        }
        Ok(Self { before, after })
    }

    /// Whether `*` stands elsewhere than at the end.
    pub(super) fn has_inner_splat(&self) -> bool {
        self.after.as_ref().is_some_and(|after| !after.is_empty())
    }

    /// What the parts stand for in `path`, if it matches.
    pub(super) fn matches(&self, path: &SitePath) -> Option<Captures> {
        let whole = [b"/", path.as_bytes()].concat();
        self.matches_bytes(&whole).or_else(|| match whole.strip_suffix(b"/") {
            // `/a` is for `/a/` too.
            Some(shorter) if !shorter.is_empty() => self.matches_bytes(shorter),
            // And `/a/*` for `/a`.
            None => self.matches_bytes(&[&whole[..], b"/"].concat()),
            Some(_) => None,
        })
    }

    fn matches_bytes(&self, path: &[u8]) -> Option<Captures> {
        let mut captures = Captures::default();
        let mut rest = path;
        for token in &self.before {
            match token {
                Token::Literal(literal) => rest = rest.strip_prefix(literal.as_slice())?,
                Token::Placeholder(name) => {
                    let end = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
                    let (value, tail) = rest.split_at(end);
                    if value.is_empty() {
                        return None;
                    }
                    captures.set(name, value);
                    rest = tail;
                }
            }
        }
        match &self.after {
            None if rest.is_empty() => Some(captures),
            None => None,
            Some(after) => {
                captures.set(SPLAT, rest.strip_suffix(after.as_slice())?);
                Some(captures)
            }
        }
    }
}

impl Captures {
    /// Sets what `name` stands for.
    pub(super) fn set(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_vec()));
    }

    /// Puts what was captured, percent-encoded, in place of each `:name` of `template`; names that are not known stay.
    pub(super) fn fill(&self, template: &str) -> String {
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(colon) = rest.find(':') {
            let (before, tail) = rest.split_at(colon);
            filled.push_str(before);
            let name = &tail[1..];
            let end = name.find(|c: char| !is_name(c)).unwrap_or(name.len());
            match self.0.iter().find(|(known, _)| *known == name[..end]) {
                Some((_, value)) => filled.push_str(&super::path::encode(value)),
                None => filled.push_str(&tail[..=end]),
            }
            rest = &name[end..];
        }
        filled.push_str(rest);
        filled
    }
}

/// Splits text without `*` into literals and placeholders, which begin right after a slash.
fn tokens(text: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut literal = Vec::new();
    for (number, segment) in text.split(|&byte| byte == b'/').enumerate() {
        if number > 0 {
            literal.push(b'/');
        }
        let name = segment.strip_prefix(b":").and_then(|name| std::str::from_utf8(name).ok());
        match name.filter(|name| !name.is_empty() && name.chars().all(is_name)) {
            Some(name) => {
                tokens.push(Token::Literal(std::mem::take(&mut literal)));
                tokens.push(Token::Placeholder(name.to_owned()));
            }
            None => literal.extend_from_slice(segment),
        }
    }
    tokens.push(Token::Literal(literal));
    tokens
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fill(pattern: &str, path: &str, template: &str) -> Option<String> {
        let path = SitePath::parse(path.as_bytes()).unwrap();
        Some(Pattern::parse(pattern).unwrap().matches(&path)?.fill(template))
    }

    #[test]
    fn patterns_match_and_fill() {
        for (pattern, path, template, wanted) in [
            ("/a", "/a", "/b", Some("/b")),
            ("/a", "/a/", "/b", Some("/b")),
            ("/a/", "/a", "/b", Some("/b")),
            ("/a", "/ab", "/b", None),
            ("/", "/", "/b", Some("/b")),
            ("/", "/a", "/b", None),
            ("/*", "/", "/b/:splat", Some("/b/")),
            ("/*", "/x/y", "/b/:splat", Some("/b/x/y")),
            ("/a/*", "/a", "/b/:splat", Some("/b/")),
            ("/a/*", "/abc", "/b", None),
            ("/blog/:year/:name", "/blog/2026/x", "/:name-:year", Some("/x-2026")),
            ("/blog/:year", "/blog/", "/b", None),
            ("/blog/:year", "/blog/1/2", "/b", None),
            ("/*.jpg", "/a/b.jpg", ":splat", Some("a/b")),
            ("/*.jpg", "/a/b.png", "", None),
            ("/a%20b", "/a b", "/c", Some("/c")),
            ("/*", "/a b", "https://h:8080/:splat:x", Some("https://h:8080/a%20b:x")),
        ] {
            assert_eq!(fill(pattern, path, template).as_deref(), wanted, "{pattern} {path}");
        }
    }

    #[test]
    fn captures_cannot_break_a_header() {
        assert_eq!(fill("/*", "/a%0d%0aX:1", "/:splat").unwrap(), "/a%0D%0AX:1");
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert_eq!(Pattern::parse("a"), Err(PatternError::NoSlash));
        assert_eq!(Pattern::parse("/*/*"), Err(PatternError::TwoSplats));
        assert_eq!(Pattern::parse("/*/:a"), Err(PatternError::AfterSplat));
        assert_eq!(Pattern::parse("/%"), Err(PatternError::Path(PathError::Escape)));
        assert_eq!(Pattern::parse(&"/:a".repeat(17)), Err(PatternError::TooMany));
    }
}

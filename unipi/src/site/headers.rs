//! `_headers`: a path, then indented lines `Name: value`, or `! Name` to take a header away, as Netlify and Cloudflare
//! read it.
//!
//! All rules that match apply. The first value that the file gives replaces the server's own; further ones of the same
//! name are added to it. Names that frame the message belong to the server and are refused.

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};

use super::path::SitePath;
use super::pattern::Pattern;
use super::problem::Problems;
use super::redirects::lines;

/// The name of the file.
pub const FILE: &str = "_headers";
/// Rules that are kept.
pub const MAX_RULES: usize = 1_000;
/// Headers in one rule.
pub const MAX_PER_RULE: usize = 50;

/// What the server alone may say: how the message is framed, and which representation it carries.
const RESERVED: [HeaderName; 17] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::DATE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::ACCEPT_RANGES,
    header::ALLOW,
    header::LOCATION,
    header::SERVER,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("keep-alive"),
];

/// The rules of a site, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderRules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    path: Pattern,
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Set(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl HeaderRules {
    /// Reads the file; what is not understood is left out and reported.
    pub(super) fn parse(text: &[u8], problems: &mut Problems) -> Self {
        let mut rules: Vec<Rule> = Vec::new();
        // After a path that is not understood, its headers would go to the path before.
        let mut current = false;
        for (number, line) in lines(text, FILE, problems) {
            let mut report = |text: String| {
                problems.add(FILE.as_bytes(), Some(number), text + ": line ignored");
            };
            if !line.starts_with([' ', '\t']) {
                current = false;
                if rules.len() == MAX_RULES {
                    report(format!("more than {MAX_RULES} paths"));
                    break;
                }
                match Pattern::parse(line) {
                    Ok(path) => {
                        rules.push(Rule { path, changes: Vec::new() });
                        current = true;
                    }
                    Err(error) => report(error.to_string()),
                }
                continue;
            }
            match (rules.last_mut().filter(|_| current), change(line.trim())) {
                (None, _) => report("a header without a path before it".to_owned()),
                (Some(rule), Ok(_)) if rule.changes.len() == MAX_PER_RULE => {
                    report(format!("more than {MAX_PER_RULE} headers for a path"));
                }
                (Some(rule), Ok(change)) => rule.changes.push(change),
                (Some(_), Err(text)) => report(text),
            }
        }
        Self(rules)
    }

    /// Applies the rules for `path` to the headers of an answer.
    pub(super) fn apply(&self, path: &SitePath, headers: &mut HeaderMap) {
        let mut set: Vec<&HeaderName> = Vec::new();
        for rule in self.0.iter().filter(|rule| rule.path.matches(path).is_some()) {
            for change in &rule.changes {
                match change {
                    Change::Remove(name) => {
                        headers.remove(name);
                    }
                    // What is negotiated stays named: caches would mix representations up.
                    Change::Set(name, value) if *name == header::VARY => {
                        headers.append(name, value.clone());
                    }
                    Change::Set(name, value) if set.contains(&name) => {
                        headers.append(name, value.clone());
                    }
                    Change::Set(name, value) => {
                        headers.insert(name, value.clone());
                        set.push(name);
                    }
                }
            }
        }
    }
}

fn change(line: &str) -> Result<Change, String> {
    if let Some(name) = line.strip_prefix('!') {
        let name = header_name(name.trim())?;
        return match name == header::VARY {
            true => Err("vary cannot be taken away".to_owned()),
            false => Ok(Change::Remove(name)),
        };
    }
    let Some((name, value)) = line.split_once(':') else {
        return Err(format!("{line:?} is not NAME: VALUE"));
    };
    let name = header_name(name.trim())?;
    if name.as_str() == "basic-auth" {
        return Err("basic-auth is not supported: the pages would be public".to_owned());
    }
    let value = HeaderValue::from_str(value.trim())
        .map_err(|_| format!("the value of {name} holds what no header may"))?;
    Ok(Change::Set(name, value))
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName =
        text.parse().map_err(|_| format!("{text:?} is not the name of a header"))?;
    match RESERVED.contains(&name) {
        true => Err(format!("{name} is the server's own")),
        false => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FILE_TEXT: &str = "# comment
/*
  X-All: 1
  Cache-Control: max-age=5
/docs/*
\tX-All: 2
  ! X-Frame-Options
  Vary: Cookie
";

    #[test]
    fn rules_replace_add_and_take_away() {
        let mut problems = Problems::default();
        let rules = HeaderRules::parse(FILE_TEXT.as_bytes(), &mut problems);
        assert_eq!(problems.into_list(), []);
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static("no-cache"));
        headers.insert("x-frame-options", HeaderValue::from_static("SAMEORIGIN"));
        headers.insert("vary", HeaderValue::from_static("accept-encoding"));
        let mut elsewhere = headers.clone();
        rules.apply(&SitePath::parse(b"/docs/a").unwrap(), &mut headers);
        let all = |name: &str| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(all("x-all"), ["1", "2"]);
        assert_eq!(all("cache-control"), ["max-age=5"]);
        assert_eq!(all("vary"), ["accept-encoding", "Cookie"]);
        assert!(all("x-frame-options").is_empty());
        rules.apply(&SitePath::parse(b"/a").unwrap(), &mut elsewhere);
        assert_eq!(elsewhere["x-frame-options"], "SAMEORIGIN");
        assert_eq!(elsewhere.get_all("x-all").iter().count(), 1);
    }

    #[test]
    fn bad_lines_are_reported_with_their_numbers() {
        let text = "  X: 1\n/a\n  Content-Length: 5\n  no colon\n  b@d: 1\n  X: a\u{7}b\nhttps://x/y\n  X: 1\n/b\n  Basic-Auth: a:b\n  ! Vary\n  Y: 1\n";
        let mut problems = Problems::default();
        let rules = HeaderRules::parse(text.as_bytes(), &mut problems);
        let lines: Vec<_> = problems.into_list().iter().map(|p| p.line.unwrap()).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8, 10, 11]);
        assert_eq!(rules.0.iter().map(|rule| rule.changes.len()).sum::<usize>(), 1);
    }
}

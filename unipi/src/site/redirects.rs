//! `_redirects`: one rule on a line, `FROM [KEY=VALUE ...] TO [STATUS[!]]`, as Netlify and the IPFS gateway read it.
//!
//! `FROM` may hold `:name` for a segment and end in `*`; both may be used in `TO`, the latter as `:splat`. The first rule
//! that matches counts. A file of the site goes before a rule, unless the status ends in `!`. Without a status it is 301.
//! 200 serves another page at the same address; 404, 410 and 451 do so with that status.

use super::path::SitePath;
use super::pattern::Pattern;
use super::problem::Problems;

/// The name of the file.
pub const FILE: &str = "_redirects";
/// Bytes of the file that are read.
pub const MAX_BYTES: usize = 256 << 10;
/// Rules that are kept.
pub const MAX_RULES: usize = 2_100;
/// Bytes in a line.
pub const MAX_LINE: usize = 2_000;

/// The rules of a site, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Redirects(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    from: Pattern,
    query: Vec<(String, Wanted)>,
    to: String,
    status: u16,
    forced: bool,
}

#[derive(Clone, Debug)]
enum Wanted {
    Exactly(Vec<u8>),
    Any(String),
}

/// What a rule says about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// 301, 302, 303, 307 or 308.
    Redirect { status: u16, location: String },
    /// Serve another page with this status.
    Rewrite { status: u16, path: SitePath },
}

impl Redirects {
    /// Reads the file; what is not understood is left out and reported.
    pub(super) fn parse(text: &[u8], problems: &mut Problems) -> Self {
        let mut rules = Vec::new();
        for (number, line) in lines(text, FILE, problems) {
            if rules.len() == MAX_RULES {
                let text =
                    format!("more than {MAX_RULES} rules: this and all after it are ignored");
                problems.add(FILE.as_bytes(), Some(number), text);
                break;
            }
            match rule(line) {
                Ok(Some(rule)) => rules.push(rule),
                Ok(None) => {}
                Err(text) => problems.add(FILE.as_bytes(), Some(number), text + ": line ignored"),
            }
        }
        Self(rules)
    }

    /// The verdicts of all rules that match, in their order; without `missing` only those that go before a file.
    pub(super) fn verdicts<'a>(
        &'a self,
        path: &'a SitePath,
        query: Option<&'a str>,
        missing: bool,
    ) -> impl Iterator<Item = Verdict> + 'a {
        let rules = self.0.iter().filter(move |rule| missing || rule.forced);
        rules.filter_map(move |rule| rule.verdict(path, query))
    }
}

impl Rule {
    fn verdict(&self, path: &SitePath, query: Option<&str>) -> Option<Verdict> {
        let mut captures = self.from.matches(path)?;
        for (key, wanted) in &self.query {
            let value = parameter(query?, key)?;
            match wanted {
                Wanted::Exactly(exact) => (*exact == value).then_some(())?,
                Wanted::Any(name) => captures.set(name, &value),
            }
        }
        let target = captures.fill(&self.to);
        if !(300..400).contains(&self.status) {
            let path = target.split(['?', '#']).next().unwrap_or_default();
            let path = SitePath::parse(path.as_bytes()).ok()?;
            return Some(Verdict::Rewrite { status: self.status, path });
        }
        // A rule that leads to where the client is already would turn forever.
        if target.starts_with('/') && SitePath::parse(target.as_bytes()).as_ref() == Ok(path) {
            return None;
        }
        let location = match query {
            Some(query) if self.query.is_empty() => with_query(target, query),
            _ => target,
        };
        Some(Verdict::Redirect { status: self.status, location })
    }
}

/// A location with the query of the request, unless it has one of its own.
pub(super) fn with_query(location: String, query: &str) -> String {
    if location.contains('?') {
        return location;
    }
    match location.split_once('#') {
        Some((before, fragment)) => format!("{before}?{query}#{fragment}"),
        None => format!("{location}?{query}"),
    }
}

/// The lines that say something, numbered from 1.
pub(super) fn lines<'t>(
    text: &'t [u8],
    file: &str,
    problems: &mut Problems,
) -> Vec<(usize, &'t str)> {
    if text.len() > MAX_BYTES {
        problems.add(file.as_bytes(), None, format!("larger than {MAX_BYTES} bytes: file ignored"));
        return Vec::new();
    }
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut good = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        if line.len() > MAX_LINE {
            let text = format!("longer than {MAX_LINE} bytes: line ignored");
            problems.add(file.as_bytes(), Some(number), text);
            continue;
        }
        let Ok(line) = std::str::from_utf8(line) else {
            problems.add(file.as_bytes(), Some(number), "not UTF-8: line ignored");
            continue;
        };
        let line = line.trim_end();
        if !line.is_empty() && !line.trim_start().starts_with('#') {
            good.push((number, line));
        }
    }
    good
}

fn rule(line: &str) -> Result<Option<Rule>, String> {
    let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#')).peekable();
    let Some(from) = words.next() else { return Ok(None) };
    let from = Pattern::parse(from).map_err(|error| error.to_string())?;
    if from.has_inner_splat() {
        return Err("* must stand at the end of the path".to_owned());
    }
    let mut query = Vec::new();
    while let Some(word) = words.next_if(|word| !is_target(word)) {
        let Some((key, value)) = word.split_once('=') else {
            return Err(format!("{word:?} is neither a path nor an http(s) URL nor KEY=VALUE"));
        };
        let wanted = match value.strip_prefix(':') {
            Some(name) => Wanted::Any(name.to_owned()),
            None => Wanted::Exactly(percent_encoding::percent_decode_str(value).collect()),
        };
        query.push((key.to_owned(), wanted));
    }
    let Some(to) = words.next() else { return Err("there is no target".to_owned()) };
    let (status, forced) = match words.next() {
        None => (301, false),
        Some(word) => {
            let (digits, forced) = word.strip_suffix('!').map_or((word, false), |d| (d, true));
            let status = digits.parse().map_err(|_| format!("{word:?} is no status"))?;
            (status, forced)
        }
    };
    if let Some(condition) = words.next() {
        return Err(format!("the condition {condition:?} is not supported"));
    }
    match status {
        301 | 302 | 303 | 307 | 308 => {}
        200 | 404 | 410 | 451 if to.starts_with('/') => {}
        200 => return Err("passing requests on to another server is not supported".to_owned()),
        404 | 410 | 451 => return Err(format!("status {status} needs a path of this site")),
        _ => return Err(format!("status {status} is not supported")),
    }
    Ok(Some(Rule { from, query, to: ascii(to), status, forced }))
}

fn is_target(word: &str) -> bool {
    word.starts_with('/') || word.starts_with("http://") || word.starts_with("https://")
}

/// A target as it may stand in a header.
fn ascii(target: &str) -> String {
    percent_encoding::utf8_percent_encode(target, percent_encoding::CONTROLS).to_string()
}

/// The value of a query parameter, decoded.
fn parameter(query: &str, key: &str) -> Option<Vec<u8>> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then(|| percent_encoding::percent_decode_str(value).collect())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Redirect { status, location } => format!("{status} {location}"),
            Verdict::Rewrite { status, path } => format!("{status} {}", path.to_url()),
        }
    }

    fn first(file: &str, path: &str, query: Option<&str>, missing: bool) -> Option<String> {
        let mut problems = Problems::default();
        let rules = Redirects::parse(file.as_bytes(), &mut problems);
        assert_eq!(problems.into_list(), []);
        let path = SitePath::parse(path.as_bytes()).unwrap();
        rules.verdicts(&path, query, missing).next().as_ref().map(text)
    }

    #[test]
    fn rules_of_the_dialect() {
        for (file, path, query, wanted) in [
            ("/a /b", "/a", None, Some("301 /b")),
            ("/a /b 302 # why", "/a", None, Some("302 /b")),
            ("# all\n\n/a /b\n/a /c", "/a", None, Some("301 /b")),
            ("/a /b", "/a", Some("q=1"), Some("301 /b?q=1")),
            ("/a /b?x=1", "/a", Some("q=1"), Some("301 /b?x=1")),
            ("/a /b#end", "/a", Some("q=1"), Some("301 /b?q=1#end")),
            (
                "/a/* https://other.example/:splat 308",
                "/a/b/c",
                None,
                Some("308 https://other.example/b/c"),
            ),
            ("/* /index.html 200", "/deep/link", None, Some("200 /index.html")),
            ("/* /:splat/ 301", "/x/", None, None),
            ("/gone /410.html 410", "/gone", None, Some("410 /410.html")),
            ("/store id=:id /blog/:id 301", "/store", Some("a=1&id=7%2F"), Some("301 /blog/7/")),
            ("/store id=7 /blog 301", "/store", Some("id=8"), None),
            ("/store id=:id /blog/:id 301", "/store", None, None),
            ("/a /a/b/../ 301", "/a/", None, None),
            ("/é /ü", "/%C3%A9", None, Some("301 /%C3%BC")),
        ] {
            assert_eq!(first(file, path, query, true).as_deref(), wanted, "{file} {path}");
        }
    }

    #[test]
    fn only_forced_rules_go_before_files() {
        assert_eq!(first("/a /b 301", "/a", None, false), None);
        assert_eq!(first("/a /b 301\n/a /c 302!", "/a", None, false).unwrap(), "302 /c");
    }

    #[test]
    fn bad_lines_are_reported_with_their_numbers() {
        let file = "/ok /x\nnoslash /x\n/a\n/a /b 999\n/a /b 200 Country=de\n/a https://x/ 200\n/*/b /c\n/a b=c\n/a rel /b";
        let mut problems = Problems::default();
        let rules = Redirects::parse(file.as_bytes(), &mut problems);
        let lines: Vec<_> = problems.into_list().iter().map(|p| p.line.unwrap()).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(rules.0.len(), 1);
    }

    #[test]
    fn limits_hold() {
        let mut problems = Problems::default();
        let rules = Redirects::parse("/a /b\n".repeat(MAX_RULES + 5).as_bytes(), &mut problems);
        assert_eq!(rules.0.len(), MAX_RULES);
        assert_eq!(problems.into_list().len(), 1);
        let mut problems = Problems::default();
        let long = format!("/a /{}\n/b /c\n", "x".repeat(MAX_LINE));
        assert_eq!(Redirects::parse(long.as_bytes(), &mut problems).0.len(), 1);
        assert_eq!(problems.into_list()[0].line, Some(1));
        let mut problems = Problems::default();
        assert_eq!(Redirects::parse(&vec![b'#'; MAX_BYTES + 1], &mut problems).0.len(), 0);
        assert_eq!(problems.into_list().len(), 1);
    }
}

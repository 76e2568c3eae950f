//! One request head and its answer: bytes in, bytes out.

use certify::Challenges;

use super::location;

/// Most header fields of a request.
const MAX_FIELDS: usize = 100;
/// The largest body that is read and thrown away to keep a connection; after a larger one the connection closes.
const MAX_SKIPPED_BODY: usize = 64 * 1024;
/// Where http-01 challenges live (RFC 8555, section 8.3).
const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// What answers depend on besides the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    /// The port that redirects name.
    pub(super) https_port: u16,
    /// Challenges that are answered.
    pub(super) challenges: &'a Challenges,
}

/// What the bytes so far come to.
#[derive(Debug)]
pub(super) enum Step {
    /// The head is not complete.
    Incomplete,
    /// It is, or it cannot become one.
    Answer(Answer),
}

/// The kinds of answer, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To https.
    Redirect,
    /// An ACME challenge.
    Challenge,
    /// The request is not one that can be answered.
    Refused,
}

/// An answer, and how to go on after it.
#[derive(Debug)]
pub(super) struct Answer {
    /// What it is.
    pub(super) kind: Kind,
    status: &'static str,
    location: Option<String>,
    text: String,
    /// Whether only the head is sent (HEAD).
    head_only: bool,
    /// Whether the connection closes after it.
    pub(super) close: bool,
    /// Bytes of the request's head.
    pub(super) head: usize,
    /// Bytes of the request's body, to be skipped if the connection stays.
    pub(super) body: usize,
}

impl Answer {
    fn refused(status: &'static str, text: &str) -> Self {
        Self {
            kind: Kind::Refused,
            status,
            location: None,
            text: format!("{text}\n"),
            head_only: false,
            close: true,
            head: 0,
            body: 0,
        }
    }

    /// The response for the wire.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut response = format!("HTTP/1.1 {}\r\n", self.status);
        if let Some(location) = &self.location {
            response.push_str(&format!("Location: {location}\r\n"));
        }
        response.push_str(&format!(
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n",
            self.text.len()
        ));
        if self.close {
            response.push_str("Connection: close\r\n");
        }
        response.push_str("\r\n");
        if !self.head_only {
            response.push_str(&self.text);
        }
        response.into_bytes()
    }
}

/// The answer to a head that is larger than it may be.
pub(super) fn too_large() -> Answer {
    Answer::refused("431 Request Header Fields Too Large", "The head of the request is too large.")
}

/// Judges the beginning of `bytes` as the head of a request.
pub(super) fn judge(bytes: &[u8], rules: Rules<'_>) -> Step {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    Step::Answer(match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return Step::Incomplete,
        Ok(httparse::Status::Complete(head)) => answer(&request, head, rules),
        Err(httparse::Error::TooManyHeaders) => too_large(),
        Err(_) => Answer::refused("400 Bad Request", "This is not HTTP/1."),
    })
}

fn answer(request: &httparse::Request<'_, '_>, head: usize, rules: Rules<'_>) -> Answer {
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Answer::refused("400 Bad Request", "This is not HTTP/1.");
    };
    let Some(framing) = Framing::of(request) else {
        return Answer::refused("400 Bad Request", "The length of the body is not clear.");
    };
    let wanted_close = version == 0 || has_token(request, "connection", "close");
    let mut answer = if method == "CONNECT" {
        Answer::refused("405 Method Not Allowed", "This is no proxy.")
    } else if let Some(text) = challenge(method, target, rules.challenges) {
        Answer { kind: Kind::Challenge, text, ..Answer::refused("200 OK", "") }
    } else {
        match host(request).and_then(|host| location(target, host, rules.https_port)) {
            None => Answer::refused("400 Bad Request", "The request names no valid host."),
            Some(location) => Answer {
                kind: Kind::Redirect,
                text: format!("This page is at {location}\n"),
                location: Some(location),
                ..Answer::refused(
                    // 301 lets clients change POST to GET; 308 does not (RFC 9110, section 15.4).
                    if matches!(method, "GET" | "HEAD") {
                        "301 Moved Permanently"
                    } else {
                        "308 Permanent Redirect"
                    },
                    "",
                )
            },
        }
    };
    answer.head_only = method == "HEAD";
    answer.head = head;
    answer.close = answer.kind == Kind::Refused || wanted_close;
    match framing {
        Framing::Length(length) if length <= MAX_SKIPPED_BODY => answer.body = length,
        Framing::Length(_) | Framing::Unskippable => answer.close = true,
    }
    answer
}

fn location(target: &str, host: Option<&str>, https_port: u16) -> Option<String> {
    location::location(target, host, https_port)
}

fn challenge(method: &str, target: &str, challenges: &Challenges) -> Option<String> {
    let token = target.strip_prefix(CHALLENGE_PATH)?;
    if !matches!(method, "GET" | "HEAD") {
        return None;
    }
    challenges.key_authorization(token)
}

/// The Host field; the outer `None` when there is more than one, or one that is not text (RFC 9112, section 3.2).
fn host<'r>(request: &httparse::Request<'_, 'r>) -> Option<Option<&'r str>> {
    let mut hosts = fields(request, "host");
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version == Some(0) => Some(None),
        (Some(host), None) => std::str::from_utf8(host).ok().map(|host| Some(host.trim())),
        _ => None,
    }
}

/// What follows the head.
enum Framing {
    /// This many bytes.
    Length(usize),
    /// A body whose end is not looked for: chunked, or one that the client holds back until it is asked for.
    Unskippable,
}

impl Framing {
    /// `None` when lengths contradict each other or are no numbers (RFC 9112, section 6.3).
    fn of(request: &httparse::Request<'_, '_>) -> Option<Self> {
        let mut length = None;
        for value in fields(request, "content-length") {
            let text = std::str::from_utf8(value).ok()?.trim();
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            // A number too large for usize is a body too large to skip.
            let value = text.parse().unwrap_or(usize::MAX);
            if length.is_some_and(|earlier| earlier != value) {
                return None;
            }
            length = Some(value);
        }
        let chunked = fields(request, "transfer-encoding").next().is_some();
        let held_back = fields(request, "expect").next().is_some();
        Some(match length.unwrap_or(0) {
            _ if chunked => Self::Unskippable,
            length if length > 0 && held_back => Self::Unskippable,
            length => Self::Length(length),
        })
    }
}

fn fields<'a, 'r>(
    request: &'a httparse::Request<'_, 'r>,
    name: &'static str,
) -> impl Iterator<Item = &'r [u8]> + use<'a, 'r> {
    request.headers.iter().filter(move |f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value)
}

fn has_token(request: &httparse::Request<'_, '_>, name: &'static str, token: &str) -> bool {
    fields(request, name).any(|value| {
        value
            .split(|b| *b == b',')
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with<T>(f: impl FnOnce(Rules<'_>) -> T) -> T {
        let challenges = Challenges::default();
        challenges.publish(&certify::Challenge::Http01 {
            token: "tok".into(),
            key_authorization: "tok.thumb".into(),
        });
        f(Rules { https_port: 443, challenges: &challenges })
    }

    fn ask(text: &str) -> (String, Answer) {
        match with(|rules| judge(text.as_bytes(), rules)) {
            Step::Answer(answer) => (String::from_utf8(answer.to_bytes()).unwrap(), answer),
            Step::Incomplete => panic!("incomplete: {text:?}"),
        }
    }

    #[test]
    fn redirects_by_method() {
        let (text, answer) = ask("GET /a?b HTTP/1.1\r\nHost: x.example\r\n\r\nGET /next");
        assert!(text.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{text}");
        assert!(text.contains("\r\nLocation: https://x.example/a?b\r\n"), "{text}");
        assert!(!answer.close && answer.head == 38, "{answer:?}");
        let (text, answer) = ask("POST / HTTP/1.1\r\nHost: x.example\r\nContent-Length: 5\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 308 "), "{text}");
        assert!(!answer.close && answer.body == 5);
        let (text, _) = ask("HEAD / HTTP/1.1\r\nHost: x.example\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 301 ") && text.ends_with("\r\n\r\n"), "{text}");
        let (text, _) = ask("PROPFIND / HTTP/1.1\r\nHost: x.example\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 308 "), "{text}");
    }

    #[test]
    fn challenges_come_before_the_redirect() {
        let path = "/.well-known/acme-challenge/";
        let (text, answer) = ask(&format!("GET {path}tok HTTP/1.1\r\nHost: x.example\r\n\r\n"));
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\ntok.thumb"), "{text}");
        assert_eq!(answer.kind, Kind::Challenge);
        let (text, _) = ask(&format!("GET {path}other HTTP/1.1\r\nHost: x.example\r\n\r\n"));
        assert!(text.starts_with("HTTP/1.1 301 "), "{text}");
    }

    #[test]
    fn the_connection_closes_when_its_framing_is_not_certain() {
        for fields in [
            "Connection: close",
            "Connection: te, Close",
            "Transfer-Encoding: chunked",
            "Content-Length: 65537",
            "Content-Length: 99999999999999999999999",
            "Content-Length: 5\r\nExpect: 100-continue",
        ] {
            let (text, answer) =
                ask(&format!("POST / HTTP/1.1\r\nHost: x.example\r\n{fields}\r\n\r\n"));
            assert!(answer.close && text.starts_with("HTTP/1.1 308 "), "{fields}: {text}");
        }
        let (text, answer) = ask("GET / HTTP/1.0\r\nHost: x.example\r\n\r\n");
        assert!(answer.close && text.starts_with("HTTP/1.1 301 "), "{text}");
    }

    #[test]
    fn bad_requests_are_refused() {
        for head in [
            "nonsense",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: user@x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
            "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
            "\r\n\r\n\0",
        ] {
            let bytes = format!("{head}\n");
            let (text, answer) = ask(&bytes);
            assert!(answer.close && text.starts_with("HTTP/1.1 400 "), "{head:?}: {text}");
            assert_eq!(answer.kind, Kind::Refused);
        }
        let (text, _) = ask("CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
        let fields = "A: b\r\n".repeat(MAX_FIELDS + 1);
        let (text, _) = ask(&format!("GET / HTTP/1.1\r\n{fields}\r\n"));
        assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    }

    /// Every answer is one well-formed response whose only body is its own text.
    fn well_formed(answer: &Answer) -> Result<(), TestCaseError> {
        let bytes = answer.to_bytes();
        let mut fields = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut fields);
        let head = match response.parse(&bytes) {
            Ok(httparse::Status::Complete(head)) => head,
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        let body = if answer.head_only { 0 } else { answer.text.len() };
        prop_assert_eq!(bytes.len(), head + body);
        prop_assert!(response.headers.len() <= 4);
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_well_formed_answer_or_wait(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            if let Step::Answer(answer) = with(|rules| judge(&bytes, rules)) {
                well_formed(&answer)?;
                prop_assert!(answer.head <= bytes.len());
            }
        }

        #[test]
        fn any_target_and_host_get_a_well_formed_answer(
            method in "(GET|HEAD|POST|[A-Z]{1,9})",
            target in "(/|http://|\\*|)[^ \r\n]{0,40}",
            host in "[^\r\n]{0,40}",
            length in "[0-9+-]{0,12}",
        ) {
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
            );
            match with(|rules| judge(head.as_bytes(), rules)) {
                Step::Answer(answer) => {
                    well_formed(&answer)?;
                    if let Some(location) = &answer.location {
                        prop_assert!(location.starts_with("https://"));
                        prop_assert!(location.bytes().all(|b| b.is_ascii_graphic()));
                        prop_assert!(!location["https://".len()..].split('/').next().unwrap().contains('@'));
                    }
                }
                Step::Incomplete => prop_assert!(false, "a complete head was not recognised"),
            }
        }
    }
}

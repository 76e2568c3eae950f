//! From a request for a page to its answer: a function of the site value, without waiting and without side effects.

use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, RANGE, REFERRER_POLICY,
    RETRY_AFTER, STRICT_TRANSPORT_SECURITY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode, Version};

use super::body::Chunks;
use super::conditional::{self, Outcome, Validators};
use super::encoding::negotiate;
use super::range::{self, Selection};
use crate::site::{Coding, Found, Freshness, Page, PathError, Site, SitePath};

/// The methods of a page.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Defaults of every answer; `_headers` may replace or remove them.
const SECURITY: [(HeaderName, HeaderValue); 3] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN")),
    (REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin")),
];

/// Headers of a page.
const USUAL_HEADERS: usize = 12;

/// Answers a request for a page of `site`. A target of more than `max_target` bytes is refused; `hsts` is the value of
/// Strict-Transport-Security, where it is to be sent.
pub fn respond(
    request: &Parts,
    site: Option<&Site>,
    max_target: usize,
    hsts: Option<&HeaderValue>,
) -> Response<Chunks> {
    let response = match (refuse(request, max_target), site) {
        (Some(refusal), _) => refusal,
        (None, Some(site)) => page(request, site, hsts),
        (None, None) => {
            let text = "There is no site yet: it is being fetched.\n";
            let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            response
        }
    };
    without_body_for_head(request, response)
}

/// What is answered before a path is looked at.
pub(super) fn refuse(request: &Parts, max_target: usize) -> Option<Response<Chunks>> {
    let hosts = request.headers.get_all(http::header::HOST).iter().count();
    // RFC 9112 section 3.2.
    if hosts > 1 || (hosts == 0 && request.version == Version::HTTP_11) {
        return Some(plain(StatusCode::BAD_REQUEST, "A request names one host.\n"));
    }
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > max_target {
        return Some(plain(StatusCode::URI_TOO_LONG, "The address is too long.\n"));
    }
    None
}

/// A short text, which no cache keeps.
pub(crate) fn plain(status: StatusCode, text: &'static str) -> Response<Chunks> {
    let mut response = Response::new(Chunks::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.extend(SECURITY);
    finish(response)
}

/// Content-Length is said even where no body follows.
pub(crate) fn finish(mut response: Response<Chunks>) -> Response<Chunks> {
    let length = response.body().left();
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

/// The same head without the body, if the method is HEAD.
pub(super) fn without_body_for_head(
    request: &Parts,
    mut response: Response<Chunks>,
) -> Response<Chunks> {
    if request.method == Method::HEAD {
        *response.body_mut() = Chunks::default();
    }
    response
}

fn page(request: &Parts, site: &Site, hsts: Option<&HeaderValue>) -> Response<Chunks> {
    if request.method == Method::OPTIONS {
        let mut response = Response::new(Chunks::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(ALLOW, METHODS);
        return response;
    }
    if ![Method::GET, Method::HEAD].contains(&request.method) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Pages can only be read.\n");
        response.headers_mut().insert(ALLOW, METHODS);
        return response;
    }
    let path = match SitePath::parse(request.uri.path().as_bytes()) {
        Ok(path) => path,
        Err(PathError::Slash) => return not_found(),
        Err(PathError::Escape) => return bad_path("There is a wrong %-escape in the address.\n"),
        Err(_) => return bad_path("The address holds what no name may.\n"),
    };
    let mut response = match site.find(&path, request.uri.query()) {
        Found::Page { status: 200, page } => content(request, site, page),
        Found::Page { status, page } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND);
            other_status(request, page, status)
        }
        Found::Missing(Some(page)) => other_status(request, page, StatusCode::NOT_FOUND),
        Found::Missing(None) => not_found(),
        Found::Redirect { status, location } => moved(status, &location),
    };
    let headers = response.headers_mut();
    if let Some(hsts) = hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    let kind = headers.get(CONTENT_TYPE).cloned();
    let in_parts = kind.filter(|kind| kind.as_bytes().starts_with(b"multipart/byteranges"));
    site.apply_headers(&path, headers);
    if let Some(kind) = in_parts {
        // The type of a page may be changed by its site, that of parts of it may not: it names their boundary.
        headers.insert(CONTENT_TYPE, kind);
    }
    response
}

fn bad_path(text: &'static str) -> Response<Chunks> {
    plain(StatusCode::BAD_REQUEST, text)
}

fn not_found() -> Response<Chunks> {
    let mut response = plain(StatusCode::NOT_FOUND, "There is no such page.\n");
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    response
}

fn moved(status: u16, location: &str) -> Response<Chunks> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    let mut response = plain(status, "The page is elsewhere.\n");
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_CACHE);
    match HeaderValue::from_str(location) {
        Ok(location) => headers.insert(LOCATION, location),
        // Locations are encoded where they are made.
        Err(_) => return not_found(),
    };
    response
}

/// A page that is not what was asked for: neither conditions nor ranges apply (RFC 9110 section 13.2.1).
fn other_status(request: &Parts, page: &Page, status: StatusCode) -> Response<Chunks> {
    let (coding, representation) = negotiate(&request.headers, &page.blob);
    let mut response = Response::new(Chunks::from(representation.data));
    *response.status_mut() = status;
    describe(response.headers_mut(), page, coding);
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    finish(response)
}

fn content(request: &Parts, site: &Site, page: &Page) -> Response<Chunks> {
    let (coding, representation) = negotiate(&request.headers, &page.blob);
    let (time, time_text) = site.last_modified();
    let validators = Validators { etag: &representation.etag, last_modified: time };
    let mut response = Response::new(Chunks::default());
    {
        let headers = response.headers_mut();
        // Growing to it would rehash twice.
        headers.reserve(USUAL_HEADERS);
        headers.insert(ETAG, representation.etag.clone());
        headers.insert(LAST_MODIFIED, time_text.clone());
        describe(headers, page, coding);
    }
    match conditional::judge(&request.headers, validators) {
        Outcome::Proceed => {}
        Outcome::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            // Section 15.4.5: what would update a stored answer stays, what describes a body goes.
            response.headers_mut().remove(CONTENT_TYPE);
            response.headers_mut().remove(CONTENT_ENCODING);
            return response;
        }
        Outcome::Failed => {
            let text = "The page is not what the request expects.\n";
            return plain(StatusCode::PRECONDITION_FAILED, text);
        }
    }
    let data = &representation.data;
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Range means something for GET alone (section 14.2).
    let asked = match request.method == Method::GET {
        true => request.headers.get(RANGE),
        false => None,
    };
    let asked = asked.filter(|_| conditional::range_applies(&request.headers, validators));
    match asked.map_or(Selection::Whole, |asked| range::select(asked, data.len())) {
        Selection::Whole => *response.body_mut() = data.clone().into(),
        Selection::Unsatisfiable => {
            let mut response =
                plain(StatusCode::RANGE_NOT_SATISFIABLE, "The page has no such part.\n");
            set(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{}", data.len()));
            return response;
        }
        Selection::Parts(parts) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            match parts.as_slice() {
                [part] => {
                    let text = range::content_range(part, data.len());
                    set(response.headers_mut(), CONTENT_RANGE, &text);
                    *response.body_mut() = data.slice(part.clone()).into();
                }
                parts => {
                    let boundary = boundary();
                    let chunks = range::multipart(data, parts, &page.content_type, &boundary);
                    let kind = format!("multipart/byteranges; boundary={boundary}");
                    set(response.headers_mut(), CONTENT_TYPE, &kind);
                    *response.body_mut() = Chunks::new(chunks);
                }
            }
        }
    }
    finish(response)
}

fn describe(headers: &mut HeaderMap, page: &Page, coding: Coding) {
    headers.insert(CONTENT_TYPE, page.content_type.clone());
    if page.compressible {
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if let Some(name) = coding.name() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    let cache = match page.freshness {
        Freshness::Revalidate => NO_CACHE,
        Freshness::Immutable => IMMUTABLE,
    };
    headers.insert(CACHE_CONTROL, cache);
    headers.extend(SECURITY);
}

/// Header values made of numbers and our own words.
fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// Twenty digits that no content foresees: a page cannot hold its own boundary.
fn boundary() -> String {
    let mut bytes = [0_u8; 8];
    // Without entropy it is guessable, which harms only whoever guesses: each part says its length.
    let _ = getrandom::fill(&mut bytes);
    format!("{:020}", u64::from_ne_bytes(bytes))
}

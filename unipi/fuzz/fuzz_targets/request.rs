//! Any request for a page: the answer is one that HTTP allows, and its parts fit together.
#![no_main]

use std::sync::OnceLock;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, HeaderValue, LOCATION, RANGE};
use http::{Method, Request, StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use unipi::serve::respond;
use unipi::site::{
    BuildOptions, CommitInfo, ContentTypes, Entry, EntryKind, Scratch, Site, Source, build,
};

const NAMES: [HeaderName; 8] = [
    http::header::ACCEPT_ENCODING,
    http::header::HOST,
    http::header::IF_MATCH,
    http::header::IF_MODIFIED_SINCE,
    http::header::IF_NONE_MATCH,
    http::header::IF_RANGE,
    http::header::IF_UNMODIFIED_SINCE,
    RANGE,
];

fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let entry = |path: &str, kind, data: &str| Entry {
            path: path.into(),
            kind,
            id: format!("{:040x}", data.len()),
            data: data.to_owned().into(),
        };
        let words = "some words ".repeat(500);
        let entries = vec![
            entry("index.html", EntryKind::File, "<h1>root"),
            entry("words.txt", EntryKind::File, &words),
            entry("docs/index.html", EntryKind::File, "<h1>docs"),
            entry("docs/404.html", EntryKind::File, "<h1>nothing"),
            entry("link", EntryKind::Link, "docs"),
            entry("_redirects", EntryKind::File, "/old/* /docs/:splat\n/app/* / 200\n/q id=:id /:id 302"),
            entry("_headers", EntryKind::File, "/docs/*\n  X-Docs: yes\n  ! X-Frame-Options"),
        ];
        let commit = CommitInfo { time: 1_000_000_000, ..CommitInfo::default() };
        let source = Source { commit, entries, notices: Vec::new() };
        let options =
            BuildOptions { types: ContentTypes::default(), max_size: 1 << 20, default: None };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let site = build(source, &options, &[], 1_700_000_000).await.expect("a site");
            let mut scratch = Scratch::default();
            for (_, page) in site.pages() {
                page.blob.compress(&mut scratch).await;
            }
            site
        })
    })
}

/// The first line is the target, each further one a header: its first byte says which.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|&byte| byte == b'\n');
    let Ok(target) = Uri::try_from(lines.next().unwrap_or_default()) else { return };
    let mut request = Request::new(());
    *request.uri_mut() = target;
    let mut whole = true;
    for line in lines {
        let Some((&kind, value)) = line.split_first() else { continue };
        if let Some(name) = NAMES.get(usize::from(kind) % (NAMES.len() + 2)) {
            let Ok(value) = HeaderValue::from_bytes(value) else { continue };
            whole &= name != RANGE;
            request.headers_mut().append(name, value);
        } else {
            *request.method_mut() = if kind & 1 == 0 { Method::HEAD } else { Method::OPTIONS };
        }
    }
    let (parts, ()) = request.into_parts();
    let response = respond(&parts, Some(site()), 8192, None);
    let (status, headers) = (response.status(), response.headers());
    let length = headers.get(CONTENT_LENGTH).map(|value| value.to_str().expect("digits"));
    let length: Option<u64> = length.map(|text| text.parse().expect("a number"));
    if parts.method == Method::HEAD {
        assert_eq!(response.body().left(), 0);
    } else if let Some(length) = length {
        assert_eq!(response.body().left(), length);
    }
    match status {
        StatusCode::PARTIAL_CONTENT => assert!(!whole && headers.contains_key(ETAG)),
        StatusCode::RANGE_NOT_SATISFIABLE => assert!(headers.contains_key(CONTENT_RANGE)),
        StatusCode::NOT_MODIFIED => {
            assert!(headers.contains_key(ETAG) && response.body().left() == 0);
        }
        status if status.is_redirection() => {
            let location = headers[LOCATION].as_bytes();
            assert!(location.iter().all(|byte| byte.is_ascii_graphic()), "{location:?}");
        }
        status => assert!(status.as_u16() < 500),
    }
});

//! Any bytes as `_redirects` and `_headers`, and any path asked for: bad lines are reported, and nothing else happens.
#![no_main]

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use unipi::site::{
    BuildOptions, CommitInfo, ContentTypes, Entry, EntryKind, Found, SitePath, Source, build,
};

/// Three parts, divided by zero bytes: the files, and the path with its query.
fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let file = |path: &str, id: &str, data: &[u8]| Entry {
        path: path.into(),
        kind: EntryKind::File,
        id: id.to_owned(),
        data: bytes::Bytes::copy_from_slice(data),
    };
    let entries = vec![
        file("_redirects", "1", part()),
        file("_headers", "2", part()),
        file("index.html", "3", b"root"),
        file("a/b.html", "4", b"page"),
    ];
    let asked = part();
    let source = Source { commit: CommitInfo::default(), entries, notices: Vec::new() };
    let options = BuildOptions { types: ContentTypes::default(), max_size: 1 << 20, default: None };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let site = runtime.block_on(build(source, &options, &[], 1_700_000_000)).expect("a site");
    for problem in site.problems() {
        assert!(!problem.to_string().is_empty());
    }
    let (path, query) = match asked.iter().position(|&byte| byte == b'?') {
        Some(at) => (&asked[..at], std::str::from_utf8(&asked[at + 1..]).ok()),
        None => (asked, None),
    };
    let query = query.filter(|query| query.bytes().all(|byte| byte.is_ascii_graphic()));
    let Ok(path) = SitePath::parse(path) else { return };
    assert_eq!(SitePath::parse(path.to_url().as_bytes()).as_ref(), Ok(&path));
    if let Found::Redirect { status, location } = site.find(&path, query) {
        assert!((300..400).contains(&status));
        assert!(location.bytes().all(|byte| byte.is_ascii_graphic()), "{location:?}");
    }
    let mut headers = HeaderMap::new();
    site.apply_headers(&path, &mut headers);
    assert!(!headers.contains_key("content-length") && !headers.contains_key("connection"));
});

//! Whatever a client or a site's author writes: paths stay inside, and nothing panics.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use http::{Method, Request, StatusCode, Uri};
use proptest::prelude::*;
use unipi::serve::respond;
use unipi::site::{
    BuildOptions, CommitInfo, ContentTypes, Entry, EntryKind, Site, SitePath, Source, build,
};

fn entry(path: &[u8], kind: EntryKind, data: impl Into<bytes::Bytes>) -> Entry {
    let data = data.into();
    let id = format!("{:08x}{:08x}", path.len(), data.len());
    Entry { path: path.to_vec(), kind, id, data }
}

fn options() -> BuildOptions {
    BuildOptions { types: ContentTypes::default(), max_size: 1 << 30, default: None }
}

fn site(entries: Vec<Entry>) -> Site {
    let source = Source {
        commit: CommitInfo { id: "c0".to_owned(), time: 1_000_000_000, ..CommitInfo::default() },
        entries,
        notices: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(build(source, &options(), &[], 1_700_000_000)).unwrap()
}

fn sample(redirects: Vec<u8>, headers: Vec<u8>) -> Site {
    site(vec![
        entry(b"index.html", EntryKind::File, "<h1>root"),
        entry(b"docs/index.html", EntryKind::File, "<h1>docs"),
        entry(b"docs/404.html", EntryKind::File, "<h1>no docs"),
        entry(b"a b.txt", EntryKind::File, "text"),
        entry(b"link", EntryKind::Link, "docs"),
        entry(b"_redirects", EntryKind::File, redirects),
        entry(b"_headers", EntryKind::File, headers),
    ])
}

/// Bytes that look like rules more often than chance would have it.
fn rules() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(b"/*".to_vec()),
        Just(b"/docs/:a".to_vec()),
        Just(b"/".to_vec()),
        Just(b" ".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\n  X-A: 1\n".to_vec()),
        Just(b"  ! Vary\n".to_vec()),
        Just(b"id=:id".to_vec()),
        Just(b":splat".to_vec()),
        Just(b"https://x.example/".to_vec()),
        Just(b"200!".to_vec()),
        Just(b"301".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn normalised_paths_never_leave_the_root(path in proptest::collection::vec(
        prop_oneof![Just(b'/'), Just(b'.'), Just(b'%'), Just(b'2'), Just(b'e'), Just(b'F'), Just(b'\\'), any::<u8>()],
        0..40,
    )) {
        if let Ok(parsed) = SitePath::parse(&path) {
            let bytes = parsed.as_bytes();
            prop_assert!(!bytes.starts_with(b"/") && !bytes.contains(&0));
            let name = parsed.name();
            if !name.is_empty() {
                for segment in name.split(|&byte| byte == b'/') {
                    prop_assert!(!segment.is_empty() && segment != b"." && segment != b"..");
                }
            }
            prop_assert_eq!(SitePath::parse(parsed.to_url().as_bytes()), Ok(parsed));
        }
    }

    #[test]
    fn any_request_on_any_rules_is_answered(
        redirects in rules(),
        headers in rules(),
        target in "/[ -~]{0,30}",
        method in prop_oneof![Just(Method::GET), Just(Method::HEAD), Just(Method::POST), Just(Method::OPTIONS)],
        condition in "[ -~]{0,30}",
    ) {
        let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
        let site = sample(redirects, headers);
        for name in ["range", "if-range", "if-match", "if-none-match", "if-modified-since", "accept-encoding"] {
            let request = Request::builder()
                .method(method.clone())
                .uri(uri.clone())
                .header("host", "x")
                .header(name, condition.as_str())
                .body(())
                .unwrap();
            let response = respond(&request.into_parts().0, Some(&site), 8192, None);
            if response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED {
                let location = response.headers()["location"].as_bytes();
                prop_assert!(location.iter().all(|byte| (b'!'..=b'~').contains(byte)));
            }
            if method == Method::HEAD {
                prop_assert_eq!(response.body().left(), 0);
            }
        }
    }

    #[test]
    fn any_tree_becomes_a_site(entries in proptest::collection::vec(
        ("[a-c./]{1,8}", any::<bool>(), "[a-c./]{0,8}"), 0..12,
    )) {
        let entries = entries.into_iter().map(|(path, link, text)| {
            let kind = if link { EntryKind::Link } else { EntryKind::File };
            entry(path.as_bytes(), kind, text)
        });
        let site = Arc::new(site(entries.collect()));
        for path in ["", "a", "a/b", "b/c/a/", "c.html"] {
            site.find(&SitePath::parse(path.as_bytes()).unwrap(), None);
        }
    }
}

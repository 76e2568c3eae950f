//! The real program in front of a real git server, asked by the real curl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use std::io::Read as _;

use site_support::{Forge, Unipi, available, eventually, get};

const SECRET: &str = "a secret for the hook";

fn peers() -> bool {
    available(&["git", "curl"])
}

#[test]
fn pages_are_served_with_validators_ranges_and_codings() {
    if !peers() {
        return;
    }
    let forge = Forge::start();
    let text = "Some words that repeat. ".repeat(500);
    forge.write("index.html", "<h1>one</h1>");
    forge.write("words.txt", &text);
    forge.write("app.3f2a9b1c.js", "x()");
    forge.write("docs/index.html", "docs");
    forge.write("404.html", "lost");
    forge.write(
        "_headers",
        "/docs/*\n  X-Docs: yes\n  Cache-Control: max-age=7\n  ! X-Frame-Options\nbad line\n",
    );
    forge.write("_redirects", "/old/* /docs/:splat 302\nnonsense\n");
    forge.push("first");
    let unipi = Unipi::start(&forge.remote(), &["--status-path", "/status", "--access-log"]);
    unipi.shows("/", "<h1>one</h1>");

    let index = get(&unipi.url("/"), &[]);
    let blob = forge.git(&["rev-parse", "HEAD:index.html"]);
    let etag = format!("\"{blob}\"");
    assert_eq!(index.header("etag"), Some(etag.as_str()));
    assert_eq!(index.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(index.header("cache-control"), Some("no-cache"));
    assert_eq!(index.header("x-content-type-options"), Some("nosniff"));
    assert!(index.header("date").is_some());
    let committed: u64 = forge.git(&["log", "-1", "--format=%ct"]).parse().unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(committed);
    assert_eq!(index.header("last-modified"), Some(httpdate::fmt_http_date(time).as_str()));

    let same = get(&unipi.url("/"), &["-H", &format!("If-None-Match: {etag}")]);
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(etag.as_str())));
    let head = get(&unipi.url("/"), &["-I"]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("12")));
    let post = get(&unipi.url("/"), &["-d", "x"]);
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
    let options = get(&unipi.url("/"), &["-X", "OPTIONS"]);
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));

    let part = get(&unipi.url("/words.txt"), &["-r", "5-9"]);
    assert_eq!((part.status, part.body.as_slice()), (206, &text.as_bytes()[5..10]));
    // They are made one after the other, Zstandard last.
    eventually("the variants are made", || {
        get(&unipi.url("/words.txt"), &["-H", "Accept-Encoding: zstd"]).header("content-encoding")
            == Some("zstd")
    });
    let words = forge.git(&["rev-parse", "HEAD:words.txt"]);
    let accepted =
        [("gzip", "-gz-"), ("br;q=0.1, gzip", "-gz-"), ("br", "-br-"), ("zstd", "-zst-")];
    for (accept, suffix) in accepted {
        let header = format!("Accept-Encoding: {accept}");
        let raw = get(&unipi.url("/words.txt"), &["-H", &header]);
        let tag = raw.header("etag").unwrap();
        assert!(tag.starts_with(&format!("\"{words}{suffix}")), "{accept}: {tag}");
        assert_eq!(raw.header("vary"), Some("Accept-Encoding"));
        assert!(raw.body.len() < text.len() / 10);
    }
    let decoded = get(&unipi.url("/words.txt"), &["--compressed"]);
    assert!(decoded.body.ends_with(text.as_bytes()), "curl undoes the coding");

    let asset = get(&unipi.url("/app.3f2a9b1c.js"), &[]);
    assert_eq!(asset.header("cache-control"), Some("public, max-age=31536000, immutable"));
    let docs = get(&unipi.url("/docs/"), &[]);
    assert_eq!(
        (docs.header("x-docs"), docs.header("cache-control")),
        (Some("yes"), Some("max-age=7"))
    );
    assert_eq!(docs.header("x-frame-options"), None);
    let slash = get(&unipi.url("/docs?a=1"), &[]);
    assert_eq!((slash.status, slash.header("location")), (301, Some("/docs/?a=1")));
    let old = get(&unipi.url("/old/x"), &[]);
    assert_eq!((old.status, old.header("location")), (302, Some("/docs/x")));
    let lost = get(&unipi.url("/nowhere"), &[]);
    assert_eq!((lost.status, lost.body.as_slice()), (404, &b"lost"[..]));
    let escape = get(&unipi.url("/../../../etc/passwd"), &[]);
    assert_eq!(escape.status, 404);
    assert_eq!(get(&unipi.url("/%00"), &[]).status, 400);
    let long = get(&unipi.url(&format!("/{}", "a".repeat(9000))), &[]);
    assert_eq!(long.status, 414);

    let second = get(&unipi.url("/"), &["--http2-prior-knowledge"]);
    assert_eq!((second.version.as_str(), second.status), ("HTTP/2", 200));
    assert_eq!(second.body, index.body);

    let status = get(&unipi.url("/status.json"), &[]);
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["commit"]["subject"], "first");
    assert_eq!(status["commit"]["author"], "Author");
    let problems = status["log"][0]["problems"].as_array().unwrap();
    let found: Vec<_> =
        problems.iter().map(|p| (p["path"].as_str().unwrap(), p["line"].as_u64())).collect();
    assert_eq!(found.len(), 2, "{problems:?}");
    assert!(found.contains(&("_headers", Some(5))) && found.contains(&("_redirects", Some(2))));
    assert!(get(&unipi.url("/status"), &[]).body.starts_with(b"<!doctype html>"));
    let metrics = get(&format!("http://{}/metrics", unipi.metrics), &[]);
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("unipi_generation{site=\"default\"} 1\n"), "{metrics}");
    assert!(metrics.contains("unipi_answers_total{class=\"2xx\"}"), "{metrics}");
    assert!(metrics.contains("unipi_site_problems{site=\"default\"} 2\n"), "{metrics}");
    assert!(unipi.log().contains("path=\"/status.json\""), "{}", unipi.log());
}

#[test]
fn webhooks_that_are_none_are_refused() {
    if !peers() {
        return;
    }
    let forge = Forge::start();
    forge.write("index.html", "one");
    forge.push("one");
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), format!("{SECRET}\n")).unwrap();
    let file = secret.path().to_str().unwrap();
    let mut unipi =
        Unipi::start(&forge.remote(), &["--hook-secret-file", file, "--max-hook", "4KiB"]);
    unipi.shows("/", "one");
    let hook = unipi.url("/hook");
    let json = "Content-Type: application/json";
    let status = |arguments: &[&str]| get(&hook, arguments).status;
    let body = r#"{"ref":"refs/heads/main"}"#;
    assert_eq!(status(&["-H", json, "-d", body]), 403, "unsigned");
    let empty = "X-Hub-Signature-256: sha256=";
    assert_eq!(status(&["-H", json, "-d", body, "-H", empty]), 403, "an empty tag");
    let token = format!("X-Gitlab-Token: {SECRET}");
    assert_eq!(status(&["-d", body, "-H", &token]), 415, "a form");
    assert_eq!(status(&["-H", json, "-d", "{}", "-H", &token]), 400, "no push");
    let other = r#"{"ref":"refs/heads/other"}"#;
    assert_eq!(status(&["-H", json, "-d", other, "-H", &token]), 200, "another branch");
    assert_eq!(status(&[]), 405, "a GET is no webhook");
    let large = "x".repeat(5000);
    assert_eq!(status(&["-H", json, "-d", &large, "-H", &token]), 413, "too large");
    let chunked = ["-H", json, "-H", "Transfer-Encoding: chunked", "-d", &large, "-H", &token];
    assert_eq!(status(&chunked), 413, "too large without saying so");
    assert_eq!(unipi.stop(), Some(0));
}

#[test]
fn a_start_without_the_remote_serves_what_was_kept() {
    if !peers() {
        return;
    }
    let mut forge = Forge::start();
    forge.write("index.html", "kept");
    forge.write("empty.txt", "");
    // Larger than a piece of the storage.
    let large: Vec<u8> = (0..251_u8).cycle().take(9 << 20).collect();
    forge.write("large.bin", &large);
    forge.push("kept");
    let options = ["--storage", "site.img", "--storage-size", "64MiB"];
    let mut unipi = Unipi::start(&forge.remote(), &options);
    unipi.shows("/", "kept");
    assert_eq!(unipi.stop(), Some(0));
    forge.down();

    unipi.spawn(&forge.remote(), &options);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"kept", "from the first request on");
    assert!(get(&unipi.url("/large.bin"), &[]).body == large);
    assert_eq!(get(&unipi.url("/empty.txt"), &[]).status, 200);
    assert_eq!(unipi.stop(), Some(0));

    // Another remote's site is not served under this one's name.
    unipi.spawn("git://127.0.0.1:1/other.git", &options);
    assert_eq!(get(&unipi.url("/"), &[]).status, 503);
    assert_eq!(unipi.stop(), Some(0));

    // Damage in the middle of the large file: found, and fetched again.
    let image = unipi.path("site.img");
    let mut bytes = Vec::new();
    std::fs::File::open(&image).unwrap().read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(64).position(|window| window == &large[251 * 8..251 * 8 + 64]).unwrap();
    bytes[at] ^= 0xff;
    std::fs::write(&image, &bytes).unwrap();
    forge.up();
    unipi.spawn(&forge.remote(), &options);
    unipi.shows("/", "kept");
    assert!(get(&unipi.url("/large.bin"), &[]).body == large);
    assert_eq!(unipi.stop(), Some(0));
    forge.down();
    unipi.spawn(&forge.remote(), &options);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"kept", "and kept again");
}

#[test]
fn failures_leave_the_old_site_and_polling_finds_the_new_one() {
    if !peers() {
        return;
    }
    let forge = Forge::start();
    forge.write("index.html", "one");
    forge.push("one");
    let options = ["--poll", "1", "--max-site-size", "64KiB", "--status-path", "/status"];
    let mut unipi = Unipi::start(&forge.remote(), &options);
    unipi.shows("/", "one");
    forge.write("large.bin", vec![b'x'; 100 << 10]);
    forge.write("index.html", "too large");
    forge.push("too large");
    eventually("the failure shows in the log", || {
        let log = get(&unipi.url("/status.json"), &[]).body;
        let log: serde_json::Value = serde_json::from_slice(&log).unwrap();
        log["log"][0]["outcome"] == "failed"
    });
    assert_eq!(get(&unipi.url("/"), &[]).body, b"one");
    std::fs::remove_file(forge.work().join("large.bin")).unwrap();
    forge.write("index.html", "two");
    forge.push("two");
    unipi.shows("/", "two");
    assert_eq!(unipi.stop(), Some(0));
}

#[test]
fn an_unsigned_hook_works_only_when_asked_for() {
    if !peers() {
        return;
    }
    let forge = Forge::start();
    forge.write("index.html", "one");
    forge.push("one");
    let closed = Unipi::start(&forge.remote(), &[]);
    closed.shows("/", "one");
    assert_eq!(get(&closed.url("/hook"), &[]).status, 404);
    let open = Unipi::start(&forge.remote(), &["--hook-open", "--hook", "/s3cret-path"]);
    open.shows("/", "one");
    forge.write("index.html", "two");
    forge.push("two");
    assert_eq!(get(&open.url("/s3cret-path"), &[]).status, 202);
    open.shows("/", "two");
    assert_eq!(get(&closed.url("/"), &[]).body, b"one");
}

#[test]
fn empty_repositories_forced_pushes_and_deleted_branches() {
    if !peers() {
        return;
    }
    let forge = Forge::start();
    let options = ["--poll", "1", "--status-path", "/status"];
    let mut unipi = Unipi::start(&forge.remote(), &options);
    let says = |text: &str| {
        eventually(text, || {
            let log = get(&unipi.url("/status.json"), &[]).body;
            String::from_utf8(log).unwrap().contains(text)
        });
    };
    says("the repository is empty");
    assert_eq!(get(&unipi.url("/"), &[]).status, 503);
    forge.write("index.html", "one");
    forge.push("one");
    unipi.shows("/", "one");
    // Another history altogether, and older than the first.
    forge.git(&["checkout", "-q", "--orphan", "other"]);
    forge.write("index.html", "another history");
    forge.git(&["add", "-A"]);
    forge.git(&["commit", "-q", "--date=2001-01-01T00:00:00", "-m", "other"]);
    forge.git(&["push", "-q", "--force", "origin", "HEAD:main"]);
    unipi.shows("/", "another history");
    // A deleted branch is a failure, and the last site stays.
    forge.git(&["push", "-q", "origin", "HEAD:refs/heads/elsewhere"]);
    forge.git(&["--git-dir=../site.git", "update-ref", "-d", "refs/heads/main"]);
    let log = || String::from_utf8(get(&unipi.url("/status.json"), &[]).body).unwrap();
    eventually("the missing branch shows", || log().contains("no branch or tag"));
    assert_eq!(get(&unipi.url("/"), &[]).body, b"another history");
    forge.write("index.html", "back");
    forge.push("back");
    unipi.shows("/", "back");
    assert_eq!(unipi.stop(), Some(0));
}

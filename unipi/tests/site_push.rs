//! The real `git push`, `git clone` and `git fetch` straight to the real program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;
mod site_support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use git_support::{git, git_command};
use site_support::{Unipi, available, get};

const TOKEN: &str = "a-token-for-tests-0123456789";

/// A program without a remote that takes pushes, and its repository's URL with the token.
fn start(options: &[&str]) -> (Unipi, tempfile::NamedTempFile, Vec<String>) {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), format!("{TOKEN}\n")).unwrap();
    let path = token.path().to_str().unwrap().to_owned();
    let all: Vec<String> = ["--push-token-file", &path, "--status-path", "/status"]
        .iter()
        .chain(options)
        .map(|option| (*option).to_owned())
        .collect();
    let arguments: Vec<&str> = all.iter().map(String::as_str).collect();
    (Unipi::start("", &arguments), token, all)
}

fn url(unipi: &Unipi) -> String {
    format!("http://me:{TOKEN}@{}/site.git", unipi.http)
}

/// A repository with one page on the branch `main`.
fn repository(folder: &Path, format: &str) -> PathBuf {
    let work = folder.join("work");
    std::fs::create_dir(&work).unwrap();
    git(&work, &["init", "-q", "-b", "main", &format!("--object-format={format}")]);
    commit(&work, "one");
    work
}

fn commit(work: &Path, page: &str) -> String {
    std::fs::write(work.join("index.html"), page).unwrap();
    git(work, &["add", "-A"]);
    git(work, &["commit", "-q", "-m", page]);
    git(work, &["rev-parse", "HEAD"])
}

fn try_git(work: &Path, arguments: &[&str]) -> (bool, String) {
    let output = git_command(work).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn status(unipi: &Unipi) -> serde_json::Value {
    serde_json::from_slice(&get(&unipi.url("/status.json"), &[]).body).unwrap()
}

#[test]
fn a_push_is_live_when_git_returns_and_a_clone_brings_it_back() {
    if !available(&["git", "curl"]) {
        return;
    }
    for format in ["sha1", "sha256"] {
        let folder = tempfile::tempdir().unwrap();
        let work = repository(folder.path(), format);
        let (unipi, _token, _) = start(&["--object-format", format]);
        assert_eq!(get(&unipi.url("/"), &[]).status, 503, "nothing was pushed yet");
        let url = url(&unipi);
        std::fs::write(work.join("_redirects"), "nonsense\n").unwrap();
        let first = commit(&work, "one and a bad rule");
        let (done, said) = try_git(&work, &["push", "--progress", &url, "main"]);
        assert!(done, "{said}");
        assert!(said.contains("remote: ") && said.contains("is live as generation 1"), "{said}");
        assert!(said.contains("problem: _redirects line 1"), "{said}");
        let order = ["received ", "checking the files", "going live: 2 files", "is live as"];
        let places: Vec<_> = order.iter().map(|word| said.find(word)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{said}");
        assert_eq!(get(&unipi.url("/"), &[]).body, b"one and a bad rule");
        let log = status(&unipi);
        assert_eq!(log["commit"]["id"], first.as_str());
        assert_eq!(log["log"][0]["by"], "push (me)");

        // A clone is shallow, can be worked in, and pushed from.
        let (done, said) = try_git(folder.path(), &["clone", "-q", &url, "clone"]);
        assert!(done, "{said}");
        let clone = folder.path().join("clone");
        assert_eq!(git(&clone, &["rev-parse", "HEAD"]), first);
        assert_eq!(git(&clone, &["rev-parse", "--is-shallow-repository"]), "true");
        git(&clone, &["fsck", "--strict"]);
        let second = commit(&clone, "two");
        let (done, said) = try_git(&clone, &["push"]);
        assert!(done, "{said}");
        assert_eq!(get(&unipi.url("/"), &[]).body, b"two");

        // Whoever is one commit behind fetches it without a new border.
        let (done, said) = try_git(&work, &["pull", "-q", "--ff-only", &url, "main"]);
        assert!(done, "{said}");
        assert_eq!(git(&work, &["rev-parse", "HEAD"]), second);
        let (done, said) = try_git(&work, &["push", &url, "main"]);
        assert!(done && said.contains("up-to-date"), "{said}");
        let old = try_git(folder.path(), &["-c", "protocol.version=0", "clone", &url, "old"]);
        assert!(!old.0 && old.1.contains("version 2"), "{}", old.1);
    }
}

#[test]
fn pushes_are_refused_with_their_reason_and_the_old_site_stays() {
    if !available(&["git", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = repository(folder.path(), "sha1");
    let (unipi, _token, _) = start(&["--max-site-size", "64KiB"]);
    let url = url(&unipi);
    let bare = format!("http://{}/site.git", unipi.http);

    // Who may.
    let info = format!("{bare}/info/refs?service=git-receive-pack");
    let unknown = get(&info, &[]);
    assert_eq!(unknown.status, 401);
    assert!(unknown.header("www-authenticate").unwrap().starts_with("Basic realm="));
    assert_eq!(get(&info, &["-u", "me:wrong-token-wrong-token"]).status, 401);
    assert_eq!(get(&info, &["-u", &format!("me:{TOKEN}")]).status, 200);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(get(&info, &["-H", &bearer]).status, 200);
    let (done, said) = try_git(&work, &["push", &bare, "main"]);
    assert!(!done && said.contains("could not read Username"), "git asks: {said}");
    let upload = format!("{bare}/info/refs?service=git-upload-pack");
    assert_eq!(get(&upload, &[]).status, 401, "a clone shows more than the pages do");

    // What.
    assert!(try_git(&work, &["push", "-q", &url, "main"]).0);
    let refused = |arguments: &[&str], why: &str| {
        let all = [&["push", &url], arguments].concat();
        let (done, said) = try_git(&work, &all);
        assert!(!done && said.contains(why), "{arguments:?}: {said}");
        assert_eq!(get(&unipi.url("/"), &[]).body, b"one", "{arguments:?}");
    };
    refused(&["main:other"], "this site shows refs/heads/main alone");
    refused(&["main:refs/tags/v1"], "this site shows refs/heads/main alone");
    refused(&[":main"], "the site's branch stays");
    std::fs::write(work.join("large.bin"), vec![b'x'; 100 << 10]).unwrap();
    commit(&work, "too large");
    refused(&["main"], "more than 64 KiB (unpacked_bytes): allow more with --max-site-size");
    assert_eq!(status(&unipi)["log"][0]["outcome"], "failed");
    git(&work, &["reset", "-q", "--hard", "HEAD~1"]);
    std::fs::remove_file(work.join("large.bin")).unwrap_or_default();

    // New history, by force alone; and back to what is kept, of which git sends nothing.
    let one = git(&work, &["rev-parse", "HEAD"]);
    git(&work, &["checkout", "-q", "--orphan", "fresh"]);
    commit(&work, "fresh");
    refused(&["fresh:main"], "rejected");
    assert!(try_git(&work, &["push", "-q", "--force", &url, "fresh:main"]).0);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"fresh");
    let (done, said) = try_git(&work, &["push", "--force", &url, &format!("{one}:main")]);
    assert!(done, "{said}");
    assert_eq!(get(&unipi.url("/"), &[]).body, b"one");

    // A push that others overtook.
    let clone = folder.path().join("clone");
    assert!(try_git(folder.path(), &["clone", "-q", &url, "clone"]).0);
    git(&work, &["checkout", "-q", "main"]);
    commit(&work, "faster");
    assert!(try_git(&work, &["push", "-q", &url, "main"]).0);
    commit(&clone, "slower");
    let (done, said) = try_git(&clone, &["push"]);
    assert!(!done && said.contains("fetch first"), "{said}");

    // What is no push of git's.
    let auth = format!("me:{TOKEN}");
    let post = |arguments: &[&str]| {
        get(&format!("{bare}/git-receive-pack"), &[&["-u", &auth], arguments].concat()).status
    };
    let kind = "Content-Type: application/x-git-receive-pack-request";
    assert_eq!(post(&[]), 405, "GET");
    assert_eq!(post(&["-d", "0000"]), 415);
    assert_eq!(post(&["-H", kind, "-d", "nonsense"]), 400);
    assert_eq!(post(&["-H", kind, "-H", "Content-Encoding: br", "-d", "0000"]), 415);
    assert_eq!(post(&["-H", kind, "-H", "Content-Encoding: gzip", "-d", "0000"]), 400);
    assert_eq!(post(&["-H", kind, "-d", "0000"]), 200, "git's probe");
    assert_eq!(get(&format!("{bare}/HEAD"), &["-u", &auth]).status, 404);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"faster");
}

/// What git sends for the first push, made by hand: the command, and a pack of git's own.
fn by_hand(work: &Path, capabilities: &str) -> Vec<u8> {
    let tip = git(work, &["rev-parse", "HEAD"]);
    let line = format!("{} {tip} refs/heads/main\0{capabilities}", "0".repeat(40));
    let mut body = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
    let pack = git_command(work)
        .args(["-c", "core.quotepath=off", "pack-objects", "--stdout", "--all", "-q"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    body.extend_from_slice(&pack.stdout);
    body
}

/// Sends a push of which half arrives, waits for the first word about it, sends the rest, and gives the whole answer.
fn in_two_halves(unipi: &Unipi, body: &[u8], word: &[u8]) -> String {
    let mut stream = TcpStream::connect(unipi.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /site.git/git-receive-pack HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/x-git-receive-pack-request\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        unipi.http,
        body.len()
    );
    let (first, second) = body.split_at(body.len() / 2);
    stream.write_all(&[head.as_bytes(), first].concat()).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 1000];
    while !answer.windows(word.len()).any(|window| window == word) {
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..length]);
    }
    stream.write_all(second).unwrap();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn whoever_pushes_hears_how_it_goes_while_it_goes() {
    if !available(&["git", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = repository(folder.path(), "sha1");
    let (unipi, _token, _) = start(&[]);
    let body = by_hand(&work, "report-status side-band-64k");
    let said = in_two_halves(&unipi, &body, b"of 3 objects");
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("ok refs/heads/main"), "{said}");
    assert_eq!(get(&unipi.url("/"), &[]).body, b"one");
    // Who wants quiet sees that something moves, and hears the end.
    let (unipi, _token, _) = start(&[]);
    let body = by_hand(&work, "report-status side-band-64k quiet");
    let said = in_two_halves(&unipi, &body, b"0005\x01");
    assert!(said.contains("is live as generation 1") && !said.contains("objects"), "{said}");
    // Without side-bands there is the report alone.
    let (unipi, _token, _) = start(&[]);
    let body = by_hand(&work, "report-status");
    let said = in_two_halves(&unipi, &body, b"HTTP/1.1 200");
    assert!(said.contains("unpack ok") && !said.contains("is live"), "{said}");

    // One that breaks off changes nothing.
    let (unipi, _token, _) = start(&[]);
    let body = by_hand(&work, "report-status side-band-64k");
    let mut stream = TcpStream::connect(unipi.http).unwrap();
    let head = format!(
        "POST /site.git/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/x-git-receive-pack-request\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body[..body.len() - 9]].concat()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("ok refs"), "{answer:?}");
    assert_eq!(get(&unipi.url("/"), &[]).status, 503);
    assert!(try_git(&work, &["push", "-q", &url(&unipi), "main"]).0);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"one");
}

#[test]
fn gzip_chunks_and_expectations_of_clients() {
    if !available(&["git", "curl", "gzip"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = repository(folder.path(), "sha1");
    let (unipi, _token, _) = start(&[]);
    let body = by_hand(&work, "report-status side-band-64k");
    let file = folder.path().join("push");
    std::fs::write(&file, &body).unwrap();
    assert!(std::process::Command::new("gzip").arg(&file).status().unwrap().success());
    let data = format!("@{}", folder.path().join("push.gz").display());
    let answer = get(
        &format!("http://{}/site.git/git-receive-pack", unipi.http),
        &[
            "-u",
            &format!("me:{TOKEN}"),
            "-H",
            "Content-Type: application/x-git-receive-pack-request",
            "-H",
            "Content-Encoding: gzip",
            "-H",
            "Transfer-Encoding: chunked",
            "--data-binary",
            &data,
        ],
    );
    assert_eq!(answer.status, 200);
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(said.contains("unpack ok") && said.contains("ok refs/heads/main"), "{said}");
    assert_eq!(get(&unipi.url("/"), &[]).body, b"one");

    // More than http.postBuffer: a probe, then chunks, with Expect where git is told so.
    let noise: Vec<u8> = (0..3_000_000_u64)
        .scan(1_u64, |state, _| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some(state.to_le_bytes()[7])
        })
        .collect();
    std::fs::write(work.join("noise.bin"), &noise).unwrap();
    commit(&work, "two");
    let (done, said) = try_git(
        &work,
        &["-c", "http.extraHeader=Expect: 100-continue", "push", &url(&unipi), "main"],
    );
    assert!(done, "{said}");
    assert!(get(&unipi.url("/noise.bin"), &[]).body == noise);
}

#[test]
fn ten_thousand_files_and_a_hundred_megabytes() {
    if !available(&["git", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = repository(folder.path(), "sha1");
    let (unipi, _token, _) = start(&["--storage", "site.img"]);
    let mut seed = 7_u64;
    let large: Vec<u8> = (0..100 << 20_u32)
        .map(|_| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed.to_le_bytes()[6]
        })
        .collect();
    std::fs::write(work.join("large.bin"), &large).unwrap();
    for number in 0..10_000 {
        let path = work.join(format!("d{}/{number}.txt", number % 97));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, number.to_string()).unwrap();
    }
    git(&work, &["config", "core.compression", "0"]);
    git(&work, &["config", "core.bigFileThreshold", "1m"]);
    commit(&work, "all");
    let (done, said) = try_git(&work, &["push", &url(&unipi), "main"]);
    assert!(done, "{said}");
    assert!(said.contains("10002 files"), "{said}");
    assert_eq!(get(&unipi.url("/d41/6249.txt"), &[]).body, b"6249");
    assert!(get(&unipi.url("/large.bin"), &[]).body == large);
    // One more page costs one more page.
    commit(&work, "changed");
    let (done, said) = try_git(&work, &["push", &url(&unipi), "main"]);
    assert!(done && said.contains("generation 2"), "{said}");
    assert_eq!(get(&unipi.url("/"), &[]).body, b"changed");
}

#[test]
fn older_generations_go_when_memory_is_short_and_the_log_says_which() {
    if !available(&["git", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = repository(folder.path(), "sha1");
    let (unipi, _token, _) = start(&[]);
    let push = |name: &str| {
        commit(&work, name);
        let (done, said) = try_git(&work, &["push", "-q", &url(&unipi), "main"]);
        assert!(done, "{said}");
    };
    let large =
        |letter: u8| std::fs::write(work.join("large.bin"), vec![letter; 30 << 20]).unwrap();
    for letter in [b'a', b'b'] {
        large(letter);
        push(&char::from(letter).to_string());
    }
    // A page more costs nothing.
    push("a page");
    let log = status(&unipi);
    assert_eq!(log["kept"], serde_json::json!([1, 2, 3]));
    large(b'c');
    push("c");
    let log = status(&unipi);
    assert_eq!(log["kept"], serde_json::json!([2, 3, 4]), "what fits stays");
    let dropped =
        log["log"].as_array().unwrap().iter().find(|deploy| deploy["outcome"] == "dropped");
    let dropped = dropped.unwrap();
    assert_eq!((&dropped["generation"], &dropped["by"]), (&1.into(), &"memory".into()));
    assert!(dropped["problems"][0]["text"].as_str().unwrap().contains("memory"), "{dropped}");
    assert_eq!(get(&unipi.url("/"), &[]).body, b"c");
}

#[test]
fn an_earlier_site_gives_way_to_gzip_after_its_time() {
    if !available(&["git", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = repository(folder.path(), "sha1");
    let (mut unipi, _token, options) = start(&["--rollback-time", "1s", "--storage", "site.img"]);
    // Two sites and two variants of one are more than may be held; half of each page is saved by compression.
    let mut state = 1_u64;
    let mut page = || {
        let digits = (0..1 << 20).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b"0123456789abcdef"[usize::try_from(state >> 60).unwrap()]
        });
        digits.collect::<Vec<u8>>()
    };
    for name in ["one", "two"] {
        for number in 0..6 {
            std::fs::write(work.join(format!("{number}.txt")), page()).unwrap();
        }
        std::fs::write(work.join("picture.png"), name.repeat(8 << 20)).unwrap();
        commit(&work, name);
        let (done, said) = try_git(&work, &["push", "-q", &url(&unipi), "main"]);
        assert!(done, "{said}");
    }
    assert_eq!(status(&unipi)["kept"], serde_json::json!([1, 2]), "it is there at first");
    let end = std::time::Instant::now() + Duration::from_secs(120);
    while status(&unipi)["kept"] != serde_json::json!([2]) {
        assert!(std::time::Instant::now() < end, "{}", status(&unipi));
        std::thread::sleep(Duration::from_millis(100));
    }
    let dropped = &status(&unipi)["log"][0];
    assert_eq!((&dropped["outcome"], &dropped["generation"]), (&"dropped".into(), &1.into()));
    assert!(dropped["problems"][0]["text"].as_str().unwrap().contains("gzip"), "{dropped}");
    let last = |coding: &str| {
        let header = format!("Accept-Encoding: {coding}");
        let answer = get(&unipi.url("/5.txt"), &["-H", &header]);
        answer.header("content-encoding").map(str::to_owned)
    };
    while last("gzip").as_deref() != Some("gzip") {
        assert!(std::time::Instant::now() < end, "no gzip");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(last("br").as_deref(), Some("br"));
    // The storage knows of it too.
    unipi.kill();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    unipi.spawn("", &options);
    assert_eq!(status(&unipi)["kept"], serde_json::json!([2]));
}

#[test]
fn names_of_every_kind() {
    if !available(&["git", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = repository(folder.path(), "sha1");
    let (unipi, _token, _) = start(&[]);
    for (name, path) in [
        ("with space.txt", "/with%20space.txt"),
        ("100%.txt", "/100%25.txt"),
        ("%20.txt", "/%2520.txt"),
        ("a..b.txt", "/a..b.txt"),
        ("..hidden/x.txt", "/..hidden/x.txt"),
        ("...", "/..."),
        ("質問.txt", "/%E8%B3%AA%E5%95%8F.txt"),
        ("Ünïcödé/é.txt", "/%C3%9Cn%C3%AFc%C3%B6d%C3%A9/%C3%A9.txt"),
        ("שלום.txt", "/%D7%A9%D7%9C%D7%95%D7%9D.txt"),
        ("привет.txt", "/%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82.txt"),
        ("مرحبا.txt", "/%D9%85%D8%B1%D8%AD%D8%A8%D8%A7.txt"),
        ("नमस्ते.txt", "/%E0%A4%A8%E0%A4%AE%E0%A4%B8%E0%A5%8D%E0%A4%A4%E0%A5%87.txt"),
        ("สวัสดี.txt", "/%E0%B8%AA%E0%B8%A7%E0%B8%B1%E0%B8%AA%E0%B8%94%E0%B8%B5.txt"),
        ("📦.txt", "/%F0%9F%93%A6.txt"),
        ("q?uestion#hash.txt", "/q%3Fuestion%23hash.txt"),
        ("back\\slash.txt", "/back%5Cslash.txt"),
        ("new\nline.txt", "/new%0Aline.txt"),
        ("quote\"'.txt", "/quote%22%27.txt"),
        ("+plus&amp;.txt", "/+plus&amp;.txt"),
    ] {
        let file = work.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, path).unwrap();
    }
    commit(&work, "names");
    let (done, said) = try_git(&work, &["push", &url(&unipi), "main"]);
    assert!(done, "{said}");
    for entry in [
        "/with%20space.txt",
        "/100%25.txt",
        "/%2520.txt",
        "/a..b.txt",
        "/..hidden/x.txt",
        "/...",
        "/%E8%B3%AA%E5%95%8F.txt",
        "/%C3%9Cn%C3%AFc%C3%B6d%C3%A9/%C3%A9.txt",
        "/%D7%A9%D7%9C%D7%95%D7%9D.txt",
        "/%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82.txt",
        "/%D9%85%D8%B1%D8%AD%D8%A8%D8%A7.txt",
        "/%E0%A4%A8%E0%A4%AE%E0%A4%B8%E0%A5%8D%E0%A4%A4%E0%A5%87.txt",
        "/%E0%B8%AA%E0%B8%A7%E0%B8%B1%E0%B8%AA%E0%B8%94%E0%B8%B5.txt",
        "/%F0%9F%93%A6.txt",
        "/q%3Fuestion%23hash.txt",
        "/quote%22%27.txt",
        "/+plus&amp;.txt",
    ] {
        let answer = get(&unipi.url(entry), &[]);
        assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (200, entry));
    }
    // Encoded in another way, it is the same page.
    assert_eq!(get(&unipi.url("/a%2e%2eb.txt"), &[]).body, b"/a..b.txt");
    assert_eq!(get(&unipi.url("/100%.txt"), &[]).status, 400, "no escape at all");
}

#[test]
fn pushed_sites_and_what_is_kept_of_them_survive_kill_9() {
    if !available(&["git", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = repository(folder.path(), "sha1");
    let (mut unipi, _token, options) = start(&["--storage", "site.img", "--storage-size", "64MiB"]);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    assert!(try_git(&work, &["push", "-q", &url(&unipi), "main"]).0);
    let second = commit(&work, "two");
    assert!(try_git(&work, &["push", "-q", &url(&unipi), "main"]).0);
    unipi.kill();
    unipi.spawn("", &options);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"two", "from the first request on");
    let log = status(&unipi);
    assert_eq!((&log["commit"]["id"], &log["generation"]), (&second.into(), &2.into()));
    assert_eq!(log["kept"], serde_json::json!([1, 2]));
    assert_eq!(log["log"].as_array().unwrap().len(), 2);
    commit(&work, "three");
    let (done, said) = try_git(&work, &["push", &url(&unipi), "main"]);
    assert!(done && said.contains("generation 3"), "{said}");
}

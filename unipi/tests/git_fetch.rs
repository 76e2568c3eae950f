//! Fetches from real git servers: what comes is what git says is there, and no more is transferred than needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;

use git_support::{Repository, assert_shows, daemon, fetch, fetch_new, have, remote, run};
use unipi::git::{EntryKind, FetchError, Fetched, Limits, Notice};

/// Files in every script, with spaces, percent signs and dots; a link, a program, an empty file, a submodule, LFS.
fn fill(repository: &Repository) {
    for name in [
        "index.html",
        "with space.html",
        "100%.txt",
        "%2e%2e",
        "..hidden",
        "a..b",
        "日本語/ページ.html",
        "العربية.html",
        "ελληνικά/αρχή",
        "emoji-🦀.txt",
        "deep/er/and/deeper/file",
        "quote'\"\\.txt",
        "new\nline",
    ] {
        repository.write(name, format!("content of {name}\n"));
    }
    repository.write("empty", "");
    repository.write("large.bin", (0..300_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    repository.write(
        "movie.mp4",
        format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n",
            "0".repeat(64)
        ),
    );
    let work = repository.work();
    std::os::unix::fs::symlink("deep/er", work.join("link")).unwrap();
    std::fs::set_permissions(
        work.join("100%.txt"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
}

fn kind(generation: &unipi::git::Generation, path: &[u8]) -> Option<EntryKind> {
    generation.entries.iter().find(|entry| entry.path == path).map(|entry| entry.kind)
}

/// Publishes the work tree and, beside it, a submodule that is only in the index.
fn publish_with_submodule(repository: &Repository) -> String {
    let id = repository.git(&["rev-parse", "HEAD"]).replace(|_: char| true, "1");
    repository.git(&["add", "-A"]);
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{id},module")]);
    repository.git(&["commit", "-q", "-m", "A first\n\nmessage"]);
    repository.git(&["push", "-q", "origin", "HEAD"]);
    repository.git(&["rev-parse", "HEAD"])
}

#[test]
fn every_kind_of_entry_comes_as_git_has_it() {
    if !have("git") {
        return;
    }
    for format in ["sha1", "sha256"] {
        let repository = Repository::with_format(format);
        repository.write("first", "1");
        repository.publish("history that is not fetched");
        fill(&repository);
        let tip = publish_with_submodule(&repository);
        let address = daemon(repository.base());
        let generation = fetch_new(&remote(&format!("git://{address}/site.git#main")), None);
        assert_shows(&repository, &tip, &generation);
        assert_eq!(generation.reference, "refs/heads/main");
        assert_eq!(generation.commit.time, 1_700_000_100);
        assert_eq!(generation.commit.message, "A first\n\nmessage\n");
        assert_eq!(generation.commit.author, "Ann Author <ann@example.test> 1700000000 +0100");
        assert_eq!(generation.commit.parents.len(), 1);
        assert_eq!(generation.commit.signature, None);
        assert_eq!(generation.commit.signed_payload(), generation.commit.raw);
        assert_eq!(kind(&generation, b"link"), Some(EntryKind::Symlink));
        assert_eq!(kind(&generation, b"100%.txt"), Some(EntryKind::Executable));
        assert_eq!(kind(&generation, b"module"), Some(EntryKind::Submodule));
        assert_eq!(kind(&generation, b"empty"), Some(EntryKind::File));
        let mut notices = generation.notices.clone();
        notices.sort_by_key(ToString::to_string);
        let expected = vec![
            Notice::Submodule { path: "module".into() },
            Notice::LfsPointer { path: "movie.mp4".into() },
        ];
        assert_eq!(notices, expected);
    }
}

#[test]
fn only_what_changed_is_transferred_and_blobs_are_shared() {
    if !have("git") {
        return;
    }
    let repository = Repository::new();
    for number in 0..200 {
        repository.write(format!("{}/{number}.txt", number % 7), format!("{number}\n").repeat(999));
    }
    repository.publish("one");
    let address = daemon(repository.base());
    let remote = remote(&format!("git://{address}/site.git#main"));
    let first = fetch_new(&remote, None);
    assert!(matches!(fetch(&remote, Some(&first)).unwrap(), Fetched::Unchanged));

    repository.write("3/3.txt", format!("{}changed\n", "3\n".repeat(999)));
    let tip = repository.publish("two");
    let Fetched::New { generation: second, transfer } = fetch(&remote, Some(&first)).unwrap()
    else {
        panic!("nothing new");
    };
    assert_shows(&repository, &tip, &second);
    assert_eq!(transfer.objects, 4, "commit, two trees, one blob");
    assert!(transfer.pack_bytes < 2000, "{transfer:?}");
    let shared = second
        .entries
        .iter()
        .filter(|entry| first.entries.iter().any(|old| old.blob.as_ptr() == entry.blob.as_ptr()));
    assert_eq!(shared.count(), 199);

    // The history is thrown away and written anew; the old tip is gone from the server.
    repository.git(&["checkout", "-q", "--orphan", "fresh"]);
    repository.write("new.txt", "new");
    repository.git(&["add", "-A"]);
    repository.git(&["commit", "-q", "-m", "rewritten"]);
    repository.git(&["push", "-q", "--force", "origin", "HEAD:main"]);
    git_support::git(&repository.bare(), &["reflog", "expire", "--expire=now", "--all"]);
    git_support::git(&repository.bare(), &["gc", "-q", "--prune=now"]);
    let tip = repository.git(&["rev-parse", "HEAD"]);
    let third = fetch_new(&remote, Some(&second));
    assert_shows(&repository, &tip, &third);
    let blob = |generation: &unipi::git::Generation, path: &[u8]| {
        generation.entries.iter().find(|entry| entry.path == path).unwrap().blob.as_ptr()
    };
    assert_eq!(blob(&second, b"5/5.txt"), blob(&third, b"5/5.txt"));
}

#[test]
fn branches_tags_and_head() {
    if !have("git") {
        return;
    }
    let repository = Repository::new();
    repository.write("a", "1");
    let first = repository.publish("one");
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "-m", "annotated", "v1"]);
    repository.git(&["tag", "-a", "-m", "tag of a tag", "v1-again", "v1"]);
    repository.git(&["tag", "a-tree", "HEAD^{tree}"]);
    repository.write("a", "2");
    let second = repository.publish("two");
    repository.git(&["branch", "main2", "HEAD~1"]);
    repository.git(&["push", "-q", "origin", "--tags", "main2"]);
    let address = daemon(repository.base());
    let http = git_support::http::Server::start(
        repository.base().to_owned(),
        git_support::http::Behaviour { old: true, ..Default::default() },
    );
    for url in [format!("git://{address}/site.git"), http.url("/site.git")] {
        let at = |reference: &str| fetch_new(&remote(&format!("{url}{reference}")), None);
        for (reference, tip, name) in [
            ("", &second, "refs/heads/main"),
            ("#main", &second, "refs/heads/main"),
            ("#main2", &first, "refs/heads/main2"),
            ("#light", &first, "refs/tags/light"),
            ("#v1", &first, "refs/tags/v1"),
            ("#refs/tags/v1-again", &first, "refs/tags/v1-again"),
        ] {
            let generation = at(reference);
            assert_shows(&repository, tip, &generation);
            assert_eq!(generation.reference, name, "{url}{reference}");
        }
        // From one tag to another, and the same commit under another name.
        let known = at("#v1");
        let again = fetch(&remote(&format!("{url}#v1-again")), Some(&known)).unwrap();
        assert!(matches!(again, Fetched::Unchanged));
        let error = fetch(&remote(&format!("{url}#mai")), None).unwrap_err();
        assert!(matches!(&error, FetchError::MissingReference(name) if name == "mai"), "{error}");
        let error = fetch(&remote(&format!("{url}#a-tree")), None).unwrap_err();
        assert!(matches!(&error, FetchError::NotACommit { .. }), "{error}");
    }
}

#[test]
fn an_empty_or_absent_repository_is_said_to_be_so() {
    if !have("git") {
        return;
    }
    let repository = Repository::new();
    let address = daemon(repository.base());
    let plain = git_support::http::Server::start(repository.base().to_owned(), Default::default());
    let old = git_support::http::Behaviour { old: true, ..Default::default() };
    let old = git_support::http::Server::start(repository.base().to_owned(), old);
    let urls = [format!("git://{address}"), plain.url(""), old.url("")];
    for url in &urls {
        for reference in ["", "#main"] {
            let error = fetch(&remote(&format!("{url}/site.git{reference}")), None).unwrap_err();
            assert!(matches!(error, FetchError::Empty), "{url}: {error}");
        }
        let error = fetch(&remote(&format!("{url}/other.git#main")), None).unwrap_err();
        assert!(
            matches!(error, FetchError::NoRepository(_) | FetchError::Connection(_)),
            "{url}: {error}"
        );
    }
    // Then somebody pushes to it, and then removes the branch.
    repository.write("a", "1");
    let tip = repository.publish("one");
    repository.git(&["push", "-q", "origin", "HEAD:refs/heads/other"]);
    for url in &urls {
        let generation = fetch_new(&remote(&format!("{url}/site.git#main")), None);
        assert_shows(&repository, &tip, &generation);
    }
    git_support::git(&repository.bare(), &["update-ref", "-d", "refs/heads/main"]);
    for url in &urls {
        let error = fetch(&remote(&format!("{url}/site.git#main")), None).unwrap_err();
        assert!(matches!(error, FetchError::MissingReference(_)), "{url}: {error}");
        let error = fetch(&remote(&format!("{url}/site.git")), None).unwrap_err();
        assert!(matches!(error, FetchError::MissingReference(_)), "{url}: {error}");
    }
}

#[test]
fn many_files_come_while_others_work() {
    if !have("git") {
        return;
    }
    let scale: u32 = std::env::var("UNIPI_GIT_FILES").map_or(3_000, |text| text.parse().unwrap());
    let repository = Repository::new();
    for number in 0..scale {
        let content = blake(number).repeat(20);
        repository.write(format!("{}/{}/{number}.txt", number % 10, number % 97), content);
    }
    let tip = repository.publish("many");
    let address = daemon(repository.base());
    let remote = remote(&format!("git://{address}/site.git#main"));
    let (generation, turns) = run(async {
        let turns = std::rc::Rc::new(std::cell::Cell::new(0_u32));
        let counter = std::rc::Rc::clone(&turns);
        let other = async move {
            loop {
                counter.set(counter.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        let limits = Limits::default();
        tokio::select! {
            fetched = unipi::git::fetch(&remote, None, &limits) => (fetched.unwrap(), turns.get()),
            () = other => unreachable!(),
        }
    });
    let Fetched::New { generation, .. } = generation else { panic!("nothing new") };
    assert_shows(&repository, &tip, &generation);
    // Each turn of the fetch is a slice of work at most; the other task had one in between.
    assert!(u64::from(turns) > generation.size() / (512 << 10), "{turns}");
}

/// Text that does not compress away.
fn blake(number: u32) -> String {
    let mut state = u64::from(number) + 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{:x}", state >> 33)
    })
    .take(20)
    .collect()
}

#[test]
fn limits_hold_and_say_their_name() {
    if !have("git") {
        return;
    }
    let repository = Repository::new();
    for number in 0..20 {
        repository.write(format!("a/b/c/d/{number}"), blake(number).repeat(100));
    }
    repository.publish("one");
    let address = daemon(repository.base());
    let remote = remote(&format!("git://{address}/site.git#main"));
    let default = Limits::default();
    for (expected, limits) in [
        ("pack_bytes", Limits { pack_bytes: 500, ..default }),
        ("unpacked_bytes", Limits { unpacked_bytes: 20_000, ..default }),
        ("objects", Limits { objects: 10, ..default }),
        ("entries", Limits { entries: 10, ..default }),
        ("path_depth", Limits { path_depth: 3, ..default }),
        ("path_bytes", Limits { path_bytes: 8, ..default }),
        ("references", Limits { references: 0, ..default }),
    ] {
        let error = run(unipi::git::fetch(&remote, None, &limits)).unwrap_err();
        match error {
            FetchError::Limit { name, .. } => assert_eq!(name, expected),
            error => panic!("{expected}: {error}"),
        }
    }
}

#[test]
fn progress_is_told() {
    if !have("git") {
        return;
    }
    let repository = Repository::new();
    repository.write("a", "1");
    repository.publish("one");
    let address = daemon(repository.base());
    let mut remote = remote(&format!("git://{address}/site.git#main"));
    let told = std::sync::Arc::new(std::sync::Mutex::new((0, String::new())));
    let sink = std::sync::Arc::clone(&told);
    remote.progress = Some(std::sync::Arc::new(move |progress: unipi::git::Progress<'_>| {
        let mut told = sink.lock().unwrap();
        match progress {
            unipi::git::Progress::Remote(text) => told.1.push_str(text),
            unipi::git::Progress::Objects { done, total, .. } => {
                assert!(done <= total);
                told.0 = done;
            }
        }
    }));
    fetch_new(&remote, None);
    let told = told.lock().unwrap();
    assert_eq!(told.0, 3);
    assert!(told.1.contains("Counting objects") || told.1.contains("Enumerating"), "{}", told.1);
}

#[test]
fn signed_commits_show_signature_and_payload() {
    if !have("git") || !have("ssh-keygen") {
        return;
    }
    let repository = Repository::new();
    let key = repository.base().join("key");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    repository.write("a", "1");
    repository.git(&["add", "-A"]);
    repository.git(&["config", "gpg.format", "ssh"]);
    repository.git(&["config", "user.signingkey", key.to_str().unwrap()]);
    repository.git(&["commit", "-q", "-S", "-m", "signed\n\ngpgsig is no header here"]);
    repository.git(&["push", "-q", "origin", "HEAD"]);
    let address = daemon(repository.base());
    let generation = fetch_new(&remote(&format!("git://{address}/site.git")), None);
    let signature = generation.commit.signature.clone().unwrap();
    assert!(signature.starts_with(b"-----BEGIN SSH SIGNATURE-----\n"));
    // OpenSSH itself says whether payload and signature belong together.
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let signers = repository.base().join("signers");
    std::fs::write(&signers, format!("ann@example.test {public}")).unwrap();
    let file = repository.base().join("signature");
    std::fs::write(&file, &signature).unwrap();
    let payload = repository.base().join("payload");
    std::fs::write(&payload, generation.commit.signed_payload()).unwrap();
    let verified = std::process::Command::new("ssh-keygen")
        .args(["-Y", "verify", "-n", "git", "-I", "ann@example.test", "-f"])
        .arg(&signers)
        .arg("-s")
        .arg(&file)
        .stdin(std::fs::File::open(&payload).unwrap())
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn a_fetch_may_run_on_any_runtime() {
    fn sendable<T: Send>(_: &T) {}
    let remote = remote("git://192.0.2.1/site.git");
    sendable(&unipi::git::fetch(&remote, None, &Limits::default()));
}

#[test]
fn remotes_are_read_as_they_are_written() {
    for (text, shown, reference) in [
        ("https://example.test/a/b.git#main", "https://example.test/a/b.git", Some("main")),
        ("http://u:p@example.test:8080/b", "http://example.test:8080/b", None),
        ("git://example.test/b#", "git://example.test:9418/b", None),
        ("git://[2001:db8::1]:99/b", "git://[2001:db8::1]:99/b", None),
        ("ssh://example.test/b.git", "ssh://git@example.test:22/b.git", None),
        ("ssh://me@example.test:2222/~/b", "ssh://me@example.test:2222/~/b", None),
        ("git@example.test:a/b.git#v1", "ssh://git@example.test:22/~/a/b.git", Some("v1")),
    ] {
        let remote = remote(text);
        assert_eq!(remote.url.to_string(), shown);
        assert_eq!(remote.reference.as_deref(), reference);
    }
    for text in [
        "",
        "/some/path",
        "file:///some/path",
        "ftp://example.test/b",
        "https://",
        "git://example.test",
        "git:///b",
        "https://example.test/a b",
        "https://example.test/b?query",
        "git://example.test/b%0Ahost=x",
        "git://example.test/b%4",
        "https://example.test/b#a..b",
        "https://example.test/b#-x",
        "https://example.test/b#a b",
    ] {
        let error = unipi::git::Remote::parse(text).unwrap_err();
        assert!(matches!(error, FetchError::Configuration(_)), "{text}");
    }
}

//! The ways to a git server: HTTP with what forges put around it, TLS, SSH, and servers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use git_support::http::{Behaviour, Server};
use git_support::{Repository, assert_shows, fetch, fetch_new, have, remote, run, ssh};
use unipi::git::{Credentials, FetchError, Fetched, HostKeyPin, Limits, Remote};

fn repository() -> (Repository, String) {
    let repository = Repository::new();
    for number in 0..50 {
        repository.write(format!("{number}"), format!("{number}\n").repeat(500));
    }
    let tip = repository.publish("one");
    (repository, tip)
}

/// Fetches, finds nothing new, and fetches a change.
fn follow(repository: &Repository, tip: &str, remote: &Remote) {
    let first = fetch_new(remote, None);
    assert_shows(repository, tip, &first);
    assert!(matches!(fetch(remote, Some(&first)).unwrap(), Fetched::Unchanged));
    repository.write("7", "changed");
    let tip = repository.publish("two");
    let Fetched::New { generation, transfer } = fetch(remote, Some(&first)).unwrap() else {
        panic!("nothing new");
    };
    assert_shows(repository, &tip, &generation);
    assert!(transfer.objects <= 3, "{transfer:?}");
}

#[test]
fn http_of_both_versions() {
    if !have("git") {
        return;
    }
    for old in [false, true] {
        let (repository, tip) = repository();
        let behaviour = Behaviour { old, ..Behaviour::default() };
        let server = Server::start(repository.base().to_owned(), behaviour);
        follow(&repository, &tip, &remote(&server.url("/site.git/#main")));
    }
}

#[test]
fn an_unchanged_reference_costs_two_requests() {
    if !have("git") {
        return;
    }
    let (repository, _) = repository();
    let server = Server::start(repository.base().to_owned(), Behaviour::default());
    let remote = remote(&server.url("/site.git#main"));
    let known = fetch_new(&remote, None);
    server.log.lock().unwrap().clear();
    assert!(matches!(fetch(&remote, Some(&known)).unwrap(), Fetched::Unchanged));
    let log = server.log.lock().unwrap();
    let seen: Vec<_> = log.iter().map(|(method, target, _)| format!("{method} {target}")).collect();
    let expected =
        ["GET /site.git/info/refs?service=git-upload-pack", "POST /site.git/git-upload-pack"];
    assert_eq!(seen, expected);
}

#[test]
fn https_with_a_given_authority_and_without() {
    if !have("git") {
        return;
    }
    let (repository, tip) = repository();
    let behaviour = Behaviour { tls: true, ..Behaviour::default() };
    let server = Server::start(repository.base().to_owned(), behaviour);
    let mut remote = remote(&server.url("/site.git#main"));
    let error = fetch(&remote, None).unwrap_err();
    assert!(matches!(error, FetchError::Refused(_)), "{error}");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.certificate.as_ref().unwrap().der().clone()).unwrap();
    remote.roots = Some(Arc::new(roots));
    follow(&repository, &tip, &remote);
}

#[test]
fn credentials_are_sent_and_wrong_ones_refused() {
    if !have("git") {
        return;
    }
    let (repository, tip) = repository();
    // RFC 7617, section 2, and RFC 6750, section 2.1.
    for (demanded, url_part, credentials) in [
        ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin:open%20sesame@", None),
        (
            "Bearer mF_9.B5f-4.1JqM",
            "",
            Some(Credentials::Bearer("mF_9.B5f-4.1JqM".to_owned().into())),
        ),
    ] {
        let behaviour = Behaviour { authorization: Some(demanded.into()), ..Behaviour::default() };
        let server = Server::start(repository.base().to_owned(), behaviour);
        let error = fetch(&remote(&server.url("/site.git#main")), None).unwrap_err();
        assert!(matches!(error, FetchError::Refused(_)), "{error}");
        let url = server.url("/site.git#main").replace("://", &format!("://{url_part}"));
        let mut remote = remote(&url);
        if credentials.is_some() {
            remote.credentials = credentials;
        }
        assert!(!format!("{remote:?} {}", remote.url).contains("sesame"));
        assert_shows(&repository, &tip, &fetch_new(&remote, None));
    }
}

#[test]
fn redirects_are_followed_without_giving_secrets_away() {
    if !have("git") {
        return;
    }
    let (repository, tip) = repository();
    let target = Server::start(repository.base().to_owned(), Behaviour::default());
    let moved = |to: String| {
        let behaviour = Behaviour { moved_to: Some(to), ..Behaviour::default() };
        Server::start(repository.base().to_owned(), behaviour)
    };
    let basic = Some(Credentials::Basic { user: "u".into(), password: "p".to_owned().into() });

    // To another server: it must not see the password.
    let elsewhere = moved(target.url(""));
    let mut there = remote(&elsewhere.url("/moved/site.git#main"));
    there.credentials = basic.clone();
    assert_shows(&repository, &tip, &fetch_new(&there, None));
    assert!(elsewhere.log.lock().unwrap()[0].2.is_some());
    assert!(target.log.lock().unwrap().iter().all(|(_, _, secret)| secret.is_none()));

    // On the same server: it may.
    let within = moved(String::new());
    let mut there = remote(&within.url("/moved/site.git#main"));
    there.credentials = basic;
    assert_shows(&repository, &tip, &fetch_new(&there, None));
    assert!(within.log.lock().unwrap().iter().all(|(_, _, secret)| secret.is_some()));

    // Round and round.
    let round = moved("/moved".to_owned());
    let error = fetch(&remote(&round.url("/moved/site.git#main")), None).unwrap_err();
    assert!(matches!(error, FetchError::Limit { name: "redirects", .. }), "{error}");
    assert_eq!(round.log.lock().unwrap().len(), 5);

    // Out of TLS.
    let behaviour = Behaviour { tls: true, moved_to: Some(target.url("")), ..Behaviour::default() };
    let secure = Server::start(repository.base().to_owned(), behaviour);
    let mut there = remote(&secure.url("/moved/site.git#main"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(secure.certificate.as_ref().unwrap().der().clone()).unwrap();
    there.roots = Some(Arc::new(roots));
    let error = fetch(&there, None).unwrap_err();
    assert!(matches!(error, FetchError::Refused(_)), "{error}");
}

#[test]
fn http_errors_are_told_apart() {
    for (status, kind, expected) in [
        (403, "text/plain", "Refused"),
        (404, "text/plain", "NoRepository"),
        (503, "text/plain", "Unreachable"),
        (429, "text/plain", "Unreachable"),
        (418, "text/plain", "Protocol"),
        (200, "text/html", "NoRepository"),
        (200, "application/x-git-upload-pack-advertisement", "Protocol"),
        (301, "text/plain", "Protocol"),
    ] {
        let behaviour = Behaviour { fixed: Some((status, kind)), ..Behaviour::default() };
        let server = Server::start(std::env::temp_dir(), behaviour);
        let error = fetch(&remote(&server.url("/site.git#main")), None).unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{status} {kind}: {error:?}");
    }
}

#[test]
fn ssh_with_openssh() {
    if !have("git") || !ssh::available() {
        return;
    }
    for (key, modern) in [("ed25519", true), ("ed25519", false), ("rsa", true)] {
        let (repository, tip) = repository();
        let server = ssh::Server::start(repository.base(), key, modern);
        let url = |path: &str| format!("ssh://{}@{}{path}#main", server.user, server.address);
        let path = repository.bare();
        let mut remote = remote(&url(path.to_str().unwrap()));
        remote.ssh = Some(server.identity.clone());
        follow(&repository, &tip, &remote);
        // The other form of a pin.
        let mut identity = server.identity.clone();
        identity.host_key = HostKeyPin::Fingerprint(server.fingerprint.clone());
        remote.ssh = Some(identity.clone());
        fetch_new(&remote, None);
        // Another server than expected.
        identity.host_key = HostKeyPin::Fingerprint(format!("SHA256:{}", "A".repeat(43)));
        remote.ssh = Some(identity);
        let error = fetch(&remote, None).unwrap_err();
        assert!(matches!(&error, FetchError::Refused(text) if text.contains(&server.fingerprint)));
        // Paths go through a shell on the server.
        let mut absent = git_support::remote(&url("/no/such'%20;%20echo%20oops/site.git"));
        absent.ssh = Some(server.identity.clone());
        let error = fetch(&absent, None).unwrap_err();
        assert!(matches!(&error, FetchError::NoRepository(_)), "{error}");
    }
}

#[test]
fn a_silent_server_and_a_slow_one_are_left() {
    // What the server sends, byte by byte; then nothing more.
    let serve = |drip: &'static [u8]| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for byte in drip {
                std::thread::sleep(Duration::from_millis(20));
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
            }
            let _ = stream.read_to_end(&mut Vec::new());
        });
        remote(&format!("git://{address}/site.git#main"))
    };
    let limits = Limits {
        idle_time: Duration::from_millis(300),
        total_time: Duration::from_millis(900),
        ..Limits::default()
    };
    let error = run(unipi::git::fetch(&serve(b""), None, &limits)).unwrap_err();
    assert!(matches!(error, FetchError::Idle(_)), "{error}");
    let drip = b"fff0".repeat(1000).leak();
    let error = run(unipi::git::fetch(&serve(drip), None, &limits)).unwrap_err();
    assert!(matches!(error, FetchError::TooLong(_)), "{error}");
}

#[test]
fn servers_that_talk_nonsense_are_named_as_such() {
    let talk = |text: Vec<u8>| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(&text);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        fetch(&remote(&format!("git://{address}/site.git#main")), None).unwrap_err()
    };
    let v2 = "000eversion 2\n000cls-refs\n000afetch\n0000";
    let id = "1234567890123456789012345678901234567890";
    let reference = format!("003d{id} refs/heads/main\n0000");
    for (expected, text) in [
        ("Protocol", "HTTP/1.1 400 Bad Request\r\n".to_owned()),
        ("Protocol", "zzzz".to_owned()),
        ("Protocol", "0001".to_owned()),
        ("Protocol", "000eversion 2\n0000".to_owned()),
        ("Protocol", "000eversion 2\n0015object-format=md5\n000cls-refs\n000afetch\n0000".into()),
        ("Connection", String::new()),
        ("Connection", "00".to_owned()),
        ("Connection", "000eversion 2\n".to_owned()),
        ("Connection", v2.to_owned()),
        ("Remote", "0010ERR go away\n".to_owned()),
        ("NoRepository", "0021ERR access denied or not there".to_owned()),
        ("Protocol", format!("{v2}000bnot-ok\n0000")),
        (
            "Protocol",
            format!("{v2}003dnothex7890123456789012345678901234567890 refs/heads/main\n0000"),
        ),
        ("Protocol", format!("{v2}{reference}0000")),
        ("Pack", format!("{v2}{reference}000dpackfile\n0011\x01PACKnonsense0000")),
        ("Pack", format!("{v2}{reference}000dpackfile\n0000")),
        ("Remote", format!("{v2}{reference}000dpackfile\n0012\x03out of memory0000")),
        ("Protocol", format!("{v2}{reference}000dpackfile\n0009\x07what0000")),
        ("Connection", format!("{v2}{reference}000dpackfile\n0009\x01PACK")),
    ] {
        let error = talk(text.clone().into_bytes());
        assert!(format!("{error:?}").starts_with(expected), "{text:?}: {error:?}");
    }
}

#[test]
fn nobody_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for scheme in ["git", "http", "https"] {
        let error = fetch(&remote(&format!("{scheme}://{address}/x.git")), None).unwrap_err();
        assert!(matches!(error, FetchError::Unreachable(_)), "{error}");
    }
}

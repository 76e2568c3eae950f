//! The site server as a unikernel, in a virtual machine and as a confined process: fetched over every transport, pushed to,
//! managed, killed and started again. Each test runs itself again in a network namespace of its own.
//!
//! Other tests of the program run against the unikernel as well: `ACCEPTANCE_WAY=hvt` in a namespace, which `.ci/run` does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;
mod site_support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use acceptance::name_server::{Kind, Policy, Setup, Zone};
use acceptance::peer::run;
use acceptance::unikernel::{Networks, backend_address, enter_namespace};
use git_support::{Repository, git, git_command, http, ssh};
use site_support::{Forge, Unipi, available, get};

const NAME: &str = "site.example.org";
const SECRET: &str = "a secret for the hook";
const TOKEN: &str = "a-token-for-tests-0123456789";
/// Where a name server listens: nobody else is in the namespace.
const DNS_PORT: u16 = 5300;

fn peers() -> bool {
    available(&["git", "curl"])
}

/// A file for an option that names one.
fn file(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A page over TLS and in the clear, a push, a webhook, sites by the control tool; and all of it again after the machine
/// was killed, with the git server gone.
fn everyday() {
    if !peers() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut forge = Forge::start();
    let text = "Some words that repeat. ".repeat(500);
    forge.write("index.html", "<h1>one</h1>");
    forge.write("words.txt", &text);
    forge.push("one");
    let secret = file(folder.path(), "secret", SECRET);
    let token = file(folder.path(), "token", TOKEN);
    let options = [
        &["--storage", "site.img", "--storage-size", "64MiB", "--control", "127.0.0.1:0"][..],
        &["--key-file", "control.key", "--listen-https", "127.0.0.1:0", "--self-signed"],
        &["--hostname", NAME, "--hook-secret-file", &secret, "--push-token-file", &token],
    ]
    .concat();
    let mut unipi = Unipi::start(&forge.remote(), &options);
    unipi.shows("/", "<h1>one</h1>");
    let secure = |unipi: &Unipi| {
        let https = unipi.https.expect("TLS");
        let to = format!("::{https}");
        let answer = get(&format!("https://{NAME}/"), &["-k", "--http2", "--connect-to", &to]);
        (answer.version, answer.status, answer.body)
    };
    assert_eq!(secure(&unipi), ("HTTP/2".to_owned(), 200, b"<h1>one</h1>".to_vec()));
    for coding in ["gzip", "br", "zstd"] {
        let accept = format!("Accept-Encoding: {coding}");
        site_support::eventually(coding, || {
            let answer = get(&unipi.url("/words.txt"), &["-H", &accept]);
            answer.header("content-encoding") == Some(coding) && answer.body.len() < 1000
        });
    }
    assert!(get(&unipi.url("/words.txt"), &["--compressed"]).body == text.as_bytes());

    // The forge says that there is something new.
    forge.write("index.html", "<h1>two</h1>");
    forge.push("two");
    let hook = |token: &str| {
        let body = r#"{"ref":"refs/heads/main"}"#;
        let token = format!("X-Gitlab-Token: {token}");
        let kind = "Content-Type: application/json";
        get(&unipi.url("/hook"), &["-H", kind, "-H", &token, "-d", body]).status
    };
    assert_eq!((hook("a guess"), hook(SECRET)), (403, 202));
    unipi.shows("/", "<h1>two</h1>");

    // A push straight to it.
    let work = folder.path().join("clone");
    let url = format!("http://me:{TOKEN}@{}/site.git", unipi.http);
    git(folder.path(), &["clone", "-q", &url, "clone"]);
    std::fs::write(work.join("index.html"), "<h1>three</h1>").unwrap();
    git(&work, &["commit", "-qam", "three"]);
    let pushed = git_command(&work).arg("push").output().unwrap();
    let said = String::from_utf8_lossy(&pushed.stderr).into_owned();
    assert!(pushed.status.success() && said.contains("is live as generation 3"), "{said}");
    assert_eq!(get(&unipi.url("/"), &[]).body, b"<h1>three</h1>");

    // More sites.
    let docs = Forge::start();
    docs.write("index.html", "the docs");
    docs.push("docs");
    assert!(unipi.ctl(&["site", "add", "docs.example.org", &docs.remote()]).0, "{}", unipi.log());
    unipi.host_shows("docs.example.org", "/", "the docs");

    drop(docs);
    forge.down();
    unipi.kill();
    unipi.spawn(&forge.remote(), &options);
    assert_eq!(get(&unipi.url("/"), &[]).body, b"<h1>three</h1>", "from the first request on");
    let docs = get(&unipi.url("/"), &["-H", "Host: docs.example.org"]);
    assert_eq!(docs.body, b"the docs");
    assert_eq!(secure(&unipi).2, b"<h1>three</h1>");
    let log = unipi.ctl_json(&["site", "log", "default"]);
    assert_eq!(log["live"], 3);
    assert_eq!(unipi.stop(), Some(0), "{}", unipi.log());
}

#[test]
fn everyday_in_a_virtual_machine() {
    if !enter_namespace("everyday_in_a_virtual_machine", "hvt") {
        everyday();
    }
}

#[test]
fn everyday_in_a_confined_process() {
    if !enter_namespace("everyday_in_a_confined_process", "hvt-process") {
        everyday();
    }
}

/// git:// by name, http, and ssh with both kinds of keys.
#[test]
fn repositories_are_reached_over_every_transport() {
    if enter_namespace("repositories_are_reached_over_every_transport", "hvt") {
        return;
    }
    if !peers() || !ssh::available() || !Kind::Bind.available() {
        return;
    }
    let here = backend_address();
    let zone =
        Zone { records: format!("git A {here}"), ..Zone::new("forge.test", here, Policy::Closed) };
    let names = Setup::new(Kind::Bind, SocketAddr::new(here, DNS_PORT)).with(zone).start();
    let name_server = names.address().to_string();
    let repository = Repository::new();
    repository.write("index.html", "fetched");
    repository.publish("one");
    let base = repository.base().to_owned();

    let forge = Forge::start();
    forge.write("index.html", "by name");
    forge.push("by name");
    let by_name = forge.remote().replace(&here.to_string(), "git.forge.test");
    let unipi = Unipi::start(&by_name, &["--name-server", &name_server]);
    unipi.shows("/", "by name");

    let server = http::Server::start(base.clone(), http::Behaviour::default());
    let unipi = Unipi::start(&format!("http://{}/site.git#main", server.address), &[]);
    unipi.shows("/", "fetched");

    let secure = http::Behaviour { tls: true, ..http::Behaviour::default() };
    let server = http::Server::start(base.clone(), secure);
    let pem = server.certificate.as_ref().unwrap().pem().replace('\n', " ");
    let remote = format!("https://{}/site.git#main", server.address);
    let unipi = Unipi::start(&remote, &["--remote-ca-pem", &pem]);
    unipi.shows("/", "fetched");

    for kind in ["ed25519", "rsa"] {
        let server = ssh::Server::start(&base, kind, true);
        let path = repository.bare();
        let remote = format!("ssh://{}@{}{}#main", server.user, server.address, path.display());
        let text = server.identity.private_key.as_str();
        let key: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let pin = server.fingerprint.as_str();
        let unipi = Unipi::start(&remote, &["--ssh-key", &key, "--ssh-authenticator", pin]);
        unipi.shows("/", "fetched");
    }
}

/// While 20 MB arrive and their variants are made, every request for the old site is answered.
#[test]
fn serving_goes_on_while_a_site_is_fetched() {
    if enter_namespace("serving_goes_on_while_a_site_is_fetched", "hvt") || !peers() {
        return;
    }
    let forge = Forge::start();
    forge.write("index.html", "small");
    forge.push("small");
    let unipi = Unipi::start(&forge.remote(), &["--hook-open"]);
    unipi.shows("/", "small");
    let words: Vec<String> = (0..20_000_u32).map(|n| format!("word{} ", n * n % 7919)).collect();
    for number in 0..100_usize {
        let page = [&words[number * 100..], &words[..number * 100]].concat().concat();
        forge.write(&format!("page{number}.html"), page);
    }
    forge.write("index.html", "large");
    forge.push("large");
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let page = get(&unipi.url("/"), &[]);
                assert_eq!(page.status, 200);
                assert!([&b"small"[..], b"large"].contains(&page.body.as_slice()));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(get(&unipi.url("/hook"), &[]).status, 202);
        unipi.shows("/", "large");
        let before = answered.load(Ordering::Relaxed);
        // Compressing a hundred pages goes on after they are live, and answers go on with it.
        site_support::eventually("answers while variants are made", || {
            answered.load(Ordering::Relaxed) > before + 10
        });
        done.store(true, Ordering::Relaxed);
    });
    site_support::eventually("the last page has variants", || {
        let answer = get(&unipi.url("/page99.html"), &["-H", "Accept-Encoding: zstd"]);
        answer.header("content-encoding") == Some("zstd")
    });
}

/// What cannot work in a guest is told, and ends it.
#[test]
fn mistakes_on_the_command_line_are_told() {
    if enter_namespace("mistakes_on_the_command_line_are_told", "hvt") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let networks = Networks::make_service();
    let remote = "--remote=git://192.0.2.1/site.git";
    for (arguments, code, said) in [
        (&["--ipv4=10.0.0.300/24", remote][..], 64, "no IPv4 address"),
        (&["--private-ipv4=10.0.0.2/24", remote], 64, "no such interface"),
        (&["--port=http", remote], 64, "invalid value"),
        (&[remote, "--hook-secret-file=/etc/secret"], 1, "cannot read /etc/secret"),
        (&[remote, "--hook-secret=\n"], 1, "--hook-secret: the webhook's secret is empty"),
        (
            &["--storage=/dev/storage", "--control=0.0.0.0:1235"],
            64,
            "no place for a new one next to a device",
        ),
        (
            &["--storage=/dev/storage", "--control=0.0.0.0:1235", "--control-key=short"],
            64,
            "--control-key",
        ),
    ] {
        let mut command = networks.command(&folder.path().join("storage"));
        let output = run(command.args(arguments), b"", Duration::from_secs(20));
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
}

//! A forge with a certificate of an authority of one's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod git_support;
mod site_support;

use git_support::{Repository, http};
use site_support::{Unipi, available, eventually, get};

const NAME: &str = "docs.example.org";

#[test]
fn it_is_trusted_for_the_remotes_of_all_sites() {
    if !available(&["git", "curl"]) {
        return;
    }
    let repository = Repository::new();
    repository.write("index.html", "fetched");
    repository.publish("one");
    let behaviour = http::Behaviour { tls: true, ..http::Behaviour::default() };
    let server = http::Server::start(repository.base().to_owned(), behaviour);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, server.certificate.as_ref().unwrap().pem()).unwrap();
    let remote = server.url("/site.git#main");

    let control =
        ["--control", "127.0.0.1:0", "--storage", "site.img", "--key-file", "control.key"];
    let trusting = [&control[..], &["--remote-ca", ca.to_str().unwrap()]].concat();
    let mut unipi = Unipi::start(&remote, &trusting);
    unipi.shows("/", "fetched");
    let added = unipi.ctl(&["site", "add", NAME, &remote]);
    assert!(added.0, "{}", added.1);
    unipi.host_shows(NAME, "/", "fetched");

    // Without it, nothing new comes, and it is said why.
    unipi.kill();
    repository.write("index.html", "another");
    repository.publish("two");
    unipi.spawn(&remote, &[&control[..], &["--status-path", "/status"]].concat());
    eventually("the authority is refused", || {
        let log = String::from_utf8(get(&unipi.url("/status.json"), &[]).body).unwrap();
        log.contains("--remote-ca")
    });
    assert_eq!(get(&unipi.url("/"), &[]).body, b"fetched");
}

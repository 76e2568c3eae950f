//! Passthrough, re-encrypt, reject, client certificates, wildcards, several backends: each by the real programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{Process, available, eventually, run};
use acceptance::{Gateway, client};

const LIMIT: Duration = Duration::from_secs(30);

fn openssl(arguments: &[&str]) {
    let output = run(Command::new("openssl").args(arguments), b"", LIMIT);
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
}

/// A self-signed certificate for `name` as `NAME.pem` and `NAME.key` in `folder`.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let (subject, names) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
    let (cert_text, key_text) = (cert.to_str().unwrap(), key.to_str().unwrap());
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "5",
        "-subj",
        &subject,
        "-addext",
        &names,
        "-keyout",
        key_text,
        "-out",
        cert_text,
    ]);
    (cert, key)
}

/// A TLS server of OpenSSL's own that answers with a status page.
fn tls_server(folder: &Path, cert: &Path, key: &Path) -> (SocketAddr, Process) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-www", "-accept", &address.to_string(), "-cert"])
        .arg(cert)
        .arg("-key")
        .arg(key);
    let process = Process::start(&mut command, &folder.join("s_server.log"));
    eventually("s_server listens", || std::net::TcpStream::connect(address).is_ok());
    (address, process)
}

#[test]
fn passthrough_and_termination_share_the_port() {
    if !available(&["openssl"]) {
        return;
    }
    let gateway = Gateway::start();
    let name = format!("sealed.{DOMAIN}");
    let (cert, key) = certificate(gateway.folder(), &name);
    let (server, _process) = tls_server(gateway.folder(), &cert, &key);
    let blog = Backend::http("blog");
    gateway.ctl(&["add", "sealed", &server.to_string(), "--mode", "passthrough"]);
    gateway.ctl(&["add", "blog", &blog.to_arg()]);
    let mut tls = client::connect(gateway.https, &name, &client::config(&cert, &[]))
        .expect("the backend's certificate");
    assert!(client::get(&mut tls, &name, "/").unwrap().contains("s_server"));
    let terminated = client::config(&gateway.ca_file(), &[]);
    let mut tls = client::connect(gateway.https, &format!("blog.{DOMAIN}"), &terminated)
        .expect("our certificate");
    assert!(client::get(&mut tls, "blog.apps.localhost", "/").unwrap().contains("backend blog"));
}

#[test]
fn reencrypt_verifies_the_backend() {
    if !available(&["openssl"]) {
        return;
    }
    let gateway = Gateway::start();
    let (cert, key) = certificate(gateway.folder(), "inner.example");
    let (other, _) = certificate(gateway.folder(), "other.example");
    let (server, _process) = tls_server(gateway.folder(), &cert, &key);
    let (server, cert, other) =
        (server.to_string(), cert.to_str().unwrap(), other.to_str().unwrap());
    let add = |options: &[&str]| {
        let mut all = vec!["add", "--replace", "inner", &server, "--mode", "reencrypt"];
        all.extend(options);
        gateway.ctl(&all);
    };
    let name = format!("inner.{DOMAIN}");
    let config = client::config(&gateway.ca_file(), &[]);
    let ask = || {
        let mut tls = client::connect(gateway.https, &name, &config).expect("TLS");
        client::get(&mut tls, &name, "/").unwrap_or_default()
    };
    add(&["--backend-ca", cert, "--backend-name", "inner.example"]);
    assert!(ask().contains("s_server"), "a trusted backend");
    add(&["--backend-ca", cert]);
    assert!(ask().contains("502"), "the backend's certificate is for another name");
    add(&["--backend-ca", other, "--backend-name", "inner.example"]);
    assert!(ask().contains("502"), "the backend's certificate is from elsewhere");
    let spki = Command::new("sh")
        .args([
            "-c",
            "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der | sha256sum",
            cert,
        ])
        .output()
        .unwrap();
    let pin = String::from_utf8_lossy(&spki.stdout)[..64].to_owned();
    add(&["--backend-pin", &pin]);
    assert!(ask().contains("s_server"), "a pinned key");
    add(&["--backend-pin", &"0".repeat(64)]);
    assert!(ask().contains("502"), "another pin");
}

#[test]
fn wildcards_and_reject() {
    let gateway = Gateway::start();
    let (any, deep, exact) = (Backend::http("any"), Backend::http("deep"), Backend::http("exact"));
    gateway.ctl(&["add", &format!("*.{DOMAIN}"), &any.to_arg()]);
    gateway.ctl(&["add", &format!("x.{DOMAIN}"), &exact.to_arg()]);
    gateway.ctl(&["add", "closed", "--mode", "reject"]);
    gateway.ctl(&["add", &format!("*.y.{DOMAIN}"), &deep.to_arg(), "--mode", "passthrough"]);
    let config = client::config(&gateway.ca_file(), &[]);
    let ask = |name: &str| {
        let mut tls = client::connect(gateway.https, &format!("{name}.{DOMAIN}"), &config)?;
        client::get(&mut tls, name, "/")
    };
    assert!(ask("whatever").unwrap().contains("backend any"));
    assert!(ask("x").unwrap().contains("backend exact"));
    let refused = ask("closed").expect_err("rejected").to_string();
    assert!(
        refused.contains("UnrecognizedName") || refused.contains("UnrecognisedName"),
        "{refused}"
    );
    let why = gateway.ctl(&["why", &format!("z.y.{DOMAIN}")]);
    assert!(why.contains(&deep.to_arg()), "the longest wildcard wins: {why}");
}

#[test]
fn client_certificates_are_asked_for_where_a_route_says_so() {
    if !available(&["openssl", "curl"]) {
        return;
    }
    let gateway = Gateway::start();
    let (cert, key) = certificate(gateway.folder(), "client.example");
    let (_, stranger_key) = certificate(gateway.folder(), "stranger.example");
    let stranger = gateway.folder().join("stranger.example.pem");
    let private = Backend::http("private");
    gateway.ctl(&["add", "private", &private.to_arg(), "--client-ca", cert.to_str().unwrap()]);
    let curl = |identity: Option<(&Path, &Path)>| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "--cacert"]).arg(gateway.ca_file());
        if let Some((cert, key)) = identity {
            curl.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        curl.arg(format!("https://private.{DOMAIN}:{}/", gateway.https.port()));
        let output = run(&mut curl, b"", LIMIT);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(curl(Some((&cert, &key))).contains("backend private"));
    assert!(!curl(None).contains("backend private"));
    assert!(!curl(Some((&stranger, &stranger_key))).contains("backend private"));
    assert_eq!(private.connections(), 1);
}

#[test]
fn several_backends_share_the_work_and_stand_in_for_each_other() {
    let gateway = Gateway::start();
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = client::config(&gateway.ca_file(), &[]);
    let ask = || {
        let mut tls =
            client::connect(gateway.https, &format!("many.{DOMAIN}"), &config).expect("TLS");
        client::get(&mut tls, "many", "/").expect("an answer")
    };
    gateway.ctl(&["add", "many", &a.to_arg(), &b.to_arg(), &dead]);
    for _ in 0..12 {
        assert!(ask().contains("200 OK"), "a dead backend costs nobody an answer");
    }
    assert!(
        a.connections() >= 4 && b.connections() >= 4,
        "{} {}",
        a.connections(),
        b.connections()
    );

    gateway.ctl(&["add", "--replace", "many", &a.to_arg(), &b.to_arg(), "--balance", "hash"]);
    let first = ask();
    let which = if first.contains("backend a") { "backend a" } else { "backend b" };
    for _ in 0..6 {
        assert!(ask().contains(which), "one client, one backend");
    }

    gateway.ctl(&["add", "--replace", "many", &dead]);
    let answer = ask();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    gateway.ctl(&["add", "--replace", "many", &dead, "--failure", "close"]);
    let mut tls = client::connect(gateway.https, &format!("many.{DOMAIN}"), &config).expect("TLS");
    assert!(client::get(&mut tls, "many", "/").is_err(), "no HTTP to who does not want it");

    gateway.ctl(&[
        "add",
        "--replace",
        "many",
        &a.to_arg(),
        &dead,
        "--health",
        "interval=1s,fall=1,rise=1",
    ]);
    eventually("the dead backend is marked", || {
        let shown: serde_json::Value =
            serde_json::from_str(&gateway.ctl(&["--json", "show", "many"])).unwrap();
        shown["backends"].as_array().unwrap().iter().filter(|b| b["healthy"] == false).count() == 1
    });
}

#[test]
fn a_backend_may_be_given_by_name() {
    let gateway = Gateway::start();
    let blog = Backend::http("blog");
    gateway.ctl(&["add", "blog", &format!("localhost:{}", blog.address().port())]);
    let config = client::config(&gateway.ca_file(), &[]);
    let mut tls = client::connect(gateway.https, &format!("blog.{DOMAIN}"), &config).expect("TLS");
    assert!(client::get(&mut tls, "blog", "/").unwrap().contains("backend blog"));
}

//! Passthrough, re-encrypt, reject, client certificates, wildcards, several backends: each by the real programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{Process, available, eventually, run};
use acceptance::unikernel::{Way, backend_address, way};
use acceptance::{Gateway, client};

const LIMIT: Duration = Duration::from_secs(30);

fn openssl(arguments: &[&str]) {
    let output = run(Command::new("openssl").args(arguments), b"", LIMIT);
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
}

/// A certificate for `name` from an authority of its own: `NAME.pem` (with the authority's), `NAME.key`, `NAME.ca`.
struct Issued {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

fn certificate(folder: &Path, name: &str) -> Issued {
    let path = |end: &str| folder.join(format!("{name}.{end}"));
    let (cert, key, ca, ca_key) = (path("pem"), path("key"), path("ca"), path("ca-key"));
    let subject = format!("/CN={name}");
    let names = format!("subjectAltName=DNS:{name}");
    let curve = "ec_paramgen_curve:P-256";
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-days", "5"];
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert_file, key_file, ca_file, ca_key_file) =
        (text(&cert), text(&key), text(&ca), text(&ca_key));
    let mut authority = new.to_vec();
    authority.extend(["-subj", "/CN=authority", "-keyout", &ca_key_file, "-out", &ca_file]);
    openssl(&authority);
    let mut leaf = new.to_vec();
    leaf.extend([
        "-subj",
        &subject,
        "-addext",
        &names,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    leaf.extend([
        "-CA",
        &ca_file,
        "-CAkey",
        &ca_key_file,
        "-keyout",
        &key_file,
        "-out",
        &cert_file,
    ]);
    openssl(&leaf);
    Issued { cert, key, ca }
}

/// A TLS server of OpenSSL's own that answers with a status page.
fn tls_server(folder: &Path, issued: &Issued) -> (SocketAddr, Process) {
    let address = TcpListener::bind((backend_address(), 0)).unwrap().local_addr().unwrap();
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-www", "-accept", &address.to_string(), "-cert"])
        .arg(&issued.cert)
        .arg("-key")
        .arg(&issued.key);
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
    let issued = certificate(gateway.folder(), &name);
    let (server, _process) = tls_server(gateway.folder(), &issued);
    let blog = Backend::http("blog");
    gateway.ctl(&["add", "sealed", &server.to_string(), "--mode", "passthrough"]);
    gateway.ctl(&["add", "blog", &blog.to_arg()]);
    let mut tls = client::connect(gateway.https, &name, &client::config(&issued.ca, &[]))
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
    let issued = certificate(gateway.folder(), "inner.example");
    let other = certificate(gateway.folder(), "other.example");
    let (server, _process) = tls_server(gateway.folder(), &issued);
    let server = server.to_string();
    let (cert, ca, other) =
        (issued.cert.to_str().unwrap(), issued.ca.to_str().unwrap(), other.ca.to_str().unwrap());
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
    add(&["--backend-ca", ca, "--backend-name", "inner.example"]);
    assert!(ask().contains("s_server"), "a trusted backend");
    add(&["--backend-ca", ca]);
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
    let client = certificate(gateway.folder(), "client.example");
    let stranger = certificate(gateway.folder(), "stranger.example");
    let private = Backend::http("private");
    gateway.ctl(&["add", "private", &private.to_arg(), "--client-ca", client.ca.to_str().unwrap()]);
    let curl = |identity: Option<&Issued>| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "--cacert"]).arg(gateway.ca_file());
        if let Some(Issued { cert, key, .. }) = identity {
            curl.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        curl.args(gateway.curl_options());
        curl.arg(format!("https://private.{DOMAIN}:{}/", gateway.https.port()));
        let output = run(&mut curl, b"", LIMIT);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(curl(Some(&client)).contains("backend private"));
    assert!(!curl(None).contains("backend private"));
    assert!(!curl(Some(&stranger)).contains("backend private"));
    assert_eq!(private.connections(), 1);
}

#[test]
fn several_backends_share_the_work_and_stand_in_for_each_other() {
    let gateway = Gateway::start();
    let (a, b) = (Backend::http("a"), Backend::http("b"));
    let dead = TcpListener::bind((backend_address(), 0)).unwrap().local_addr().unwrap().to_string();
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
        "--health=interval=1s,fall=1,rise=1",
    ]);
    eventually("the dead backend is marked", || {
        let shown: serde_json::Value =
            serde_json::from_str(&gateway.ctl(&["--json", "show", "many"])).unwrap();
        shown["backends"].as_array().unwrap().iter().filter(|b| b["healthy"] == false).count() == 1
    });
}

#[test]
fn a_backend_may_be_given_by_name() {
    let blog = Backend::http("blog");
    // A process asks as this machine does; a unikernel has no resolver of its own and is told of a server.
    let (gateway, name, _server) = match way() {
        Way::Host => (Gateway::start(), "localhost", None),
        _ if !available(&["dnsmasq"]) => return,
        _ => {
            let (server, address) = name_server("blog.backends.test", backend_address());
            let address = address.to_string();
            let gateway = Gateway::start_with(&["--name-server", &address]);
            (gateway, "blog.backends.test", Some(server))
        }
    };
    gateway.ctl(&["add", "blog", &format!("{name}:{}", blog.address().port())]);
    let config = client::config(&gateway.ca_file(), &[]);
    let mut tls = client::connect(gateway.https, &format!("blog.{DOMAIN}"), &config).expect("TLS");
    assert!(client::get(&mut tls, "blog", "/").unwrap().contains("backend blog"));
}

/// A DNS server that knows one name.
fn name_server(name: &str, ip: IpAddr) -> (Process, SocketAddr) {
    let address = TcpListener::bind((backend_address(), 0)).unwrap().local_addr().unwrap();
    let mut command = Command::new("/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    command.args(["--user=root", "--bind-interfaces", "--pid-file="]);
    command.arg(format!("--port={}", address.port()));
    command.arg(format!("--listen-address={}", address.ip()));
    command.arg(format!("--address=/{name}/{ip}"));
    let process = Process::start(&mut command, Path::new("/dev/null"));
    eventually("dnsmasq listens", || std::net::TcpStream::connect(address).is_ok());
    (process, address)
}

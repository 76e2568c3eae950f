//! The real program over TLS, asked by curl, openssl and h2load; certificates for development, from files and from a
//! real authority (pebble); clients behind proxies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site_support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use acceptance::pebble::{Door, Pebble};
use acceptance::unikernel::{Way, client_network, way};
use site_support::{Forge, Process, Unipi, available, curl, eventually, get};

const NAME: &str = "site.example.org";
/// A port of 0 is the kernel's choice.
const HTTPS: [&str; 2] = ["--listen-https", "127.0.0.1:0"];

fn forge() -> Forge {
    let forge = Forge::start();
    forge.write("index.html", "<h1>one</h1>");
    forge.push("first");
    forge
}

fn start(forge: &Forge, options: &[&str]) -> Unipi {
    let options: Vec<&str> = HTTPS.iter().chain(options).copied().collect();
    Unipi::start(&forge.remote(), &options)
}

/// Runs openssl and returns everything that it said.
fn openssl(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(arguments);
    let output = acceptance::peer::run(&mut command, input.as_bytes(), Duration::from_secs(20));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A self-signed certificate for [`NAME`] in `folder`.
fn pem_files(folder: &Path) -> (String, String) {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let alternative = format!("subjectAltName=DNS:{NAME}");
    let said = openssl(
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &cert,
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            &alternative,
        ],
        "",
    );
    assert!(Path::new(&cert).exists(), "{said}");
    (cert, key)
}

#[test]
fn https_with_h2_and_the_redirect_to_it() {
    if !available(&["git", "curl", "openssl"]) {
        return;
    }
    let forge = forge();
    let unipi = start(
        &forge,
        &["--self-signed", "--hostname", NAME, "--self-signed-ca", "ca.pem", "--hsts", "1d"],
    );
    let ca = unipi.development_ca(NAME);
    eventually("the site is there", || unipi.get_secure(&ca, NAME, "/", &[]).status == 200);
    let h2 = unipi.get_secure(&ca, NAME, "/", &["--http2"]);
    assert_eq!((h2.version.as_str(), h2.body.as_slice()), ("HTTP/2", b"<h1>one</h1>".as_slice()));
    assert_eq!(h2.header("strict-transport-security"), Some("max-age=86400"));
    assert_eq!(h2.header("x-content-type-options"), Some("nosniff"));
    let h1 = unipi.get_secure(&ca, NAME, "/", &["--http1.1"]);
    assert_eq!((h1.version.as_str(), h1.status), ("HTTP/1.1", 200));
    let none = unipi.get_secure(&ca, NAME, "/", &["--no-alpn"]);
    assert_eq!((none.version.as_str(), none.status), ("HTTP/1.1", 200));

    let host = format!("Host: {NAME}:{}", unipi.http.port());
    let port = match unipi.https.unwrap().port() {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let clear = get(&unipi.url("/a%20b/?c=d"), &["-H", &host]);
    let wanted = format!("https://{NAME}{port}/a%20b/?c=d");
    assert_eq!((clear.status, clear.header("location")), (301, Some(wanted.as_str())));
    assert_eq!(clear.header("strict-transport-security"), None, "RFC 6797, section 7.2");
    let post = get(&unipi.url("/hook"), &["-H", &host, "-d", "x"]);
    assert_eq!(post.status, 308, "the method is kept");
    // A name that no certificate covers is served as without TLS.
    let other = get(&unipi.url("/"), &["-H", "Host: other.example"]);
    assert_eq!((other.status, other.body.as_slice()), (200, b"<h1>one</h1>".as_slice()));
    assert_eq!(unipi.metric("unipi_redirects_total"), 2);

    // A name that is not served is refused by an alert.
    let address = unipi.https.unwrap().to_string();
    let said = openssl(&["s_client", "-connect", &address, "-servername", "else.example"], "");
    assert!(said.contains("alert"), "{said}");
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments =
            ["s_client", "-connect", &address, "-servername", NAME, version, "-ign_eof"];
        let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
        let said = openssl(&arguments, &request);
        assert!(said.contains("<h1>one</h1>"), "{version}: {said}");
    }
    let failed = unipi.metric("unipi_connections_failed_total{why=\"handshake\"}");
    assert_eq!(failed, 1, "{}", unipi.log());
}

#[test]
fn silence_on_the_tls_port_is_ended() {
    if !available(&["git", "curl"]) {
        return;
    }
    let forge = forge();
    let unipi =
        start(&forge, &["--self-signed", "--hostname", NAME, "--handshake-timeout", "300ms"]);
    let mut silent = TcpStream::connect(unipi.https.unwrap()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0, "closed without a word");
    let mut slow = TcpStream::connect(unipi.https.unwrap()).unwrap();
    slow.write_all(&[22, 3, 1, 0, 200, 1, 0]).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = slow.read_to_end(&mut Vec::new());
    eventually("both are counted", || {
        unipi.metric("unipi_connections_failed_total{why=\"handshake\"}") == 2
    });
}

#[test]
fn certificates_from_files() {
    if !available(&["git", "curl", "openssl"]) {
        return;
    }
    let forge = forge();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = pem_files(folder.path());
    let other = tempfile::tempdir().unwrap();
    let (_, wrong_key) = pem_files(other.path());
    let unipi = start(&forge, &["--cert", &cert, "--cert-key", &key, "--cert-poll", "1"]);
    eventually("the site is there", || {
        unipi.get_secure(Path::new(&cert), NAME, "/", &[]).status == 200
    });
    let answer = unipi.get_secure(Path::new(&cert), NAME, "/", &[]);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));

    // In a guest there is no file to be watched: its certificate is given as it is, for as long as it runs.
    if way() == Way::Host {
        changed_files_are_read_again(&unipi, folder.path());
    }
    for (options, complaint) in [
        (&["--cert", &cert][..], "each certificate needs its key"),
        (&["--cert", &cert, "--cert-key", &wrong_key], "does not belong"),
        (&["--cert", "/nonexistent.pem", "--cert-key", &key], "cannot read /nonexistent.pem"),
        (&["--tls"], "--tls needs a --hostname"),
        (&["--production"], "--tls"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_unipi"))
            .args(["--remote", &forge.remote(), "--listen-http", "127.0.0.1:0"])
            .args(HTTPS)
            .args(options)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(complaint), "{options:?}: {said}");
    }
}

fn changed_files_are_read_again(unipi: &Unipi, folder: &Path) {
    let [cert, key, kept] = ["cert.pem", "key.pem", "kept.pem"].map(|name| folder.join(name));
    let other = tempfile::tempdir().unwrap();
    let (other_cert, other_key) = pem_files(other.path());
    std::fs::copy(&cert, &kept).unwrap();
    std::fs::copy(&other_key, &key).unwrap();
    std::fs::copy(&other_cert, &cert).unwrap();
    let shown = |ca: &Path| {
        let https = unipi.https.unwrap();
        let resolve = format!("{NAME}:{}:{}", https.port(), https.ip());
        let url = format!("https://{NAME}:{}/", https.port());
        let ca = ca.to_str().unwrap();
        curl(&url, &["--cacert", ca, "--resolve", &resolve]).status.success()
    };
    eventually("the other certificate is shown", || shown(Path::new(&other_cert)));
    assert!(!shown(&kept));
}

#[test]
fn certificates_from_an_authority_survive_it() {
    if !available(&["git", "curl", "openssl"]) || !Pebble::available() {
        return;
    }
    for challenge in ["http-01", "tls-alpn-01"] {
        let forge = forge();
        let mut pebble = Pebble::prepare();
        let own = pebble.options();
        let fixed = ["--acme-challenge", challenge, "--hostname", NAME];
        let options =
            [&fixed[..], &["--email", "admin@example.org", "--storage", "site.img"]].concat();
        let options: Vec<&str> = own.iter().map(String::as_str).chain(options).collect();
        let mut unipi = start(&forge, &options);
        unipi.shows("/", "<h1>one</h1>");
        let host = format!("Host: {NAME}");
        let before = get(&unipi.url("/"), &["-H", &host]);
        assert_eq!(
            before.status, 200,
            "until there is a certificate, clear text is not redirected"
        );
        pebble.serve(unipi.http, unipi.https.unwrap(), 10);
        pebble.point(NAME, &unipi.http.ip().to_string());
        // The door was shut until now, and the next attempt is soon.
        let root = pebble.root_file();
        let secured = |unipi: &Unipi| {
            let https = unipi.https.unwrap();
            let output = curl(
                &format!("https://{NAME}:{}/", https.port()),
                &[
                    "--cacert",
                    root.to_str().unwrap(),
                    "--resolve",
                    &format!("{NAME}:{}:{}", https.port(), https.ip()),
                ],
            );
            output.status.success()
        };
        let end = std::time::Instant::now() + Duration::from_secs(90);
        while !secured(&unipi) {
            assert!(std::time::Instant::now() < end, "{challenge}:\n{}", unipi.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        let after = get(&unipi.url("/"), &["-H", &host]);
        assert_eq!(after.status, 301, "{challenge}");
        assert!(
            unipi.get_secure(&root, NAME, "/", &[]).header("strict-transport-security").is_some()
        );
        let orders = |pebble: &Pebble| {
            let exchanges = pebble.take_exchanges();
            exchanges
                .iter()
                .filter(|one| one.request.contains("order-plz") && one.status == 201)
                .count()
        };
        assert_eq!(orders(&pebble), 1, "{challenge}");

        // The next start serves the certificate at once, and asks for nothing.
        assert_eq!(unipi.stop(), Some(0));
        pebble.set_door(Door::Shut);
        let options: Vec<&str> = HTTPS.iter().chain(&options).copied().collect();
        unipi.spawn(&forge.remote(), &options);
        assert!(secured(&unipi), "{}", unipi.log());
        assert_eq!(orders(&pebble), 0, "{challenge}");
    }
}

#[test]
fn clients_behind_proxies_are_known() {
    if !available(&["git", "curl"]) {
        return;
    }
    let forge = forge();
    let unipi = start(
        &forge,
        &[
            "--self-signed",
            "--hostname",
            NAME,
            "--hsts",
            "1d",
            "--access-log",
            "--proxy-protocol",
            client_network(),
            "--trust-forwarded",
            "192.0.2.0/24",
        ],
    );
    let ask = |header: &[u8], request: &str| {
        let mut stream = TcpStream::connect(unipi.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let text = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n{request}\r\n");
        stream.write_all(&[header, text.as_bytes()].concat()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let from = |ip: &str| format!("PROXY TCP4 {ip} 127.0.0.1 5 80\r\n");
    let v1 = ask(from("198.51.100.1").as_bytes(), "");
    assert!(v1.starts_with("HTTP/1.1 301"), "{v1}");
    assert!(unipi.log().contains("client=198.51.100.1"), "{}", unipi.log());

    // What speaks TLS to the balancer is not redirected, and gets HSTS.
    let addresses = ("198.51.100.2:5".parse().unwrap(), "127.0.0.1:443".parse().unwrap());
    let tls =
        proxy_protocol::TlsExtras { version: "TLSv1.3", cipher: "x", client_certificate: false };
    let extras = proxy_protocol::Extras { tls: Some(tls), ..Default::default() };
    let header = proxy_protocol::encode_v2(addresses.0, addresses.1, &extras);
    eventually("the site is there", || ask(&header, "").starts_with("HTTP/1.1 200"));
    let v2 = ask(&header, "");
    assert!(v2.contains("strict-transport-security: max-age=86400\r\n"), "{v2}");
    assert!(unipi.log().contains("client=198.51.100.2 tls=true"), "{}", unipi.log());

    // A proxy behind the balancer that is trusted, and one that is not.
    let told = "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-Proto: https\r\n";
    assert!(ask(from("192.0.2.8").as_bytes(), told).starts_with("HTTP/1.1 200"));
    assert!(unipi.log().contains("client=203.0.113.7 tls=true"), "{}", unipi.log());
    assert!(ask(from("198.51.100.3").as_bytes(), told).starts_with("HTTP/1.1 301"));
    assert!(!unipi.log().contains("6.6.6.6"));

    // Without a header there is no answer.
    assert_eq!(ask(b"", ""), "");
    assert_eq!(unipi.metric("unipi_connections_failed_total{why=\"proxy_header\"}"), 1);
}

#[test]
fn haproxy_tells_who_the_client_is() {
    if !available(&["git", "curl", "openssl", "haproxy"]) {
        return;
    }
    let forge = forge();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = pem_files(folder.path());
    let unipi = start(
        &forge,
        &[
            &["--cert", &cert, "--cert-key", &key][..],
            &["--access-log", "--proxy-protocol", client_network()],
        ]
        .concat(),
    );
    let both = folder.path().join("both.pem");
    let text = [std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap()].concat();
    std::fs::write(&both, text).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
         frontend f\n bind 127.0.0.1:{port} ssl crt {}\n default_backend b\n\
         backend b\n server s {} send-proxy-v2-ssl\n",
        both.display(),
        unipi.http,
    );
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let _haproxy = Process::start(&mut command, &folder.path().join("log"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("haproxy listens", || TcpStream::connect(address).is_ok());
    let url = format!("https://{NAME}:{port}/");
    let resolve = format!("{NAME}:{port}:127.0.0.1");
    let arguments = ["--cacert", &cert, "--resolve", &resolve];
    eventually("the site is there", || get(&url, &arguments).status == 200);
    assert!(get(&url, &arguments).header("strict-transport-security").is_some());
    assert!(unipi.log().contains("client=127.0.0.1 tls=true"), "{}", unipi.log());
}

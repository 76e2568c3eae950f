//! The gateway against the TLS clients that people have, and against hellos that arrive in odd ways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::{available, run};
use acceptance::{Gateway, client};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

const LIMIT: Duration = Duration::from_secs(30);

fn gateway() -> (Gateway, Backend) {
    let gateway = Gateway::start();
    let backend = Backend::http("blog");
    gateway.ctl(&["add", "blog", &backend.to_arg()]);
    (gateway, backend)
}

fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes()
}

fn text(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn curl_with_tls_1_2_and_1_3() {
    if !available(&["curl"]) {
        return;
    }
    let (gateway, _backend) = gateway();
    for version in ["1.2", "1.3"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "--cacert"]).arg(gateway.ca_file());
        curl.args([&format!("--tlsv{version}"), "--tls-max", version]);
        curl.args(gateway.curl_options());
        curl.arg(format!("https://blog.{DOMAIN}:{}/", gateway.https.port()));
        let output = run(&mut curl, b"", LIMIT);
        assert!(text(&output).starts_with("backend blog"), "TLS {version}: {}", text(&output));
    }
    assert!(gateway.metric("tlstunnel_handshakes_total{") >= 2.0, "handshakes are counted");
}

/// `openssl s_client` with the given arguments; it sends one request and prints what comes.
fn openssl(gateway: &Gateway, arguments: &[&str], host: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &gateway.https.to_string(), "-ign_eof", "-CAfile"]);
    command.arg(gateway.ca_file()).args(arguments);
    text(&run(&mut command, &request(host), LIMIT))
}

#[test]
fn openssl_with_names_as_clients_write_them() {
    if !available(&["openssl"]) {
        return;
    }
    let (gateway, backend) = gateway();
    let name = format!("blog.{DOMAIN}");
    for server_name in [name.clone(), name.to_uppercase(), format!("{name}.")] {
        for version in ["-tls1_2", "-tls1_3"] {
            let said = openssl(&gateway, &["-servername", &server_name, version], &name);
            assert!(said.contains("backend blog"), "{server_name} {version}: {said}");
        }
    }
    let before = backend.connections();
    for (what, arguments) in [
        ("no server name", vec!["-noservername"]),
        ("an unknown name", vec!["-servername", "elsewhere.example.org"]),
        ("an IP literal", vec!["-servername", "127.0.0.1"]),
    ] {
        let said = openssl(&gateway, &arguments, &name);
        assert!(!said.contains("backend blog"), "{what} reached a backend: {said}");
    }
    assert_eq!(backend.connections(), before);

    let fallback = Backend::http("fallback");
    gateway.ctl(&["add", "default", &fallback.to_arg()]);
    assert!(openssl(&gateway, &["-noservername"], &name).contains("backend fallback"));
    let bare = Backend::http("bare");
    gateway.ctl(&["add", "no-sni", &bare.to_arg()]);
    assert!(openssl(&gateway, &["-noservername"], &name).contains("backend bare"));
    assert!(
        openssl(&gateway, &["-servername", &format!("other.{DOMAIN}")], &name)
            .contains("backend fallback")
    );
}

#[test]
fn gnutls_and_h2load() {
    if !available(&["gnutls-cli", "h2load"]) {
        return;
    }
    let (gateway, _backend) = gateway();
    let name = format!("blog.{DOMAIN}");
    let mut gnutls = Command::new("gnutls-cli");
    gnutls.args(["--port", &gateway.https.port().to_string(), "--sni-hostname", &name]);
    gnutls
        .args(["--verify-hostname", &name, "--x509cafile"])
        .arg(gateway.ca_file())
        .arg(gateway.https.ip().to_string());
    let said = text(&run(&mut gnutls, &request(&name), LIMIT));
    assert!(said.contains("backend blog"), "{said}");

    let mut h2load = Command::new("h2load");
    h2load.args(["--h1", "-n", "200", "-c", "20", &format!("--connect-to={}", gateway.https)]);
    h2load.arg(format!("https://{name}:{}/", gateway.https.port()));
    let said = text(&run(&mut h2load, b"", LIMIT));
    assert!(said.contains("200 succeeded, 0 failed"), "{said}");
}

/// The bytes of a ClientHello for `name`, grown to `size` bytes by ALPN names that no server knows.
fn hello(gateway: &Gateway, name: &str, size: usize) -> (ClientConnection, Vec<u8>) {
    let fillers: Vec<String> = (0..size / 200).map(|i| format!("{i:0200}")).collect();
    let mut alpn: Vec<&str> = vec!["http/1.1"];
    alpn.extend(fillers.iter().map(String::as_str));
    let config = client::config(&gateway.ca_file(), &alpn);
    let mut connection =
        ClientConnection::new(config, ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    assert!(bytes.len() > size, "{} bytes", bytes.len());
    (connection, bytes)
}

/// Finishes a handshake whose hello has been sent by hand and asks for a page.
fn finish(mut connection: ClientConnection, mut stream: TcpStream) -> (ClientConnection, String) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).expect("a handshake");
    }
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let answer = client::get(&mut tls, "blog.apps.localhost", "/").expect("an answer");
    (connection, answer)
}

#[test]
fn a_hello_may_arrive_byte_by_byte() {
    let (gateway, _backend) = gateway();
    let (connection, bytes) = hello(&gateway, "blog.apps.localhost", 0);
    let mut stream = TcpStream::connect(gateway.https).unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in bytes {
        stream.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(finish(connection, stream).1.contains("backend blog"));
}

#[test]
fn a_hello_of_20_kib_in_one_and_in_many_records() {
    let (gateway, _backend) = gateway();
    // One byte in each record makes six of one, and 64 KiB is the limit: the smallest records go with an ordinary hello.
    for (size, record_size) in
        [(20 * 1024, None), (0, Some(1)), (20 * 1024, Some(37)), (20 * 1024, Some(5000))]
    {
        let (connection, bytes) = hello(&gateway, "blog.apps.localhost", size);
        let bytes = match record_size {
            None => bytes,
            Some(record_size) => split_records(&bytes, record_size),
        };
        let mut stream = TcpStream::connect(gateway.https).unwrap();
        stream.write_all(&bytes).unwrap();
        println!("records of {record_size:?} bytes");
        let (_, answer) = finish(connection, stream);
        assert!(answer.contains("backend blog"));
    }
}

/// The same handshake messages in records of `size` bytes (RFC 8446, section 5.1 allows any split).
fn split_records(records: &[u8], size: usize) -> Vec<u8> {
    let (mut message, mut rest) = (Vec::new(), records);
    while let [kind, major, minor, high, low, tail @ ..] = rest {
        assert_eq!((*kind, *major, *minor), (22, 3, 1));
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        message.extend_from_slice(&tail[..length]);
        rest = &tail[length..];
    }
    let mut split = Vec::new();
    for piece in message.chunks(size) {
        split.extend_from_slice(&[22, 3, 1]);
        split.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
        split.extend_from_slice(piece);
    }
    split
}

#[test]
fn the_key_exchange_is_post_quantum_where_the_client_can() {
    let (gateway, _backend) = gateway();
    let (connection, bytes) = hello(&gateway, "blog.apps.localhost", 0);
    let mut stream = TcpStream::connect(gateway.https).unwrap();
    stream.write_all(&bytes).unwrap();
    let (connection, _) = finish(connection, stream);
    let group = connection.negotiated_key_exchange_group().expect("negotiated").name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn what_is_no_tls_gets_a_short_answer() {
    let (gateway, backend) = gateway();
    let ask = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(gateway.https).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    let answer = ask(b"GET / HTTP/1.1\r\nHost: blog.apps.localhost\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    let answer = ask(&[0x16, 3, 1, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(answer.len() < 100);
    let answer = ask(&[0x5a; 3000]);
    assert!(answer.len() < 100);
    assert_eq!(backend.connections(), 0);
    let config = client::config(&gateway.ca_file(), &[]);
    let mut tls =
        client::connect(gateway.https, "blog.apps.localhost", &config).expect("still serving");
    assert!(client::get(&mut tls, "blog.apps.localhost", "/").unwrap().contains("backend blog"));
}

#[test]
fn chromium_renders_a_page_through_the_gateway() {
    if !available(&["chromium", "certutil"]) {
        return;
    }
    let (gateway, _backend) = gateway();
    let script = "<body><script>document.write('rendered ' + location.protocol)</script></body>";
    let page = acceptance::backend::page("page", script);
    gateway.ctl(&["add", "page", &page.to_arg()]);
    let said = acceptance::browser::dump_dom(
        &gateway,
        &format!("https://page.{DOMAIN}:{}/", gateway.https.port()),
    );
    assert!(said.contains("rendered https:"), "{said}");
}

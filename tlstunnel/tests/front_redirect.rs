//! Port 80 over real sockets, and with curl.
#![allow(clippy::unwrap_used, clippy::panic)]

mod front_common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use front_common::{Setup, World, peer, read_all, read_text, tcp};
use tlstunnel::limits::Limits;

/// One response: its status line, Location and body.
fn response(
    reader: &mut BufReader<TcpStream>,
    head_only: bool,
) -> (String, Option<String>, String) {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let status = line();
    let (mut location, mut length) = (None, 0);
    loop {
        let field = line();
        match field.split_once(": ") {
            Some(("Location", value)) => location = Some(value.to_owned()),
            Some(("Content-Length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; if head_only { 0 } else { length }];
    reader.read_exact(&mut body).unwrap();
    (status, location, String::from_utf8(body).unwrap())
}

#[test]
fn pipelined_requests_are_answered_in_order_and_bodies_skipped() {
    let world = World::new();
    let mut stream = tcp(world.http);
    let requests = "GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n\
                    POST /2 HTTP/1.1\r\nHost: b.example:80\r\nContent-Length: 7\r\n\r\nGET / x\
                    HEAD /3 HTTP/1.1\r\nHost: [::1]\r\n\r\n\
                    GET http://d.example/4 HTTP/1.1\r\nHost: e.example\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let port = world.https.port();
    for (status, location) in [
        ("HTTP/1.1 301 Moved Permanently", format!("https://a.example:{port}/1")),
        ("HTTP/1.1 308 Permanent Redirect", format!("https://b.example:{port}/2")),
        ("HTTP/1.1 301 Moved Permanently", format!("https://[::1]:{port}/3")),
        ("HTTP/1.1 301 Moved Permanently", format!("https://d.example:{port}/4")),
    ] {
        let answer = response(&mut reader, location.ends_with("/3"));
        assert_eq!((answer.0.as_str(), answer.1), (status, Some(location)));
    }
    assert_eq!(read_all(&mut reader), b"", "closed after Connection: close");
    assert_eq!(world.gateway.counters.redirects.value(), 4);
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let world = World::new();
    let mut stream = tcp(world.http);
    for byte in b"POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\nHost: b\r\n\r\n"
    {
        stream.write_all(&[*byte]).unwrap();
    }
    let text = read_text(&mut stream);
    assert_eq!(text.matches("HTTP/1.1 308 ").count(), 1, "{text}");
    assert_eq!(text.matches("HTTP/1.1 301 ").count(), 1, "{text}");
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_closes() {
    let limits = Limits { http_head_bytes: 2048, ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() });
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "400"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "400"),
        (b"hello\r\nworld\r\n\r\n".to_vec(), "400"),
        ([b"GET /".to_vec(), vec![b'a'; 4000]].concat(), "431"),
        (
            [b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec(), vec![b'a'; 4000], b"\r\n\r\n".to_vec()]
                .concat(),
            "431",
        ),
    ] {
        let mut stream = tcp(world.http);
        stream.write_all(&bytes).unwrap();
        let text = read_text(&mut stream);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?}: {text}");
        assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
    }
    assert_eq!(world.gateway.counters.http_refused.value(), 5);
    assert_eq!(world.gateway.counters.redirects.value(), 0);
}

#[test]
fn slow_and_silent_clients_end_in_time() {
    let limits = Limits { http_head: Duration::from_millis(200), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() });
    let mut silent = tcp(world.http);
    let mut slow = tcp(world.http);
    slow.write_all(b"GET / HT").unwrap();
    let mut body = tcp(world.http);
    body.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").unwrap();
    assert_eq!(read_all(&mut silent), b"");
    assert_eq!(read_all(&mut slow), b"");
    assert!(read_text(&mut body).starts_with("HTTP/1.1 308 "));
    world.wait("all to end", |world| (world.gateway.live.open() == 0).then_some(()));
}

#[test]
fn challenges_are_answered_and_end() {
    let world = World::new();
    let get = || {
        let mut stream = tcp(world.http);
        stream
            .write_all(
                b"GET /.well-known/acme-challenge/tok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            )
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_text(&mut stream)
    };
    let challenge = certify::Challenge::Http01 {
        token: "tok".into(),
        key_authorization: "tok.thumbprint".into(),
    };
    world.gateway.challenges.publish(&challenge);
    let answer = get();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\ntok.thumbprint")
    );
    world.gateway.challenges.withdraw(&challenge);
    assert!(get().starts_with("HTTP/1.1 301 "));
}

#[test]
fn curl_follows() {
    if !peer("curl") {
        return;
    }
    let world = World::new();
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args([
                "-sS",
                "--noproxy",
                "*",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{redirect_url}",
            ])
            .args(["--resolve", &format!("x.example.org:{}:127.0.0.1", world.http.port())])
            .args(arguments)
            .arg(format!("http://x.example.org:{}/p?q=1", world.http.port()))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let port = world.https.port();
    let there = format!("https://x.example.org:{port}/p?q=1");
    assert_eq!(curl(&[]), format!("301 {there}"));
    assert_eq!(curl(&["-I"]), format!("301 {there}"));
    assert_eq!(curl(&["-d", "form=1"]), format!("308 {there}"));
    assert_eq!(curl(&["-X", "DELETE"]), format!("308 {there}"));
    assert_eq!(curl(&["-0"]), format!("301 {there}"));
    assert_eq!(
        curl(&["-T", "Cargo.toml", "-H", "Transfer-Encoding: chunked"]),
        format!("308 {there}")
    );
}

//! IPv6 beside IPv4: every port, backends, and the addresses in PROXY headers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use acceptance::gateway::DOMAIN;
use acceptance::peer::{eventually, run};
use acceptance::programs::program;
use acceptance::unikernel::{Way, backend_address_v6, way};
use acceptance::{Gateway, client};

/// The fixed part of a PROXY v2 header (section 2.2 of the PROXY protocol).
const PROXY_V2_FIXED: usize = 16;

/// A backend with an IPv6 address; `None` where there is none.
///
/// It answers each connection with the addresses in its PROXY v2 header, `SOURCE DESTINATION`, and a line end.
fn backend() -> Option<SocketAddr> {
    let listener = match TcpListener::bind((backend_address_v6(), 0)) {
        Ok(listener) => listener,
        Err(error) => {
            assert!(std::env::var_os("REQUIRE_PEERS").is_none_or(|v| v != "1"), "{error}");
            println!("skipped: no IPv6 loopback: {error}");
            return None;
        }
    };
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut fixed = [0; PROXY_V2_FIXED];
            if stream.read_exact(&mut fixed).is_err() {
                continue;
            }
            let mut rest = vec![0; u16::from_be_bytes([fixed[14], fixed[15]]).into()];
            stream.read_exact(&mut rest).unwrap();
            let (source, destination) = addresses(fixed[13], &rest);
            let _ = writeln!(stream, "{source} {destination}");
        }
    });
    Some(address)
}

/// Source and destination of TCP over IPv4 (0x11) or IPv6 (0x21).
fn addresses(family: u8, bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    match family {
        0x11 => {
            let ip = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
            ((ip(0), port(8)).into(), (ip(4), port(10)).into())
        }
        0x21 => {
            let ip = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap();
            ((ip(0), port(32)).into(), (ip(16), port(34)).into())
        }
        other => panic!("family {other:#x}"),
    }
}

/// The last address of a kind in the ready file: that of the option that a test adds to the harness's own.
fn bound(gateway: &Gateway, kind: &str) -> SocketAddr {
    let text = std::fs::read_to_string(gateway.folder().join("ready.json")).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&text).unwrap();
    let all = ready[kind].as_array().unwrap();
    assert_eq!(all.len(), 2, "{ready}");
    all[1].as_str().unwrap().parse().unwrap()
}

#[test]
fn every_port_serves_both_families_and_backends_learn_the_clients_address() {
    let Some(backend) = backend() else { return };
    let v6 = "[::1]:0";
    let gateway = match way() {
        Way::Host => {
            Gateway::start_with(&["--listen-https", v6, "--listen-http", v6, "--control", v6])
        }
        // It has addresses of both families, and listens on all of them.
        _ => Gateway::start(),
    };
    let [https, http, control] = gateway
        .ipv6
        .unwrap_or_else(|| ["https", "http", "control"].map(|kind| bound(&gateway, kind)));
    assert!(https.is_ipv6() && http.is_ipv6() && control.is_ipv6());

    // The control port, as an address in brackets.
    let mut add = Command::new(program("tlstunnel-ctl"));
    add.args(["--remote", &control.to_string(), "--key-file"]).arg(gateway.key_file());
    add.args(["add", "six", &backend.to_string(), "--proxy", "v2"]);
    let added = run(&mut add, b"", Duration::from_secs(30));
    assert!(added.status.success(), "{added:?}");
    assert!(gateway.ctl(&["list"]).contains(&backend.to_string()));

    // TLS from either family to a backend that has only one.
    let name = format!("six.{DOMAIN}");
    let config = client::config(&gateway.ca_file(), &[]);
    let mut last = https;
    for entrance in [gateway.https, https] {
        let mut tls = client::connect(entrance, &name, &config).unwrap();
        let own = tls.sock.local_addr().unwrap();
        let mut line = String::new();
        tls.read_to_string(&mut line).unwrap();
        assert_eq!(line, format!("{own} {entrance}\n"));
        last = own;
    }

    // The redirect.
    let mut plain = TcpStream::connect(http).unwrap();
    write!(plain, "GET /a HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").unwrap();
    let answer = client::read_answer(&mut plain).unwrap();
    assert!(answer.starts_with("HTTP/1.1 301 ") && answer.contains(&name), "{answer}");

    // The log names the client as people write it.
    let written = format!("client=[{}]:", last.ip());
    eventually("the log has the client", || gateway.log().contains(&written));
}

//! Hostile clients: memory stays bounded, and everybody else is served.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::TcpStream;

use acceptance::backend::Backend;
use acceptance::gateway::DOMAIN;
use acceptance::peer::eventually;
use acceptance::{Gateway, client};

/// Connections that each flood opens; the gateway's caps below are smaller.
const FLOOD: usize = 600;

fn serves(gateway: &Gateway) {
    let config = client::config(&gateway.ca_file(), &[]);
    let mut tls = client::connect(gateway.https, &format!("blog.{DOMAIN}"), &config)
        .expect("other clients are served");
    assert!(client::get(&mut tls, "blog.apps.localhost", "/").unwrap().contains("backend blog"));
}

/// Opens connections with `attack`, holds what is still open, and checks memory and service meanwhile.
fn flood(options: &[&str], attack: impl Fn(&mut TcpStream)) {
    let gateway = Gateway::start_with(options);
    let blog = Backend::http("blog");
    gateway.ctl(&["add", "blog", &blog.to_arg()]);
    serves(&gateway);
    let before = gateway.resident_kib();
    let mut held = Vec::new();
    for _ in 0..FLOOD {
        let mut stream = TcpStream::connect(gateway.https).unwrap();
        attack(&mut stream);
        held.push(stream);
    }
    let grown = gateway.resident_kib().saturating_sub(before);
    // A hello may be 64 KiB long (Limits::client_hello_bytes); that and some bookkeeping is all that a connection may cost.
    assert!(grown < 80 * FLOOD as u64, "{FLOOD} hostile connections cost {grown} KiB");
    serves(&gateway);
    // Each is ended by the gateway within its handshake limit, without the client doing anything.
    for mut stream in held {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        if let Err(e) = stream.read_to_end(&mut rest) {
            assert!(
                e.kind() != std::io::ErrorKind::WouldBlock,
                "the gateway keeps a hostile connection"
            );
        }
        assert!(rest.len() < 1000);
    }
    serves(&gateway);
    eventually("nothing is left open", || gateway.metric("tlstunnel_connections_open") < 1.0);
    assert_eq!(blog.connections(), 3, "none of them reached a backend");
}

const QUICK: [&str; 4] = ["--handshake-timeout", "2s", "--max-connections-per-client", "0"];

#[test]
fn connections_that_say_nothing() {
    flood(&QUICK, |_| {});
}

#[test]
fn hellos_that_never_end() {
    flood(&QUICK, |stream| {
        // A handshake record of 16 KiB is announced, four times, and the last byte never comes.
        for _ in 0..4 {
            let _ = stream.write_all(&[22, 3, 1, 0x3f, 0xff]);
            let _ = stream.write_all(&[1, 0, 0xff, 0xf0]);
            let _ = stream.write_all(&vec![3; 0x3fff - 4]);
        }
    });
}

#[test]
fn handshakes_that_stop_after_the_hello() {
    let hello = {
        let gateway = Gateway::start();
        let config = client::config(&gateway.ca_file(), &[]);
        let name = rustls::pki_types::ServerName::try_from(format!("blog.{DOMAIN}")).unwrap();
        let mut connection = rustls::ClientConnection::new(config, name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    };
    // The answer (certificate and all) is some kilobytes, so it is not drained here but bounded by `rest.len()`.
    let gateway = Gateway::start_with(&QUICK);
    let blog = Backend::http("blog");
    gateway.ctl(&["add", "blog", &blog.to_arg()]);
    serves(&gateway);
    let before = gateway.resident_kib();
    let held: Vec<_> = (0..FLOOD)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.https).unwrap();
            stream.write_all(&hello).unwrap();
            stream
        })
        .collect();
    serves(&gateway);
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < 80 * FLOOD as u64, "{FLOOD} half-done handshakes cost {grown} KiB");
    eventually("they are ended in time", || gateway.metric("tlstunnel_connections_open") < 1.0);
    drop(held);
    serves(&gateway);
}

#[test]
fn random_bytes_and_plain_http() {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(5000)
    .collect();
    flood(&QUICK, |stream| {
        let _ = stream.write_all(&noise);
    });
    flood(&QUICK, |stream| {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: blog.apps.localhost\r\n\r\n");
    });
}

#[test]
fn one_client_cannot_take_all_connections() {
    let gateway = Gateway::start_with(&["--max-connections-per-client", "50"]);
    let echo = Backend::echo();
    gateway.ctl(&["add", "blog", &echo.to_arg()]);
    let held: Vec<_> = (0..60).map(|_| TcpStream::connect(gateway.https).unwrap()).collect();
    eventually("the cap is counted", || gateway.metric("tlstunnel_connections_over_cap") >= 10.0);
    assert!(gateway.metric("tlstunnel_connections_open") <= 50.0);
    drop(held);
    eventually("places are free again", || gateway.metric("tlstunnel_connections_open") < 1.0);
    let config = client::config(&gateway.ca_file(), &[]);
    client::connect(gateway.https, &format!("blog.{DOMAIN}"), &config).expect("served again");
}

#[test]
fn the_control_port_under_noise() {
    let gateway = Gateway::start();
    for i in 0..200u32 {
        let mut stream = TcpStream::connect(gateway.control).unwrap();
        let bytes: &[u8] = match i % 4 {
            0 => &[0; 4096],
            1 => b"GET / HTTP/1.1\r\n\r\n",
            2 => &[0xff; 4096],
            _ => b"tls",
        };
        let _ = stream.write_all(bytes);
    }
    eventually("the refusals are counted", || {
        gateway.metric("tlstunnel_control_refusals") >= 100.0
    });
    eventually("the owner gets in", || gateway.ctl_output(&["status"]).status.success());
}

//! ClientHellos in every shape, and what is none.
#![allow(clippy::unwrap_used, clippy::panic)]

mod front_common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use config_proto::model::{Mode, RouteSettings};
use front_common::{
    Dribble, Reframe, Setup, World, backend, echo, greeting, hello, read_all, read_text, reframe,
    tls,
};
use tlstunnel::limits::Limits;

fn world() -> World {
    let world = World::new();
    world.route("a.example.org", &[backend("a")], RouteSettings::default());
    world
}

/// A fatal alert in a record of its own.
fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

#[test]
fn arrives_in_pieces_of_any_size() {
    let world = world();
    for piece in [1, 2, 3, 7, 100, 1000] {
        let stream = Dribble { stream: world.tcp(), piece };
        let mut client = tls(world.client(&[]), "a.example.org", stream).unwrap();
        assert_eq!(greeting(&mut client), "hello from a\n");
        echo(&mut client, "there and back");
    }
}

#[test]
fn is_split_over_records_of_any_size() {
    let world = world();
    for piece in [1, 3, 5, 64, 500, 1400] {
        let stream = Reframe { stream: world.tcp(), piece, first_flight: true };
        let mut client = tls(world.client(&[]), "a.example.org", stream).unwrap();
        assert_eq!(greeting(&mut client), "hello from a\n");
    }
}

/// A client whose ClientHello has about 20 KiB: it offers many protocols.
fn large(world: &World) -> rustls::ClientConfig {
    let long: Vec<String> = (0..90).map(|i| format!("{i:0>220}")).collect();
    let mut alpn: Vec<&str> = long.iter().map(String::as_str).collect();
    alpn.push("http/1.1");
    world.client(&alpn)
}

#[test]
fn may_have_20_kib() {
    let world = world();
    let size = hello(large(&world), "a.example.org").len();
    assert!(size > 20 * 1024, "{size}");
    for piece in [4, 700, 16_384] {
        let stream = Reframe { stream: world.tcp(), piece, first_flight: true };
        let mut client = tls(large(&world), "a.example.org", stream).unwrap();
        assert_eq!(greeting(&mut client), "hello from a\n");
        assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[test]
fn larger_than_the_limit_gets_an_alert() {
    let limits = Limits { client_hello_bytes: 4096, ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() });
    let mut stream = world.tcp();
    // The gateway answers before it has read everything.
    let _ = stream.write_all(&hello(large(&world), "a.example.org"));
    assert_eq!(read_all(&mut stream), alert(47));
    let line = world.outcome("bad ClientHello");
    assert_eq!(line["details"], "the ClientHello is larger than the limit");
    assert_eq!(world.gateway.counters.hello_malformed.value(), 1);
}

#[test]
fn names_are_compared_without_case_and_final_dot() {
    let world = world();
    // rustls clients normalise the name themselves, so the bytes are patched: both forms have the same length.
    let plain = hello(world.client(&[]), "a.example.orgx");
    for form in ["A.Example.ORG.", "a.eXAMPLE.org."] {
        let mut raw = plain.clone();
        let at = raw.windows(14).position(|w| w == b"a.example.orgx").unwrap();
        raw[at..at + 14].copy_from_slice(form.as_bytes());
        let mut stream = world.tcp();
        stream.write_all(&raw).unwrap();
        world.wait(form, |world| {
            let lines = world.gateway.live.oldest(10);
            lines.into_iter().find(|c| c.server_name.as_deref() == Some("a.example.org"))
        });
        drop(stream);
        world.wait("the end", |world| (world.gateway.live.open() == 0).then_some(()));
    }
}

#[test]
fn an_illegal_name_gets_an_alert() {
    let world = world();
    let mut raw = hello(world.client(&[]), "a.example.org");
    let at = raw.windows(13).position(|w| w == b"a.example.org").unwrap();
    raw[at..at + 13].copy_from_slice(b"a.-xample.org");
    let mut stream = world.tcp();
    stream.write_all(&raw).unwrap();
    let answer = read_all(&mut stream);
    assert!(answer == alert(112) || answer == alert(47), "{answer:?}");
}

#[test]
fn without_a_name_the_default_certificate_and_route_serve() {
    let world = world();
    world.certify(&["127.0.0.1"]);
    world.route("no-sni", &[backend("nameless")], RouteSettings::default());
    let mut config = world.client(&[]);
    config.enable_sni = false;
    // The default certificate is the first one, which is not for this address: only the name check fails.
    let error = tls(config.clone(), "127.0.0.1", world.tcp()).unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    let mut client = tls(config, "example.org", world.tcp()).unwrap();
    assert_eq!(greeting(&mut client), "hello from nameless\n");
}

#[test]
fn plain_http_is_told_so() {
    let world = world();
    for request in ["GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n", "POST /x HTTP/1.0\r\n\r\n"] {
        let mut stream = world.tcp();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_text(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(answer.contains("This port speaks TLS"), "{answer}");
    }
    world.outcome("plain HTTP");
}

#[test]
fn garbage_gets_an_alert() {
    let world = world();
    for garbage in [&b"SSH-2.0-OpenSSH\r\n"[..], &[0; 64], &[0xff; 5], b"EHLO example.org\r\n"] {
        let mut stream = world.tcp();
        stream.write_all(garbage).unwrap();
        assert_eq!(read_all(&mut stream), alert(10), "{garbage:?}");
    }
    // A handshake record with nonsense in it.
    let mut stream = world.tcp();
    stream.write_all(&[22, 3, 1, 0, 8, 1, 0, 0, 4, 9, 9, 9, 9]).unwrap();
    let answer = read_all(&mut stream);
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    assert_eq!(world.gateway.counters.hello_malformed.value(), 5);
}

#[test]
fn closing_early_is_no_trouble() {
    let world = world();
    drop(world.tcp());
    world.outcome("closed before ClientHello");
    let stream = world.tcp();
    (&stream).write_all(&hello(world.client(&[]), "a.example.org")[..100]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let line = world.outcome("bad ClientHello");
    assert_eq!(line["details"], "the client closed in the middle of its ClientHello");
}

#[test]
fn a_slow_hello_ends_in_time() {
    let limits = Limits { handshake: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() });
    let raw = hello(world.client(&[]), "a.example.org");
    // One says nothing, one stops in the middle, one goes on for ever, one stops after its hello.
    let mut silent = world.tcp();
    let mut halfway = world.tcp();
    halfway.write_all(&raw[..200]).unwrap();
    let mut endless = world.tcp();
    let pieces = reframe(&raw, 1);
    for byte in pieces.iter().cycle() {
        if endless.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        if world.gateway.counters.handshake_timeouts.value() >= 3 {
            break;
        }
    }
    let mut after_hello = world.tcp();
    after_hello.write_all(&raw).unwrap();
    for stream in [&mut silent, &mut halfway, &mut endless, &mut after_hello] {
        read_all(stream);
    }
    world.wait("four timeouts", |world| {
        (world.gateway.counters.handshake_timeouts.value() == 4).then_some(())
    });
    world.outcome("handshake too slow");
}

/// Handshakes that never finish, in every stage, while others are served.
#[test]
fn a_flood_of_unfinished_handshakes_leaves_others_served() {
    let world = world();
    let raw = hello(world.client(&[]), "a.example.org");
    let held: Vec<_> = (0..150)
        .map(|i| {
            let mut stream = world.tcp();
            stream.write_all(&raw[..[0, 3, 5, 100, raw.len()][i % 5]]).unwrap();
            stream
        })
        .collect();
    world.wait("the flood", |world| (world.gateway.live.open() == 150).then_some(()));
    for _ in 0..20 {
        let mut client = world.tls("a.example.org", &[]).unwrap();
        assert_eq!(greeting(&mut client), "hello from a\n");
    }
    drop(held);
    world.wait("the end", |world| (world.gateway.live.open() == 0).then_some(()));
}

/// The ClientHello of a client that knows TLS 1.0 and no `signature_algorithms`, which rustls refuses.
fn old_hello(name: &str) -> Vec<u8> {
    let vector =
        |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let server_name = vector(&vector(&[&[0], &vector(name.as_bytes())[..]].concat()));
    let extensions = [&[0, 0], &server_name[..]].concat();
    let random = [7; 32];
    let ciphers = vector(&[0, 0x2f]);
    let body = [&[3, 1], &random[..], &[0], &ciphers, &[1, 0], &vector(&extensions)].concat();
    let message = [&[1, 0], &vector(&body)[..]].concat();
    [&[22, 3, 1], &vector(&message)[..]].concat()
}

#[test]
fn what_rustls_refuses_is_passed_through_all_the_same() {
    let world = world();
    let passthrough = RouteSettings { mode: Mode::Passthrough, ..RouteSettings::default() };
    world.route("old.example.org", &[backend("old")], passthrough);
    let raw = old_hello("old.example.org");
    for piece in [1, 30, 1000] {
        let raw = reframe(&raw, piece);
        let mut stream = world.tcp();
        stream.write_all(&raw).unwrap();
        assert_eq!(greeting(&mut stream), "hello from old\n");
        // The backend sends back what it gets: the hello, byte for byte.
        let mut echoed = vec![0; raw.len()];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, raw);
    }
    // Where the gateway itself must speak TLS it cannot, and says so as before.
    for name in ["a.example.org", "unknown.example.org"] {
        let mut stream = world.tcp();
        stream.write_all(&old_hello(name)).unwrap();
        let answer = read_all(&mut stream);
        assert_eq!(answer[..5], [21, 3, 3, 0, 2], "{answer:?}");
        world.wait("its line", |world| {
            let mut lines = world.log().into_iter();
            lines.find(|l| l["sni"] == name && l["outcome"] == "bad ClientHello")
        });
    }
}

//! Handshakes and what follows from them: routes, certificates, versions, resumption, failures.
#![allow(clippy::unwrap_used, clippy::panic)]

mod front_common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use config_proto::model::{BackendTls, FailureAnswer, Mode, RouteSettings};
use front_common::{World, backend, echo, greeting, nobody, peer, read_all, read_text, tls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{AlertDescription, HandshakeKind, NamedGroup, ProtocolVersion, version};

fn settings(mode: Mode) -> RouteSettings {
    RouteSettings { mode, ..RouteSettings::default() }
}

fn is_alert(error: &std::io::Error, expected: AlertDescription) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner == Some(&rustls::Error::AlertReceived(expected))
}

#[test]
fn both_versions_and_the_hybrid_group_are_served_and_told() {
    let world = World::new();
    world.route("*.example.org", &[backend("b")], RouteSettings::default());
    for (version, expected, text) in [
        (&version::TLS13, ProtocolVersion::TLSv1_3, "TLSv1.3"),
        (&version::TLS12, ProtocolVersion::TLSv1_2, "TLSv1.2"),
    ] {
        let config = world.client_with(&["h2", "http/1.1"], &[version]);
        let mut client = tls(config, "x.example.org", world.tcp()).unwrap();
        assert_eq!(client.conn.protocol_version(), Some(expected));
        assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]), "no h2 under a wildcard");
        if expected == ProtocolVersion::TLSv1_3 {
            let group = client.conn.negotiated_key_exchange_group().unwrap();
            assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
        }
        assert_eq!(greeting(&mut client), "hello from b\n");
        echo(&mut client, "12345");
        client.conn.send_close_notify();
        client.flush().unwrap();
        assert_eq!(read_all(&mut client), b"");
        drop(client);
        let line = world
            .wait("its line", |world| world.log().into_iter().find(|line| line["tls"] == text));
        assert_eq!(line["sni"], "x.example.org");
        assert_eq!(line["route"], "*.example.org");
        assert_eq!(line["alpn"], "http/1.1");
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &18.into()));
        assert_eq!(line["resumed"], false);
        assert_eq!(line["outcome"], "closed by client");
        assert!(line["backend"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!(line["setup_ms"].as_f64().unwrap() <= line["duration_ms"].as_f64().unwrap());
    }
    let counters = &world.gateway.counters;
    assert_eq!((counters.handshakes_tls12.value(), counters.handshakes_tls13.value()), (1, 1));
    assert_eq!((counters.bytes_in.value(), counters.bytes_out.value()), (10, 36));
    world.wait("the list to empty", |world| (world.gateway.live.open() == 0).then_some(()));
}

#[test]
fn tickets_are_resumed_for_their_own_name_only() {
    let world = World::new();
    world.route("*.example.org", &[backend("b")], RouteSettings::default());
    for version in [&version::TLS13, &version::TLS12] {
        let config = Arc::new(world.client_with(&[], &[version]));
        let kind = |name: &str| {
            let mut client = tls((*config).clone(), name, world.tcp()).unwrap();
            // Tickets of TLS 1.3 come with the first data.
            assert_eq!(greeting(&mut client), "hello from b\n");
            client.conn.handshake_kind().unwrap()
        };
        assert_ne!(kind("a.example.org"), HandshakeKind::Resumed);
        assert_eq!(kind("a.example.org"), HandshakeKind::Resumed);
        assert_ne!(kind("c.example.org"), HandshakeKind::Resumed);
    }
    world.wait("two resumptions", |world| {
        (world.gateway.counters.handshakes_resumed.value() == 2).then_some(())
    });
}

#[test]
fn h2_needs_a_certificate_of_its_own() {
    let world = World::new();
    world.route("*.example.org", &[backend("b")], RouteSettings::default());
    let refused = world.tls("a.example.org", &["h2"]).unwrap_err();
    assert!(is_alert(&refused, AlertDescription::NoApplicationProtocol), "{refused}");
    world.certify(&["a.example.org"]);
    let mut client = world.tls("a.example.org", &["h2", "http/1.1"]).unwrap();
    assert_eq!(client.conn.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(greeting(&mut client), "hello from b\n");
    let client = world.tls("b.example.org", &["h2", "http/1.1"]).unwrap();
    assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let alpn = Some(vec!["imap".to_owned()]);
    world.route(
        "imap.example.org",
        &[backend("imap")],
        RouteSettings { alpn, ..settings(Mode::Terminate) },
    );
    let client = world.tls("imap.example.org", &["imap"]).unwrap();
    assert_eq!(client.conn.alpn_protocol(), Some(&b"imap"[..]));
}

#[test]
fn an_unknown_name_gets_a_page_an_alert_or_a_close() {
    let world = World::new();
    // A certificate covers the name, and the client speaks HTTP, says so by ALPN or not.
    for alpn in [&["http/1.1"][..], &[]] {
        let mut client = world.tls("nobody.example.org", alpn).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: nobody.example.org\r\n\r\n").unwrap();
        let answer = read_text(&mut client);
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    }
    // Speaks something else.
    let mut client = world.tls("nobody.example.org", &[]).unwrap();
    client.write_all(b"EHLO nobody.example.org\r\n").unwrap();
    assert_eq!(read_text(&mut client), "");
    // No certificate covers the name.
    let error = world.tls("nobody.example.com", &[]).unwrap_err();
    assert!(is_alert(&error, AlertDescription::UnrecognisedName), "{error}");
    world.wait("all counted", |world| {
        (world.gateway.counters.unknown_names.value() == 4).then_some(())
    });
}

#[test]
fn a_dead_backend_is_told_as_the_route_says() {
    let world = World::new();
    let dead = nobody();
    let route = |name: &str, failure| {
        world.route(name, &[dead], RouteSettings { failure, ..settings(Mode::Terminate) });
    };
    route("auto.example.org", FailureAnswer::Auto);
    route("http.example.org", FailureAnswer::Http);
    route("close.example.org", FailureAnswer::Close);
    world.route("pass.example.org", &[dead], settings(Mode::Passthrough));
    let ask = |name: &str, alpn: &[&str], text: &str| {
        let mut client = world.tls(name, alpn).unwrap();
        let _ = client.write_all(text.as_bytes());
        read_text(&mut client)
    };
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert!(ask("auto.example.org", &[], get).starts_with("HTTP/1.1 502 "));
    assert!(ask("auto.example.org", &["http/1.1"], get).starts_with("HTTP/1.1 502 "));
    assert_eq!(ask("auto.example.org", &[], "a1 LOGIN x y\r\n"), "");
    assert!(ask("http.example.org", &[], "a1 LOGIN x y\r\n").starts_with("HTTP/1.1 502 "));
    assert_eq!(ask("close.example.org", &[], get), "");
    let error = world.tls("pass.example.org", &[]).unwrap_err();
    assert!(is_alert(&error, AlertDescription::InternalError), "{error}");
    assert_eq!(world.gateway.counters.backend_unreachable.value(), 6);
    let line = world.outcome("no backend");
    assert!(line["details"].as_str().unwrap().contains(&dead.to_string()), "{line}");
}

#[test]
fn rejected_names_get_the_alert() {
    let world = World::new();
    world.route("a.example.org", &[], settings(Mode::Reject));
    let error = world.tls("a.example.org", &[]).unwrap_err();
    assert!(is_alert(&error, AlertDescription::UnrecognisedName), "{error}");
    world.route("a.example.net", &[backend("b")], RouteSettings::default());
    let error = world.tls("a.example.net", &[]).unwrap_err();
    assert!(is_alert(&error, AlertDescription::UnrecognisedName), "no certificate: {error}");
    world.outcome("no certificate for the name");
}

#[test]
fn passthrough_replays_the_hello_to_a_tls_backend() {
    // The backend is another gateway, which has another authority.
    let inner = World::new();
    inner.route("p.example.org", &[backend("inner")], RouteSettings::default());
    let outer = World::new();
    outer.route("p.example.org", &[inner.https], settings(Mode::Passthrough));
    let mut client = tls(inner.client(&["h2", "http/1.1"]), "p.example.org", outer.tcp()).unwrap();
    assert_eq!(greeting(&mut client), "hello from inner\n");
    echo(&mut client, "through both");
    assert!(tls(outer.client(&[]), "p.example.org", outer.tcp()).is_err(), "outer's certificate");
}

#[test]
fn reencrypt_verifies_the_backend() {
    let inner = World::new();
    inner.route("r.example.org", &[backend("inner")], RouteSettings::default());
    let outer = World::new();
    let trusting = |ca: &str| RouteSettings {
        backend_tls: Some(BackendTls { ca: Some(ca.to_owned()), ..BackendTls::default() }),
        ..settings(Mode::Reencrypt)
    };
    outer.route("r.example.org", &[inner.https], trusting(&inner.ca.chain_pem));
    let mut client = outer.tls("r.example.org", &[]).unwrap();
    assert_eq!(greeting(&mut client), "hello from inner\n");
    echo(&mut client, "decrypted and encrypted again");
    outer.route("r.example.org", &[inner.https], trusting(&outer.ca.chain_pem));
    let mut client = outer.tls("r.example.org", &[]).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(
        read_text(&mut client).starts_with("HTTP/1.1 502 "),
        "an authority that is not trusted"
    );
}

#[test]
fn client_certificates_are_asked_for_by_the_route_and_by_it_alone() {
    let world = World::new();
    let with_ca =
        RouteSettings { client_ca: Some(world.ca.chain_pem.clone()), ..settings(Mode::Terminate) };
    let b = backend("b");
    world.route("m.example.org", &[b], RouteSettings::default());
    for version in [&version::TLS13, &version::TLS12] {
        world.route("m.example.org", &[b], RouteSettings::default());
        let nameless = world.client_with(&[], &[version]);
        let ask =
            |config: &rustls::ClientConfig| -> std::io::Result<(String, Option<HandshakeKind>)> {
                let mut client = tls(config.clone(), "m.example.org", world.tcp())?;
                let mut line = String::new();
                BufReader::new(&mut client).read_line(&mut line)?;
                Ok((line, client.conn.handshake_kind()))
            };
        ask(&nameless).unwrap();
        assert_eq!(ask(&nameless).unwrap().1, Some(HandshakeKind::Resumed));
        // The client holds tickets from before; they must not carry it past the new check.
        world.route("m.example.org", &[b], with_ca.clone());
        let error = ask(&nameless).unwrap_err();
        assert!(
            is_alert(&error, AlertDescription::CertificateRequired)
                || is_alert(&error, AlertDescription::HandshakeFailure)
                || error.kind() == std::io::ErrorKind::ConnectionReset,
            "{version:?}: {error}"
        );
        let named = world.client_with_certificate(&[version]);
        assert_eq!(ask(&named).unwrap().0, "hello from b\n");
    }
    let line = world.wait("its line", |world| {
        world.log().into_iter().find(|line| line["client_certificate"] == true)
    });
    assert_eq!(line["sni"], "m.example.org");
    assert_eq!(world.gateway.counters.handshake_failures.value(), 2);
}

#[test]
fn a_client_that_shows_an_authority_is_refused_and_the_log_says_why() {
    let world = World::new();
    let with_ca =
        RouteSettings { client_ca: Some(world.ca.chain_pem.clone()), ..settings(Mode::Terminate) };
    world.route("m.example.org", &[backend("b")], with_ca);
    let key = rcgen::KeyPair::from_pem(&world.ca.key_pem).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(world.ca.chain_pem.as_bytes()).unwrap()];
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::clone(tlstunnel::tls::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(world.roots())
            .with_client_auth_cert(chain, key.serialize_der().try_into().unwrap())
            .unwrap();
    // In TLS 1.3 the client's handshake ends before the gateway has judged.
    let refused = tls(config, "m.example.org", world.tcp()).map(|mut client| read_all(&mut client));
    assert!(refused.is_err() || refused.is_ok_and(|read| read.is_empty()));
    let line = world.outcome("handshake failed");
    let details = line["details"].as_str().unwrap();
    assert!(details.contains("self-signed") && details.contains("CA:FALSE"), "{details}");
}

#[test]
fn half_closes_pass_through_in_both_versions() {
    let world = World::new();
    world.route("*.example.org", &[backend("b")], RouteSettings::default());
    for version in [&version::TLS13, &version::TLS12] {
        let config = world.client_with(&[], &[version]);
        let mut client = tls(config, "x.example.org", world.tcp()).unwrap();
        client.write_all(&[b'x'; 100_000]).unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        // The backend still answers everything after the client's end.
        assert_eq!(read_all(&mut client).len(), "hello from b\n".len() + 100_000);
    }
}

#[test]
fn a_change_takes_effect_and_touches_no_open_connection() {
    let world = World::new();
    world.route("a.example.org", &[backend("old")], RouteSettings::default());
    let mut before = world.tls("a.example.org", &[]).unwrap();
    assert_eq!(greeting(&mut before), "hello from old\n");
    world.route("a.example.org", &[backend("new")], RouteSettings::default());
    world.certify(&["a.example.org"]);
    let mut after = world.tls("a.example.org", &["h2"]).unwrap();
    assert_eq!(greeting(&mut after), "hello from new\n");
    assert_eq!(after.conn.alpn_protocol(), Some(&b"h2"[..]), "the new certificate serves");
    echo(&mut before, "still the old one");
}

#[test]
fn route_caps_hold() {
    let world = World::new();
    let mut settings = settings(Mode::Terminate);
    settings.limits.max_connections = Some(2);
    world.route("a.example.org", &[backend("b")], settings);
    let first = world.tls("a.example.org", &[]).unwrap();
    let _second = world.tls("a.example.org", &[]).unwrap();
    let error = world.tls("a.example.org", &[]).unwrap_err();
    assert!(is_alert(&error, AlertDescription::InternalError), "{error}");
    drop(first);
    world.wait("a free place", |world| (world.gateway.live.open() == 1).then_some(()));
    world.tls("a.example.org", &[]).unwrap();
}

#[test]
fn acme_tls_alpn_challenges_are_answered_first() {
    let world = World::new();
    world.route("a.example.org", &[backend("b")], RouteSettings::default());
    let challenge = world.certify(&["challenge.invalid"]);
    let challenge = certify::Challenge::TlsAlpn01 {
        name: "a.example.org".into(),
        certificate: Arc::clone(challenge.certified_key()),
    };
    world.gateway.challenges.publish(&challenge);
    // The certificate is not for the name, which is how the test sees that it is the challenge's.
    let error = world.tls("a.example.org", &["acme-tls/1"]).unwrap_err();
    assert!(error.to_string().contains("challenge.invalid"), "{error}");
    assert!(world.tls("a.example.org", &["http/1.1"]).is_ok());
    world.gateway.challenges.withdraw(&challenge);
    let error = world.tls("a.example.org", &["acme-tls/1"]).unwrap_err();
    assert!(is_alert(&error, AlertDescription::NoApplicationProtocol), "{error}");
}

#[test]
fn openssl_is_served() {
    if !peer("openssl") {
        return;
    }
    let world = World::new();
    world.route("*.example.org", &[backend("b")], RouteSettings::default());
    world.route("no-sni", &[backend("nameless")], RouteSettings::default());
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), &world.ca.chain_pem).unwrap();
    let talk = |arguments: &[&str]| {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error", "-CAfile"])
            .arg(ca.path())
            .args(["-connect", &world.https.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let line = greeting(&mut output);
        let _ = input.write_all(b"Q\n");
        drop(input);
        let errors = read_text(child.stderr.as_mut().unwrap());
        child.wait().unwrap();
        (line, errors)
    };
    for arguments in [
        &["-servername", "x.example.org", "-tls1_3"][..],
        &["-servername", "x.example.org", "-tls1_2"],
        &["-servername", "X.EXAMPLE.org", "-tls1_3"],
        &["-servername", "x.example.org.", "-tls1_3"],
        &["-servername", "x.example.org", "-alpn", "h2,http/1.1"],
    ] {
        let (line, errors) = talk(arguments);
        assert_eq!(line, "hello from b\n", "{arguments:?}: {errors}");
    }
    for arguments in [&["-noservername"][..], &["-servername", "127.0.0.1"]] {
        let (line, errors) = talk(arguments);
        assert_eq!(line, "hello from nameless\n", "{arguments:?}: {errors}");
    }
    let (line, errors) = talk(&["-servername", "x.example.com"]);
    assert!(line.is_empty() && errors.contains("unrecognized name"), "{errors}");
    let (line, _) =
        talk(&["-servername", "x.example.org", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]);
    assert_eq!(line, "", "TLS 1.1 is refused");
}

#[test]
fn gnutls_is_served() {
    if !peer("gnutls-cli") {
        return;
    }
    let world = World::new();
    world.route("*.example.org", &[backend("b")], RouteSettings::default());
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), &world.ca.chain_pem).unwrap();
    for priority in ["NORMAL:-VERS-ALL:+VERS-TLS1.3", "NORMAL:-VERS-ALL:+VERS-TLS1.2"] {
        let mut child = Command::new("gnutls-cli")
            .args(["--priority", priority, "--sni-hostname", "x.example.org"])
            .args(["--verify-hostname", "x.example.org", "--x509cafile"])
            .arg(ca.path())
            .args(["--port", &world.https.port().to_string(), "127.0.0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let greeted = output.any(|line| line.unwrap() == "hello from b");
        drop(input);
        let errors = read_text(child.stderr.as_mut().unwrap());
        child.wait().unwrap();
        assert!(greeted, "{priority}: {errors}");
    }
}

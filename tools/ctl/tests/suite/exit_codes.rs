//! Exit codes 0 to 4, and what the user is told with each.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crate::support::{FakeGateway, Home, KEY, WRONG_KEY, changed, listen, refusal};
use config_proto::message::RefusalCode;
use config_proto::v2::{NONCE_LEN, UNAUTHENTICATED};

#[test]
fn done_is_0_and_says_what_changed_under_which_full_name() {
    let gateway =
        FakeGateway::start(|_| changed("added, to 10.0.0.7:80", Some("blog.example.org")));
    let run = Home::new().ask(&gateway, &["add", "blog", "10.0.0.7:80"]).code(0);
    assert_eq!(run.stdout, "blog.example.org: added, to 10.0.0.7:80 (generation 13)\n");
    assert_eq!(run.stderr, "");
    assert_eq!(
        gateway.request(),
        serde_json::json!({
            "op": "add", "name": "blog", "settings": {"backends": ["10.0.0.7:80"]}, "replace": false
        })
    );
}

#[test]
fn warnings_of_the_gateway_are_shown_and_are_no_failure() {
    let gateway = FakeGateway::start(|_| {
        Ok(serde_json::json!({"generation": 2, "message": "done", "warnings": ["h2 may coalesce"]}))
    });
    Home::new().ask(&gateway, &["remove", "blog"]).code(0).complains("warning: h2 may coalesce");
}

#[test]
fn refused_is_1_and_says_what_to_try() {
    let gateway = FakeGateway::start(|_| {
        Err(refusal(
            RefusalCode::Exists,
            "blog.example.org exists already",
            "replace it with --replace",
        ))
    });
    let home = Home::new();
    home.ask(&gateway, &["add", "blog", "10.0.0.7:80"])
        .code(1)
        .complains("error: blog.example.org exists already")
        .complains("try: replace it with --replace");
    let run = home.ask(&gateway, &["--json", "add", "blog", "10.0.0.7:80"]).code(1);
    assert_eq!(
        run.json(),
        serde_json::json!({"error": {
            "code": "exists", "message": "blog.example.org exists already",
            "hint": "replace it with --replace"
        }})
    );
}

#[test]
fn wrong_usage_is_2_and_reaches_no_gateway() {
    let gateway = FakeGateway::start(|_| changed("must not happen", None));
    let home = Home::new();
    for (arguments, complaint) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["add", "blog"], "blog has no backend"),
        (&["add", "blog", "10.0.0.7"], "has no port"),
        (&["add", "blog", "2001:db8::7:80"], "stands in brackets"),
        (&["add", "blog", "10.0.0.7:80", "--mode", "magic"], "terminate"),
        (&["add", "blog", "10.0.0.7:80", "--client-ca", "missing.pem"], "cannot read missing.pem"),
        (&["apply", "-f", "missing.toml"], "cannot read missing.toml"),
        (&["cert", "set", "--cert", "missing.pem", "--key", "missing.key"], "missing.pem"),
        (&["key", "add", "x", "--role", "king"], "is not a role"),
        (&["status", "--timeout", "0"], "longer than 0s"),
        (&["status", "--key-id", "no id"], "a key id is"),
    ] {
        home.ask(&gateway, arguments).code(2).complains(complaint);
    }
    assert_eq!(gateway.requests(), []);
}

#[test]
fn wrong_usage_is_json_when_json_was_asked_for() {
    let home = Home::new();
    for arguments in [&["--json", "frobnicate"][..], &["status", "--json"], &["why", "--json"]] {
        let run = home.run(arguments).code(2);
        assert_eq!(run.json()["error"]["code"], "usage", "{run:?}");
    }
}

#[test]
fn without_a_key_file_the_user_learns_where_to_get_one() {
    Home::new().run(&["status"]).code(2).complains("no key file is named").complains("--key-file");
}

#[test]
fn connection_refused_is_3_and_asks_whether_the_gateway_runs() {
    let home = Home::new();
    let key = home.write("admin.key", KEY);
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    home.ask_at(unused, &key, &["status"])
        .code(3)
        .complains(&format!("cannot connect to {unused}: connection refused"))
        .complains("is the gateway running?");
    let run = home.ask_at(unused, &key, &["--json", "status"]).code(3);
    assert_eq!(run.json()["error"]["code"], "unreachable");
}

#[test]
fn a_name_that_does_not_resolve_is_3() {
    let home = Home::new();
    home.write("admin.key", KEY);
    home.run(&["status", "--key-file", "admin.key", "--remote", "gateway.invalid:1234"])
        .code(3)
        .complains("cannot look up gateway.invalid:1234");
}

#[test]
fn a_dead_peer_is_given_up_after_the_timeout() {
    // It accepts (the kernel does) and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::new();
    let key = home.write("admin.key", KEY);
    home.ask_at(listener.local_addr().unwrap(), &key, &["status", "--timeout", "300ms"])
        .code(3)
        .complains("it took longer than 300ms")
        .complains("--timeout");
}

#[test]
fn a_slow_peer_is_given_up_though_bytes_keep_coming() {
    // Byte by byte, each well within the timeout, and all together far beyond it. A program that only limits each read
    // gets to the end, where the peer says that the key is wrong (exit code 4).
    let answer = [&b"tlsctl\r\n\x02"[..], &[7; NONCE_LEN], &UNAUTHENTICATED].concat();
    let address = listen(move |mut stream| {
        let answer = answer.clone();
        thread::spawn(move || {
            for byte in answer {
                thread::sleep(Duration::from_millis(20));
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
    });
    let home = Home::new();
    let key = home.write("admin.key", KEY);
    home.ask_at(address, &key, &["status", "--timeout", "300ms"])
        .code(3)
        .complains("it took longer than 300ms");
    home.ask_at(address, &key, &["status", "--timeout", "1h"]).code(4);
}

#[test]
fn a_silent_gateway_leaves_a_change_in_doubt() {
    let gateway = FakeGateway::start(|_| {
        thread::sleep(Duration::from_secs(3600));
        changed("never", None)
    });
    let home = Home::new();
    home.ask(&gateway, &["remove", "blog", "--timeout", "2s"])
        .code(3)
        .complains("whether the change was made is not known")
        .complains("tlstunnel-ctl history");
    let run = home.ask(&gateway, &["list", "--timeout", "2s"]).code(3);
    assert!(!run.stderr.contains("not known"), "{run:?}");
}

#[test]
fn peers_that_are_no_gateway_are_3() {
    let garbage: [&[u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x32",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &[0xff; 4096],
        b"",
    ];
    let home = Home::new();
    let key = home.write("admin.key", KEY);
    for bytes in garbage {
        let address = listen(move |mut stream| {
            let mut hello = [0; 512];
            let _ = stream.read(&mut hello);
            let _ = stream.write_all(bytes);
        });
        let run = home.ask_at(address, &key, &["status"]).code(3).complains("control port");
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn another_version_is_3() {
    let address = listen(|mut stream| {
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(b"tlsctl\r\n\x09");
        let _ = stream.write_all(&[0; 32]);
    });
    let home = Home::new();
    let key = home.write("admin.key", KEY);
    home.ask_at(address, &key, &["status"]).code(3).complains("version 9");
}

#[test]
fn a_wrong_secret_or_id_is_4_and_names_file_and_id() {
    let gateway = FakeGateway::start(|_| changed("must not happen", None));
    let home = Home::new();
    let wrong = home.write("wrong.key", WRONG_KEY);
    home.ask_at(gateway.address, &wrong, &["status"])
        .code(4)
        .complains("does not accept the key admin from")
        .complains("wrong.key")
        .complains("clocks play no part");
    let run = home.ask(&gateway, &["--key-id", "stranger", "--json", "remove", "blog"]).code(4);
    assert_eq!(run.json()["error"]["code"], "not-authenticated");
    assert!(run.json()["error"]["message"].as_str().unwrap().contains("stranger"));
    assert_eq!(gateway.requests(), []);
}

#[test]
fn a_gateway_that_does_not_hold_the_key_is_asked_nothing() {
    // An impostor with the right form and another secret: the request must not even be sent.
    let home = Home::new();
    let wrong = home.write("wrong.key", WRONG_KEY);
    let (sender, received) = std::sync::mpsc::channel();
    let address = listen(move |mut stream| {
        let mut bytes = vec![0; 4096];
        let _ = stream.read(&mut bytes);
        let _ = stream.write_all(b"tlsctl\r\n\x02");
        let _ = stream.write_all(&[7; 32]);
        let mut rest = Vec::new();
        let length = stream.read(&mut bytes).unwrap();
        rest.extend_from_slice(&bytes[..length]);
        // A proof of the right length that proves nothing.
        let _ = stream.write_all(&rest);
        let _ = stream.read_to_end(&mut rest);
        sender.send(rest).unwrap();
    });
    home.ask_at(address, &wrong, &["remove", "secret-name"]).code(4);
    let everything = received.recv().unwrap();
    assert!(!everything.windows(11).any(|part| part == b"secret-name"));
}

#[test]
fn a_key_file_that_others_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let gateway = FakeGateway::start(|_| changed("done", None));
    let home = Home::new();
    let key = home.write("open.key", KEY);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    home.ask_at(gateway.address, &key, &["remove", "a"]).code(0).complains("chmod 600");
}

//! `--v1` against the original's protocol, with the server side of `config_proto` as the peer.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};

use config_proto::v1::message::{DONE, FAILED, NOT_AUTHENTICATED};
use config_proto::v1::server::Decoder;
use config_proto::v1::{Reply, Request, Sni};
use serde_json::json;

use crate::support::{Home, listen};

/// A v1 gateway whose `--key` is this text.
const TEXT: &str = "AAECAwQFBgcICQoLDA0ODw==";

fn gateway(answer: impl Fn(&Request) -> Reply + Send + 'static) -> (SocketAddr, Receiver<Request>) {
    let (sender, requests) = channel();
    let address = listen(move |mut stream| {
        let mut decoder = Decoder::new();
        let mut buffer = [0; 512];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let reply = match decoder.feed(&buffer[..length], TEXT.as_bytes()) {
                Ok(None) => continue,
                Ok(Some(request)) => {
                    let reply = answer(&request);
                    sender.send(request).unwrap();
                    reply
                }
                Err(_) => Reply::Result { exit: NOT_AUTHENTICATED, message: "bad hmac".to_owned() },
            };
            let der = reply.encode();
            stream.write_all(&u64::try_from(der.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&der).unwrap();
            return;
        }
    });
    (address, requests)
}

fn done(_: &Request) -> Reply {
    Reply::Result { exit: DONE, message: "blog was successfully added".to_owned() }
}

#[test]
fn add_and_remove_say_what_the_gateway_says() {
    let home = Home::new();
    let (address, requests) = gateway(done);
    // A key file of ours and the bare text are the same v1 key.
    for key in [format!("admin:{TEXT}\n"), TEXT.to_owned()] {
        let key = home.write("v1.key", &key);
        let run = home.ask_at(address, &key, &["--v1", "add", "blog", "192.168.0.42:80"]).code(0);
        assert_eq!(run.stdout, "blog was successfully added\n");
        let host = "192.168.0.42".parse().unwrap();
        let sni = Sni { name: "blog".to_owned(), host, port: 80 };
        assert_eq!(requests.recv().unwrap(), Request::Add(sni));
        home.ask_at(address, &key, &["--v1", "remove", "blog"]).code(0);
        assert_eq!(requests.recv().unwrap(), Request::Remove("blog".to_owned()));
    }
}

#[test]
fn list_prints_names_that_only_an_original_gateway_has() {
    let home = Home::new();
    let key = home.write("v1.key", TEXT);
    let sni = |name: &str, host: &str| Sni {
        name: name.to_owned(),
        host: host.parse().unwrap(),
        port: 80,
    };
    let (address, _requests) =
        gateway(move |_| Reply::Snis(vec![sni("odd name", "10.0.0.7"), sni("b", "2001:db8::7")]));
    home.ask_at(address, &key, &["--v1", "list"]).code(0).says("odd name  10.0.0.7:80\n");
    let list = home.ask_at(address, &key, &["--v1", "list", "--json", "b"]).code(0).json();
    let routes = json!([{"name": "b", "settings": {"backends": ["[2001:db8::7]:80"]}}]);
    assert_eq!(list, json!({"generation": 0, "routes": routes, "more": false}));
}

#[test]
fn a_wrong_key_is_4_and_a_failure_is_1() {
    let home = Home::new();
    let wrong = home.write("wrong.key", "something else");
    let (address, _requests) = gateway(done);
    home.ask_at(address, &wrong, &["--v1", "list"]).code(4).complains("wrong.key");
    let key = home.write("v1.key", TEXT);
    let (address, _requests) =
        gateway(|_| Reply::Result { exit: FAILED, message: "no such name".to_owned() });
    home.ask_at(address, &key, &["--v1", "remove", "x"]).code(1).complains("no such name");
}

#[test]
fn what_v1_cannot_say_is_wrong_usage() {
    let home = Home::new();
    let key = home.write("v1.key", TEXT);
    let (address, requests) = gateway(done);
    for arguments in [
        &["add", "blog", "10.0.0.7:80", "10.0.0.8:80"][..],
        &["add", "blog", "backend.example.org:80"],
        &["add", "blog", "10.0.0.7:80", "--mode", "passthrough"],
        &["status"],
    ] {
        home.ask_at(address, &key, &[&["--v1"], arguments].concat())
            .code(2)
            .complains("protocol v1");
    }
    assert!(requests.try_recv().is_err());
}

#[test]
fn a_garbled_reply_is_3() {
    let home = Home::new();
    let key = home.write("v1.key", TEXT);
    for bytes in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0, 0, 0, 0, 0, 0, 0, 2, 5, 0]] {
        let address = listen(move |mut stream| {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(bytes);
        });
        home.ask_at(address, &key, &["--v1", "list"]).code(3).complains("--control-v1");
    }
}

//! The Python client against the Rust server, over a loopback socket.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Instant;

use common::{key, lookup};
use config_proto::access::permits;
use config_proto::message::{
    CertificateCursor, CertificateInfo, CertificateList, Changed, KeyAdded, MAX_PAGE, Refusal,
    RefusalCode, Reply, Request, Role, RouteList, Sealed,
};
use config_proto::model::Route;
use config_proto::v2::server::{Event, Limits, ReceivedRequest, Refused, Server};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tlstunnel_ctl.py");

/// What the server saw, in order.
#[derive(Debug, PartialEq)]
enum Seen {
    Request(Box<Request>),
    Refused(Refused),
}

/// A server that answers every connection, one after the other, until the test ends.
struct Peer {
    address: SocketAddr,
    seen: mpsc::Receiver<Seen>,
    folder: PathBuf,
}

impl Peer {
    /// `None` when there is no Python.
    fn start(name: &str) -> Option<Self> {
        if !python_is_here() {
            return None;
        }
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&mut stream.unwrap(), &sender);
            }
        });
        Some(Self { address, seen, folder })
    }

    fn run(&self, key_line: &str, args: &[&str]) -> Output {
        let file = self.folder.join("key");
        std::fs::write(&file, key_line).unwrap();
        Command::new("python3")
            .args(["-B", CLIENT, &self.address.to_string()])
            .arg(file)
            .args(args)
            .output()
            .unwrap()
    }

    fn admin(&self, args: &[&str]) -> Output {
        self.run(&key("admin", 7).to_file_text(), args)
    }
}

fn python_is_here() -> bool {
    let here = Command::new("python3").arg("--version").output().is_ok();
    if !here {
        assert!(std::env::var("REQUIRE_PEERS").as_deref() != Ok("1"), "python3 is missing");
        println!("skipped: python3 is missing");
    }
    here
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn serve(stream: &mut TcpStream, seen: &mpsc::Sender<Seen>) {
    let mut nonce = [0; 32];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut nonce).unwrap();
    let mut server = Server::new(nonce, Instant::now(), Limits::default());
    let mut bytes = [0; 1500];
    loop {
        let count = stream.read(&mut bytes).unwrap_or(0);
        if count == 0 {
            return;
        }
        for event in server.feed(&bytes[..count], Instant::now(), &lookup) {
            let bytes = match event {
                Event::Send(bytes) => bytes,
                Event::Request(request) => {
                    let answer = answer(&mut server, &request);
                    let _ = seen.send(Seen::Request(Box::new(request.request)));
                    answer
                }
                Event::Malformed { seq, refusal } => {
                    server.reply::<()>(seq, &Reply::Error(refusal)).unwrap()
                }
                Event::Refused { reason, answer } => {
                    let _ = stream.write_all(&answer.unwrap_or_default());
                    let _ = seen.send(Seen::Refused(reason));
                    return;
                }
            };
            let _ = stream.write_all(&bytes);
        }
    }
}

fn answer(server: &mut Server, received: &ReceivedRequest) -> Vec<u8> {
    if let Err(refusal) = permits(&received.role, &received.request, None) {
        return server.reply::<()>(received.seq, &Reply::Error(refusal)).unwrap();
    }
    let changed =
        |message: String| Changed { generation: 2, message, name: None, warnings: vec![] };
    match &received.request {
        Request::Add { name, .. } => {
            server.reply(received.seq, &Reply::Ok(changed(format!("{name} was added"))))
        }
        Request::CertSet { key_pem: Sealed(pem), .. } => {
            server.reply(received.seq, &Reply::Ok(changed(format!("{} bytes", pem.len()))))
        }
        Request::KeyAdd { id, .. } => {
            let secret = Sealed("ü".repeat(100));
            let added = KeyAdded { generation: 2, id: id.clone(), secret };
            server.reply(received.seq, &Reply::Ok(added))
        }
        // Two pages of one route each.
        Request::List { after, .. } => {
            let name = if after.is_none() { "a.example.org" } else { "b.example.org" };
            let route = Route::new(name.parse().unwrap(), vec!["10.0.0.7:80".parse().unwrap()]);
            let list = RouteList { generation: 2, routes: vec![route], more: after.is_none() };
            server.reply(received.seq, &Reply::Ok(list))
        }
        // The same; the second certificate has no name.
        Request::CertList { after, .. } => {
            let certificate = |names: &[&str], sha256: &str| CertificateInfo {
                names: names.iter().map(|&name| name.to_owned()).collect(),
                issuer: "CN=a".to_owned(),
                not_before: 0,
                not_after: 1,
                sha256: sha256.to_owned(),
                source: "file".to_owned(),
            };
            let (page, more) = match after.as_ref().map(|cursor| cursor.sha256.as_str()) {
                None => (certificate(&[], "aa"), true),
                Some("aa") => (certificate(&["a.example.org", "b.example.org"], "bb"), true),
                Some(_) => (certificate(&["c.example.org"], "cc"), false),
            };
            let list = CertificateList { certificates: vec![page], more };
            server.reply(received.seq, &Reply::Ok(list))
        }
        _ => {
            let refusal = Refusal {
                code: RefusalCode::NotFound,
                message: "there is none".to_owned(),
                hint: None,
            };
            server.reply::<()>(received.seq, &Reply::Error(refusal))
        }
    }
    .unwrap()
}

#[track_caller]
fn check(output: &Output, status: i32, text: &str) {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(text), "{said}");
}

#[test]
fn it_adds_lists_and_is_refused() {
    let Some(peer) = Peer::start("tlstunnel-ctl-commands") else { return };
    check(&peer.admin(&["add", "blog", "10.0.0.7:80", "[2001:db8::7]:80"]), 0, "blog was added");
    match peer.seen.recv().unwrap() {
        Seen::Request(request) => match *request {
            Request::Add { name, settings, replace: false } => {
                assert_eq!(name, "blog");
                let backends: Vec<String> =
                    settings.backends.iter().map(ToString::to_string).collect();
                assert_eq!(backends, ["10.0.0.7:80", "[2001:db8::7]:80"]);
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    let listed = peer.admin(&["list"]);
    check(&listed, 0, "");
    assert_eq!(
        String::from_utf8(listed.stdout).unwrap(),
        "a.example.org 10.0.0.7:80\nb.example.org 10.0.0.7:80\n"
    );
    let list = |after: Option<&str>| {
        let after = after.map(|name| name.parse().unwrap());
        Seen::Request(Box::new(Request::List { filter: None, after, limit: MAX_PAGE }))
    };
    assert_eq!(peer.seen.recv().unwrap(), list(None));
    assert_eq!(peer.seen.recv().unwrap(), list(Some("a.example.org")));
    let listed = peer.admin(&["certificates"]);
    assert_eq!(
        String::from_utf8(listed.stdout).unwrap(),
        "aa\nbb a.example.org b.example.org\ncc c.example.org\n"
    );
    for after in [None, Some(("", "aa")), Some(("a.example.org", "bb"))] {
        let after = after.map(|(name, sha256)| CertificateCursor {
            name: name.to_owned(),
            sha256: sha256.to_owned(),
        });
        let asked = Request::CertList { after, limit: MAX_PAGE };
        assert_eq!(peer.seen.recv().unwrap(), Seen::Request(Box::new(asked)));
    }
    check(&peer.admin(&["remove", "blog"]), 1, "there is none");
    check(&peer.admin(&["raw", r#"{"op":"dance"}"#]), 1, "not understood");
    let viewer = key("viewer", 8).to_file_text();
    check(&peer.run(&viewer, &["add", "blog", "10.0.0.7:80"]), 1, "may not");
    check(&peer.admin(&["add", "blog"]), 2, "usage");
}

#[test]
fn it_seals_and_opens_secrets() {
    let Some(peer) = Peer::start("tlstunnel-ctl-secrets") else { return };
    let pem = "-----BEGIN PRIVATE KEY-----".repeat(20);
    let request = Request::CertSet { chain_pem: "chain".to_owned(), key_pem: Sealed(pem.clone()) };
    let json = serde_json::to_string(&request).unwrap();
    check(&peer.admin(&["raw", &json]), 0, &format!("{} bytes", pem.len()));
    assert_eq!(peer.seen.recv().unwrap(), Seen::Request(Box::new(request)));
    let request = Request::KeyAdd { id: "team".to_owned(), role: Role::Viewer };
    let output = peer.admin(&["raw", &serde_json::to_string(&request).unwrap()]);
    check(&output, 0, "team");
    let result: KeyAdded = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result.secret.0, "ü".repeat(100));
}

#[test]
fn it_tells_a_wrong_key_from_an_unreachable_gateway() {
    let Some(peer) = Peer::start("tlstunnel-ctl-wrong-key") else { return };
    for (key, reason) in
        [(key("admin", 9), Refused::BadTag), (key("nobody", 7), Refused::UnknownKey)]
    {
        check(&peer.run(&key.to_file_text(), &["status"]), 4, "not authenticated");
        assert_eq!(peer.seen.recv().unwrap(), Seen::Refused(reason));
    }
    check(&peer.run("", &["status"]), 2, "key file");

    // A port that nobody listens on any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = peer.folder.join("key");
    std::fs::write(&file, key("admin", 7).to_file_text().as_str()).unwrap();
    let output = Command::new("python3")
        .args(["-B", CLIENT, &closed.to_string()])
        .arg(file)
        .arg("status")
        .output()
        .unwrap();
    check(&output, 3, "cannot reach");
}

/// The vectors are what the Python code makes of them today, not what it once made.
#[test]
fn it_writes_the_vectors() {
    if !python_is_here() {
        return;
    }
    let generator = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/make-control-v2.py");
    let output = Command::new("python3").args(["-B", generator]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written = String::from_utf8(output.stdout).unwrap();
    assert_eq!(written, include_str!("vectors/control-v2.json"));
}

/// Bytes that a gateway never sends: another protocol, and a server that has another secret.
#[test]
fn it_believes_nobody_else() {
    let Some(peer) = Peer::start("tlstunnel-ctl-impostor") else { return };
    for (first, second, status) in [
        (b"HTTP/1.1 400 Bad Request and many more bytes".to_vec(), vec![], 3),
        ([&b"tlsctl\r\n\x02"[..], &[1; 32]].concat(), [&[0, 0, 0, 41][..], &[0; 41]].concat(), 4),
        ([&b"tlsctl\r\n\x02"[..], &[1; 32]].concat(), vec![0xff; 4], 3),
        ([&b"tlsctl\r\n\x02"[..], &[1; 32]].concat(), vec![], 3),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let impostor = impostor(&peer, listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 200]);
            let _ = stream.write_all(&first);
            let _ = stream.read(&mut [0; 200]);
            let _ = stream.write_all(&second);
        });
        assert_eq!(impostor.admin(&["status"]).status.code(), Some(status));
        server.join().unwrap();
    }
}

fn impostor(peer: &Peer, address: SocketAddr) -> Peer {
    let folder = peer.folder.join("impostor");
    std::fs::create_dir_all(&folder).unwrap();
    Peer { address, seen: mpsc::channel().1, folder }
}

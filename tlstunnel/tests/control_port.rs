//! The control port of a whole gateway in this process, over loopback: v2, roles, v1, refusals, metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod control_common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use config_proto::key::Key;
use config_proto::message::{
    Applied, CertificateChain, CertificateInfo, CertificateList, Changed, Check, Diff, History,
    KeyAdded, KeyList, RefusalCode, Request, Role, RouteDetail, RouteList, Sealed, Status, Top,
    Why,
};
use config_proto::model::Document;
use config_proto::v1;
use config_proto::v2::MAX_FRAME_BYTES;
use config_proto::v2::client::ClientError;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use control_common::{InProcess, KEY, Session, add, assert_code, eventually, http_get, to};

fn list() -> Request {
    Request::List { filter: None, after: None, limit: 1000 }
}

#[test]
fn every_request_is_answered() {
    let gateway = InProcess::start(&["--self-signed"]);
    let mut admin = gateway.admin();
    let added: Changed = admin.ask(&add("blog", "127.0.0.1:9")).unwrap();
    assert_eq!(added.name.as_deref(), Some("blog.example.org"));
    assert!(added.warnings.iter().any(|w| w.contains("own machine")), "{:?}", added.warnings);
    let first = added.generation;
    assert_code(&admin.refused(&add("blog", "127.0.0.1:10")), RefusalCode::Exists);
    let unknown = admin.refused(&Request::Show { name: "nothing".to_owned() });
    assert_code(&unknown, RefusalCode::NotFound);
    assert!(unknown.hint.unwrap().contains("list"));

    let routes: RouteList = admin.ask(&list()).unwrap();
    assert_eq!(routes.routes.len(), 1);
    let shown: RouteDetail = admin.ask(&Request::Show { name: "blog".to_owned() }).unwrap();
    assert_eq!(shown.backends[0].address, "127.0.0.1:9");
    assert_eq!(shown.alpn, ["http/1.1"]);
    assert_eq!(shown.certificate.unwrap().source, "self-signed");
    let status: Status = admin.ask(&Request::Status).unwrap();
    assert_eq!((status.routes, status.generation), (1, first));
    assert!(status.storage.capacity > 0);
    let why: Why = admin.ask(&Request::Why { name: Some("blog".to_owned()), from: None }).unwrap();
    assert_eq!(why.backend.as_deref(), Some("127.0.0.1:9"));
    assert!(why.steps.iter().any(|step| step.contains("no h2")), "{:?}", why.steps);
    let why: Why =
        admin.ask(&Request::Why { name: Some("x.test".to_owned()), from: None }).unwrap();
    assert_eq!(why.route, None);

    let mut shared = to("127.0.0.1:9");
    shared.alpn = Some(vec!["h2".to_owned()]);
    let h2 = Request::Add { name: "h2".to_owned(), settings: shared, replace: false };
    let changed: Changed = admin.ask(&h2).unwrap();
    assert!(changed.warnings.iter().any(|w| w.contains("h2")), "{:?}", changed.warnings);
    let check: Check = admin.ask(&Request::Check).unwrap();
    let finding = &check.findings[0];
    assert_eq!(finding.subject, "h2.example.org");
    assert!(finding.message.contains("blog.example.org"), "{finding:?}");

    let top: Top = admin.ask(&Request::Top { limit: 10 }).unwrap();
    assert_eq!(top.open, 0);
    let history: History = admin.ask(&Request::History { before: None, limit: 10 }).unwrap();
    assert_eq!(history.generations[0].author, "admin");
    let diff: Diff = admin.ask(&Request::Diff { from: first, to: None }).unwrap();
    assert_eq!(diff.changes.len(), 1);
    let _: Changed = admin.ask(&Request::Rollback { generation: first }).unwrap();
    let apply =
        Request::Apply { document: Document::default(), dry_run: false, confirm_seconds: Some(60) };
    let applied: Applied = admin.ask(&apply).unwrap();
    assert!(applied.applied);
    assert_code(&admin.refused(&add("x", "127.0.0.1:9")), RefusalCode::Pending);
    let _: Changed = admin.ask(&Request::Confirm { generation: applied.generation }).unwrap();
    let certificates: CertificateList =
        admin.ask(&Request::CertList { after: None, limit: 10 }).unwrap();
    assert_eq!(certificates.certificates.len(), 1);
    let show = |name: &str| Request::CertShow { name: name.to_owned() };
    let shown: CertificateChain = admin.ask(&show("blog")).unwrap();
    let read: Vec<_> = CertificateDer::pem_slice_iter(shown.chain_pem.as_bytes())
        .map(|certificate| certificate.unwrap())
        .collect();
    assert_eq!(read.len(), 2, "the certificate and the development authority");
    let digest: String = Sha256::digest(&read[0]).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(digest, certificates.certificates[0].sha256);
    assert_code(&admin.refused(&show("elsewhere.example.net")), RefusalCode::NotFound);
    assert_code(&admin.refused(&show("default")), RefusalCode::Invalid);
    assert_code(
        &admin.refused(&Request::Remove { name: "blog".to_owned() }),
        RefusalCode::NotFound,
    );
    gateway.stop();
}

#[test]
fn roles_bound_what_a_key_may_do_and_a_removed_key_is_out() {
    let gateway = InProcess::start(&[]);
    let mut admin = gateway.admin();
    let mut made = |id: &str, role: Role| -> Key {
        let added: KeyAdded = admin.ask(&Request::KeyAdd { id: id.to_owned(), role }).unwrap();
        format!("{id}:{}", added.secret.0).parse().unwrap()
    };
    let viewer = made("viewer", Role::Viewer);
    let team = made("team", "names:*.team.example.org".parse().unwrap());

    let mut session = Session::open(gateway.control(), &viewer).unwrap();
    let _: RouteList = session.ask(&list()).unwrap();
    assert_code(&session.refused(&add("a", "10.0.0.1:80")), RefusalCode::Forbidden);
    let mut teammate = Session::open(gateway.control(), &team).unwrap();
    let _: Changed = teammate.ask(&add("x.team.example.org", "10.0.0.1:80")).unwrap();
    assert_code(&teammate.refused(&add("x.example.org", "10.0.0.1:80")), RefusalCode::Forbidden);
    assert_eq!(gateway.sample("tlstunnel_control_refusals_total{reason=\"forbidden\"}"), Some(2.0));

    let keys: KeyList = admin.ask(&Request::KeyList).unwrap();
    assert_eq!(
        keys.keys.iter().map(|k| k.id.as_str()).collect::<Vec<_>>(),
        ["admin", "team", "viewer"]
    );
    assert_code(
        &admin.refused(&Request::KeyRemove { id: "admin".to_owned() }),
        RefusalCode::Invalid,
    );
    let _: Changed = admin.ask(&Request::KeyRemove { id: "team".to_owned() }).unwrap();
    assert!(teammate.is_closed());
    assert_eq!(Session::open(gateway.control(), &team).err(), Some(ClientError::NotAuthenticated));
    gateway.stop();
}

/// Whoever holds an open connection of a key that was removed must not get what a new key of that id may do.
#[test]
fn a_key_that_is_made_again_is_not_the_old_one() {
    let gateway = InProcess::start(&[]);
    let mut admin = gateway.admin();
    let mut made = |role: Role| -> Key {
        let add = Request::KeyAdd { id: "ops".to_owned(), role };
        let added: KeyAdded = admin.ask(&add).unwrap();
        format!("ops:{}", added.secret.0).parse().unwrap()
    };
    let old = made(Role::Admin);
    let mut session = Session::open(gateway.control(), &old).unwrap();
    let _: RouteList = session.ask(&list()).unwrap();
    let _: Changed = admin.ask(&Request::KeyRemove { id: "ops".to_owned() }).unwrap();
    let add_again = Request::KeyAdd { id: "ops".to_owned(), role: Role::Viewer };
    let again: KeyAdded = admin.ask(&add_again).unwrap();
    assert!(session.is_closed());
    assert_eq!(Session::open(gateway.control(), &old).err(), Some(ClientError::NotAuthenticated));
    let again = format!("ops:{}", again.secret.0).parse().unwrap();
    let mut session = Session::open(gateway.control(), &again).unwrap();
    assert_code(&session.refused(&add("a", "10.0.0.1:80")), RefusalCode::Forbidden);
    gateway.stop();
}

/// The wait for the first byte is part of the handshake's time: a client that uses most of it up has the rest for the
/// remainder, and not the whole once more. So it ends before one that came later and said nothing.
#[test]
fn a_slow_first_byte_gives_no_more_time() {
    let gateway = InProcess::start(&["--control-timeout", "3s"]);
    let connect = || TcpStream::connect(gateway.control()).unwrap();
    let end = |mut stream: TcpStream| {
        std::thread::spawn(move || {
            // Its end; a reset is one too.
            let _ = stream.read(&mut [0; 1]);
            Instant::now()
        })
    };
    let mut dripping = connect();
    let reading = dripping.try_clone().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let silent = end(connect());
    std::thread::sleep(Duration::from_millis(500));
    dripping.write_all(b"t").unwrap();
    assert!(end(reading).join().unwrap() < silent.join().unwrap());
    gateway.stop();
}

#[test]
fn a_recorded_session_opens_nothing_and_is_counted() {
    let gateway = InProcess::start(&[]);
    let mut admin = gateway.admin();
    let _: Changed = admin.ask(&add("a", "10.0.0.1:80")).unwrap();
    let _: Changed = admin.ask(&Request::Remove { name: "a".to_owned() }).unwrap();
    let mut replay = TcpStream::connect(gateway.control()).unwrap();
    replay.write_all(&admin.sent).unwrap();
    let mut answer = Vec::new();
    // The gateway may close before all of it was read, which resets the connection.
    let _ = replay.read_to_end(&mut answer);
    eventually("counting the replay", || {
        gateway.sample("tlstunnel_control_refusals_total{reason=\"bad_tag\"}") == Some(1.0)
    });
    let routes: RouteList = admin.ask(&list()).unwrap();
    assert!(routes.routes.is_empty());
    gateway.stop();
}

#[test]
fn who_fails_too_often_must_wait_and_floods_are_bounded() {
    let gateway = InProcess::start(&["--control-timeout", "1s", "--control-connections", "3"]);
    let mut slow = TcpStream::connect(gateway.control()).unwrap();
    slow.write_all(b"tls").unwrap();
    assert_eq!(slow.read(&mut [0; 1]).unwrap_or(0), 0);
    eventually("counting it", || {
        gateway.sample("tlstunnel_control_refusals_total{reason=\"too_slow\"}") == Some(1.0)
    });
    let held: Vec<_> = (0..8).map(|_| TcpStream::connect(gateway.control()).unwrap()).collect();
    eventually("the cap", || {
        gateway.sample("tlstunnel_control_refusals_total{reason=\"over_cap\"}").unwrap() >= 5.0
    });
    drop(held);
    eventually("the wait", || {
        for _ in 0..10 {
            let mut garbage = TcpStream::connect(gateway.control()).unwrap();
            let _ = garbage.write_all(b"GET / HTTP/1.1\r\n\r\n");
            let _ = garbage.read(&mut [0; 1]);
        }
        gateway.sample("tlstunnel_control_refusals_total{reason=\"back_off\"}").unwrap() > 0.0
    });
    gateway.stop();
}

/// Sends a v1 frame as it is and reads the reply.
fn v1_exchange(gateway: &InProcess, frame: &[u8]) -> Option<v1::Reply> {
    let mut stream = TcpStream::connect(gateway.control()).unwrap();
    // In pieces, which the original refuses and we do not.
    for piece in frame.chunks(7) {
        // A gateway that refuses closes in the middle.
        if stream.write_all(piece).is_err() {
            return None;
        }
    }
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    if bytes.is_empty() { None } else { Some(v1::Reply::decode(&bytes[8..]).unwrap()) }
}

fn vector(name: &str) -> Vec<u8> {
    let text = include_str!("../../config-proto/tests/vectors/control-v1.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(vectors["hmac_key_is_the_argument_string_itself"], KEY);
    hex::decode(vectors["commands"][name]["request_frame"].as_str().unwrap()).unwrap()
}

#[test]
fn the_originals_client_is_served_when_asked_to() {
    let gateway = InProcess::start(&["--control-v1"]);
    let done = |message: &str| Some(v1::Reply::Result { exit: 0, message: message.to_owned() });
    assert_eq!(v1_exchange(&gateway, &vector("list")), Some(v1::Reply::Snis(Vec::new())));
    let added = "test.example.org was successfully added";
    assert_eq!(v1_exchange(&gateway, &vector("add_v4")), done(added));
    assert!(matches!(
        v1_exchange(&gateway, &vector("add_v6")),
        Some(v1::Reply::Result { exit: 0, .. })
    ));
    let Some(v1::Reply::Snis(snis)) = v1_exchange(&gateway, &vector("list")) else { panic!() };
    assert_eq!(snis.len(), 2);
    assert!(snis.iter().any(|sni| sni.name == "test.example.org" && sni.port == 80));
    let removed = "test.example.org was successfully removed";
    assert_eq!(v1_exchange(&gateway, &vector("remove")), done(removed));
    let again = v1_exchange(&gateway, &vector("remove"));
    assert!(matches!(again, Some(v1::Reply::Result { exit: 1, .. })), "{again:?}");
    let mut forged = vector("list");
    forged[20] ^= 1;
    let refused = v1_exchange(&gateway, &forged);
    assert!(matches!(refused, Some(v1::Reply::Result { exit: 3, .. })), "{refused:?}");
    let history: History =
        gateway.admin().ask(&Request::History { before: None, limit: 1 }).unwrap();
    assert_eq!(history.generations[0].author, "v1");
    gateway.stop();
}

#[test]
fn the_originals_client_is_refused_when_not() {
    let gateway = InProcess::start(&[]);
    assert_eq!(v1_exchange(&gateway, &vector("list")), None);
    eventually("counting it", || {
        gateway.sample("tlstunnel_control_refusals_total{reason=\"v1_off\"}") == Some(1.0)
    });
    gateway.stop();
}

#[test]
fn ten_thousand_routes_fit_one_request() {
    let gateway = InProcess::start(&[]);
    let names =
        (0..10_000).map(|n| (format!("n{n}.example.org").parse().unwrap(), to("10.0.0.1:80")));
    let document = Document { routes: names.collect() };
    let mut admin = gateway.admin();
    let apply = Request::Apply { document, dry_run: false, confirm_seconds: None };
    let applied: Applied = admin.ask(&apply).unwrap();
    assert!(applied.applied);
    let status: Status = admin.ask(&Request::Status).unwrap();
    assert_eq!(status.routes, 10_000);
    gateway.stop();
}

/// Routes with long descriptions: a page of them would be longer than the frames that a client takes who was not told
/// otherwise. The pages are shorter then, and nothing is left out.
#[test]
fn pages_end_where_a_usual_frame_is_full() {
    let gateway = InProcess::start(&[]);
    let mut long = to("10.0.0.1:80");
    long.description = Some("d".repeat(1000));
    let names: Vec<_> =
        (0..2500).map(|n| format!("n{n:04}.example.org").parse().unwrap()).collect();
    let document =
        Document { routes: names.iter().map(|n| (Clone::clone(n), long.clone())).collect() };
    let apply = Request::Apply { document, dry_run: false, confirm_seconds: None };
    let mut admin = gateway.admin();
    let before: Status = admin.ask(&Request::Status).unwrap();
    let applied: Applied = admin.ask(&apply).unwrap();
    assert!(applied.diff.more && applied.diff.changes.len() < 1000);

    let mut usual =
        Session::open_with(gateway.control(), &KEY.parse().unwrap(), MAX_FRAME_BYTES).unwrap();
    let diff = Request::Diff { from: before.generation, to: None };
    let diff: Diff = usual.ask(&diff).unwrap();
    assert!(diff.more && diff.changes.len() > 500);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page: RouteList =
            usual.ask(&Request::List { filter: None, after, limit: 1000 }).unwrap();
        assert!(page.routes.len() < 1000 || !page.more);
        found.extend(page.routes.into_iter().map(|route| route.name));
        after = found.last().cloned();
        if !page.more {
            break;
        }
    }
    assert_eq!(found, names);
    gateway.stop();
}

/// The text form of OpenMetrics: every sample belongs to the family that was declared last, and the end is marked.
#[test]
fn the_metrics_are_well_formed_and_health_is_told() {
    let gateway = InProcess::start(&["--self-signed"]);
    let text = gateway.metrics();
    assert!(text.ends_with("# EOF\n"));
    let (mut family, mut seen) = (String::new(), std::collections::BTreeSet::new());
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            family = declared.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(family.clone()), "{family} twice");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&family), "{line} in {family}");
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        }
    }
    for family in
        ["tlstunnel_certificate_not_after", "tlstunnel_config_generation", "tlstunnel_build"]
    {
        assert!(seen.contains(family), "{family}");
    }
    let metrics = gateway.addresses.metrics[0];
    assert!(http_get(metrics, "/health/live").starts_with("HTTP/1.1 200"));
    assert!(http_get(metrics, "/health/ready").starts_with("HTTP/1.1 200"));
    assert!(http_get(metrics, "/elsewhere").starts_with("HTTP/1.1 404"));
    gateway.stop();
}

/// A name is added while the gateway runs, answers at once, shows in the metrics, and is gone from them when removed.
#[test]
fn a_new_name_serves_at_once_and_its_metrics_go_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("store");
    let gateway = InProcess::start(&["--self-signed", "--storage", storage.to_str().unwrap()]);
    let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = backend.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = backend.accept().unwrap();
        let mut line = [0; 5];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(&line).unwrap();
    });
    let mut admin = gateway.admin();
    let _: Changed = admin.ask(&add("blog", &address)).unwrap();

    let ca = std::fs::read(folder.path().join("store-ca.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pki_types::pem::PemObject::pem_slice_iter(&ca) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(std::sync::Arc::clone(
        tlstunnel::tls::provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let name = "blog.example.org".try_into().unwrap();
    let client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(gateway.addresses.https[0]).unwrap();
    let mut tls = rustls::StreamOwned::new(client, stream);
    tls.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");

    let labelled = "tlstunnel_route_connections_total{route=\"blog.example.org\"}";
    assert_eq!(gateway.sample(labelled), Some(1.0));
    let top: Top = admin.ask(&Request::Top { limit: 10 }).unwrap();
    assert_eq!(top.connections[0].server_name.as_deref(), Some("blog.example.org"));
    let _: Changed = admin.ask(&Request::Remove { name: "blog".to_owned() }).unwrap();
    assert_eq!(gateway.sample(labelled), None);
    drop(tls);
    gateway.stop();
}

/// Certificates with so many names that a reply of the usual length holds only some of them.
#[test]
fn certificates_come_in_pages_that_every_client_can_read() {
    let gateway = InProcess::start(&[]);
    let key: Key = KEY.parse().unwrap();
    let mut client = Session::open_with(gateway.control(), &key, MAX_FRAME_BYTES).unwrap();
    let label = "x".repeat(60);
    for n in 0..70 {
        // Some have the same first name, and are told apart by their SHA-256.
        let first = format!("c{}.example.org", n / 3);
        let more = (0..80).map(|m| format!("n{n}-{m}.{label}.{label}.{label}.example.org"));
        let names: Vec<String> = std::iter::once(first).chain(more).collect();
        let pair = rcgen::generate_simple_self_signed(names).unwrap();
        let set = Request::CertSet {
            chain_pem: pair.cert.pem(),
            key_pem: Sealed(pair.signing_key.serialize_pem()),
        };
        let _: Changed = client.ask(&set).unwrap();
    }
    let mut walk = |first: Vec<CertificateInfo>, limit: u32| {
        let (mut all, mut pages) = (first, 0);
        loop {
            let after = all.last().map(CertificateInfo::cursor);
            let list: CertificateList = client.ask(&Request::CertList { after, limit }).unwrap();
            assert!(!list.certificates.is_empty());
            all.extend(list.certificates);
            pages += 1;
            if !list.more {
                return (all, pages);
            }
        }
    };
    let (all, pages) = walk(Vec::new(), 1000);
    assert!(pages > 1, "one reply cannot hold them");
    let (in_small_pages, _) = walk(Vec::new(), 7);
    assert_eq!(in_small_pages, all);
    let places: Vec<(String, String)> =
        all.iter().map(|c| (c.names[0].clone(), c.sha256.clone())).collect();
    assert!(places.is_sorted());
    // Of several with the same name the last is shown, and the others stay for their other names.
    assert_eq!(places.len(), 70);

    let mut other = Session::open_with(gateway.control(), &key, MAX_FRAME_BYTES).unwrap();
    let status: Status = other.ask(&Request::Status).unwrap();
    assert!(status.more_certificates && all.starts_with(&status.certificates));
    let memory = status.route_memory.unwrap();
    assert!(memory.used == 0 && memory.limit > 0, "{memory:?}");
}

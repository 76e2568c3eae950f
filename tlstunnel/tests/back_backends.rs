//! Choosing, connecting, retrying and watching backends; DNS with a name server made by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config_proto::model::{
    BackendAddress, BackendTls, Balance, HealthCheck, Mode, ProxyVersion, Route, RouteName,
};
use proxy_protocol::Addresses;
use rustls::pki_types::PrivateKeyDer;
use tlstunnel::backend::{
    BackendSummary, Backends, ClientInfo, ConnectError, ResolveError, Resolver, ResolverOptions,
    TlsInfo,
};
use tlstunnel::limits::Limits;
use tlstunnel::route::ActiveRoute;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;

fn client(address: &str) -> ClientInfo {
    ClientInfo {
        peer: address.parse().unwrap(),
        local: "127.0.0.1:443".parse().unwrap(),
        server_name: None,
        tls: None,
    }
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, last).into()
}

fn active(route: &Route, previous: Option<&ActiveRoute>) -> ActiveRoute {
    ActiveRoute::new(route, &Limits::default(), Arc::default(), previous).unwrap()
}

fn route(backends: &[BackendAddress], balance: Balance) -> Route {
    let mut route = Route::new(RouteName::Default, backends.to_vec());
    route.settings.balance = balance;
    route
}

/// Addresses on which nobody listens and nobody is asked to.
fn unused_addresses(n: u16) -> Vec<BackendAddress> {
    (1..=n).map(|port| format!("192.0.2.1:{port}").parse().unwrap()).collect()
}

async fn listener() -> (TcpListener, BackendAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    (listener, address)
}

/// An address of this machine that refuses connections.
async fn closed_address() -> BackendAddress {
    listener().await.1
}

async fn connect(route: &ActiveRoute, client: &ClientInfo) -> Result<BackendAddress, ConnectError> {
    let connection = route.backends.connect(&Resolver::default(), client, &route.limits).await?;
    Ok(connection.backend().address.clone())
}

fn summary_of(route: &ActiveRoute, at: usize) -> BackendSummary {
    route.backends.summaries().swap_remove(at)
}

/// Waits for something that another task does; the test as a whole has a time limit.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_next_backend_is_tried_and_the_dead_one_passed_over() {
    let dead = closed_address().await;
    let (_listener, alive) = listener().await;
    let route = active(&route(&[dead.clone(), alive.clone()], Balance::RoundRobin), None);
    for _ in 0..4 {
        assert_eq!(connect(&route, &client("198.51.100.1:1")).await.unwrap(), alive);
    }
    let dead = summary_of(&route, 0);
    assert!(!dead.healthy);
    assert_eq!((dead.failures, dead.total, dead.open), (1, 0, 0));
    assert!(dead.last_error.unwrap().contains("refused"));
    assert_eq!((summary_of(&route, 1).total, summary_of(&route, 1).open), (4, 0));
}

#[tokio::test]
async fn when_all_are_down_all_are_tried_and_named() {
    let dead = [closed_address().await, closed_address().await];
    let route = active(&route(&dead, Balance::RoundRobin), None);
    for _ in 0..2 {
        let Err(ConnectError::AllFailed { attempts }) =
            connect(&route, &client("198.51.100.1:1")).await
        else {
            panic!("nobody listens");
        };
        let tried: HashSet<_> = attempts.into_iter().map(|attempt| attempt.backend).collect();
        assert_eq!(tried, dead.iter().map(ToString::to_string).collect());
    }
    assert_eq!(summary_of(&route, 0).failures, 2);
}

#[tokio::test]
async fn round_robin_and_least_connections_choose_as_they_are_named() {
    let (first, second) = (listener().await, listener().await);
    let both = [first.1.clone(), second.1.clone()];
    let in_turn = active(&route(&both, Balance::RoundRobin), None);
    let mut chosen = Vec::new();
    for _ in 0..4 {
        chosen.push(connect(&in_turn, &client("198.51.100.1:1")).await.unwrap());
    }
    assert_eq!(chosen, [both.clone(), both.clone()].concat());

    let least = active(&route(&both, Balance::Least), None);
    let resolver = Resolver::default();
    let info = client("198.51.100.1:1");
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(least.backends.connect(&resolver, &info, &least.limits).await.unwrap());
    }
    assert_eq!((summary_of(&least, 0).open, summary_of(&least, 1).open), (3, 3));
    held.retain(|connection| connection.backend().address == both[0]);
    assert_eq!((summary_of(&least, 0).open, summary_of(&least, 1).open), (3, 0));
    assert_eq!(connect(&least, &info).await.unwrap(), both[1]);
}

#[test]
fn hashing_is_stable_even_and_moves_only_what_it_must() {
    let all = unused_addresses(5);
    let choose = |backends: &[BackendAddress], client: u8| {
        let route = active(&route(backends, Balance::Hash), None);
        route.backends.preview(ip(client))[0].address.clone()
    };
    let mut counts = [0_u32; 5];
    for client in 0..=255 {
        let first = choose(&all, client);
        counts[all.iter().position(|address| *address == first).unwrap()] += 1;
        // Without the first one, only its own clients go elsewhere; order does not matter.
        let mut others = all[1..].to_vec();
        others.reverse();
        if first != all[0] {
            assert_eq!(choose(&others, client), first);
        }
    }
    assert!(counts.iter().all(|n| (25..=80).contains(n)), "{counts:?}");
    // An IPv4 client is the same in its mapped form.
    let route = active(&route(&all, Balance::Hash), None);
    let mapped: IpAddr = "::ffff:198.51.100.9".parse().unwrap();
    assert_eq!(route.backends.preview(mapped)[0].address, route.backends.preview(ip(9))[0].address);
}

#[tokio::test]
async fn unchanged_backends_keep_their_state() {
    let (_listener, alive) = listener().await;
    let dead = closed_address().await;
    let before = active(&route(&[dead.clone(), alive.clone()], Balance::RoundRobin), None);
    let resolver = Resolver::default();
    let info = client("198.51.100.1:1");
    let held = before.backends.connect(&resolver, &info, &before.limits).await.unwrap();
    let more = [alive.clone(), unused_addresses(1).remove(0), dead];
    let after = active(&route(&more, Balance::Least), Some(&before));
    assert_eq!((summary_of(&after, 0).open, summary_of(&after, 0).total), (1, 1));
    assert_eq!(summary_of(&after, 1).total, 0);
    assert!(!summary_of(&after, 2).healthy);
    drop(held);
    assert_eq!(summary_of(&after, 0).open, 0);
}

#[tokio::test]
async fn checks_find_a_backend_down_and_up_again_and_end_with_the_route() {
    let (listening, address) = listener().await;
    let port = SocketAddr::from(([127, 0, 0, 1], address.port));
    let mut configured = route(&[address], Balance::RoundRobin);
    configured.settings.health =
        Some(HealthCheck { interval_seconds: 1, timeout_seconds: 1, rise: 1, fall: 1 });
    let route = active(&configured, None);
    let resolver = Resolver::default();
    Backends::switch_checks(None, Some(&route.backends), &resolver, &Handle::current());
    listening.accept().await.unwrap();
    assert!(summary_of(&route, 0).healthy);
    drop(listening);
    until(|| !summary_of(&route, 0).healthy).await;
    assert!(summary_of(&route, 0).last_error.unwrap().contains("health check"));

    let listening = TcpListener::bind(port).await.unwrap();
    until(|| summary_of(&route, 0).healthy).await;

    // A route without checks that keeps the backend: the check ends.
    configured.settings.health = None;
    let unchecked = active(&configured, Some(&route));
    Backends::switch_checks(
        Some(&route.backends),
        Some(&unchecked.backends),
        &resolver,
        &Handle::current(),
    );
    drop(listening);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(summary_of(&unchecked, 0).healthy);
}

#[tokio::test]
async fn the_backend_learns_who_the_client_is() {
    let (listening, address) = listener().await;
    let mut configured = route(&[address], Balance::RoundRobin);
    let mut info = client("198.51.100.7:4711");
    info.server_name = Some("a.example".into());
    info.tls = Some(TlsInfo {
        version: "TLSv1.3",
        cipher: "TLS13_AES_128_GCM_SHA256".into(),
        alpn: Some(b"http/1.1".to_vec()),
        client_certificate: false,
    });
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        configured.settings.proxy = Some(version);
        let route = active(&configured, None);
        let mut connection =
            route.backends.connect(&Resolver::default(), &info, &route.limits).await.unwrap();
        connection.stream.write_all(b"stream").await.unwrap();
        drop(connection);
        let mut bytes = Vec::new();
        listening.accept().await.unwrap().0.read_to_end(&mut bytes).await.unwrap();
        for part in [b"http/1.1".as_slice(), b"a.example", b"TLSv1.3", b"TLS13_AES_128_GCM_SHA256"]
        {
            let there = bytes.windows(part.len()).any(|window| window == part);
            assert_eq!(there, version == ProxyVersion::V2, "{}", part.escape_ascii());
        }
        let mut rest = &bytes[..];
        let told = proxy_protocol::read_header(&mut rest).await.unwrap();
        let tls = version == ProxyVersion::V2;
        assert_eq!(told, Some(Addresses { source: info.peer, destination: info.local, tls }));
        assert_eq!(rest, b"stream");
    }
}

/// A TLS backend: its acceptor, its certificate in PEM, and the SHA-256 of its public key.
fn tls_backend(names: &[&str], alpn: &[&str]) -> (tokio_rustls::TlsAcceptor, String, String) {
    use sha2::Digest;
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    params.is_ca = rcgen::IsCa::NoCa;
    params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
    let issuer = rcgen::Issuer::from_ca_cert_der(authority.der(), &key).unwrap();
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    let pin = hex::encode(sha2::Sha256::digest({
        use rcgen::PublicKeyData;
        leaf_key.subject_public_key_info()
    }));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()),
        )
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    (Arc::new(config).into(), authority.pem(), pin)
}

#[tokio::test]
async fn a_backend_is_verified_by_authority_or_pin() {
    let (listening, address) = listener().await;
    let (acceptor, ca, pin) = tls_backend(&["a.example"], &["h2", "http/1.1"]);
    let resumed = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&resumed);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listening.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let session = stream.get_ref().1;
            seen.lock()
                .unwrap()
                .push((session.handshake_kind(), session.alpn_protocol().map(<[u8]>::to_vec)));
            stream.write_all(b"hello").await.unwrap();
            let _ = stream.read(&mut [0]).await;
        }
    });
    let try_with = async |tls: BackendTls, name: Option<&str>, alpn: Option<&str>, times: u32| {
        let mut configured = route(std::slice::from_ref(&address), Balance::RoundRobin);
        configured.settings.mode = Mode::Reencrypt;
        configured.settings.backend_tls = Some(tls);
        let route = active(&configured, None);
        let mut info = client("198.51.100.7:4711");
        info.server_name = name.map(Into::into);
        info.tls = Some(TlsInfo { alpn: alpn.map(Into::into), ..TlsInfo::default() });
        for _ in 0..times {
            let mut connection =
                route.backends.connect(&Resolver::default(), &info, &route.limits).await?;
            let mut greeting = [0; 5];
            connection.stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"hello");
        }
        Result::<(), ConnectError>::Ok(())
    };
    let with_ca = BackendTls { ca: Some(ca), ..BackendTls::default() };
    try_with(with_ca.clone(), Some("a.example"), Some("h2"), 2).await.unwrap();
    {
        let seen = resumed.lock().unwrap();
        assert_eq!(seen[0].1.as_deref(), Some(b"h2".as_slice()));
        assert_eq!(seen[1].0, Some(rustls::HandshakeKind::Resumed));
    }
    let error = try_with(with_ca.clone(), Some("b.example"), None, 1).await.unwrap_err();
    assert!(error.to_string().contains("TLS handshake"), "{error}");
    let named = BackendTls { server_name: Some("a.example".into()), ..with_ca.clone() };
    try_with(named, Some("b.example"), None, 1).await.unwrap();

    let pinned = BackendTls { pin_sha256: Some(pin), ..BackendTls::default() };
    try_with(pinned, Some("b.example"), None, 1).await.unwrap();
    let wrong = BackendTls { pin_sha256: Some("00".repeat(32)), ..BackendTls::default() };
    try_with(wrong, Some("a.example"), None, 1).await.unwrap_err();
    // Public authorities did not issue it.
    try_with(BackendTls::default(), Some("a.example"), None, 1).await.unwrap_err();
}

/// Many tools make self-signed certificates that are authorities too. No verifier takes such a one as a server's, and
/// whoever gave it as authority must learn what to do instead.
#[tokio::test]
async fn a_self_signed_backend_leads_to_its_pin() {
    let (listening, address) = listener().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listening.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let mut configured = route(&[address], Balance::RoundRobin);
    configured.settings.mode = Mode::Reencrypt;
    let ca = Some(certificate.pem());
    configured.settings.backend_tls = Some(BackendTls { ca, ..BackendTls::default() });
    let route = active(&configured, None);
    let mut info = client("198.51.100.7:4711");
    info.server_name = Some("a.example".into());
    let error = connect(&route, &info).await.unwrap_err().to_string();
    assert!(error.contains("self-signed") && error.contains("--backend-pin"), "{error}");
    let shown = route.backends.summaries().remove(0).last_error.unwrap();
    assert!(shown.contains("--backend-pin"), "{shown}");
}

#[tokio::test]
async fn a_backend_that_knows_no_alpn_serves_http1_only() {
    let (listening, address) = listener().await;
    let (acceptor, ca, _) = tls_backend(&["a.example"], &[]);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listening.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0]).await;
            }
        }
    });
    let mut configured = route(&[address], Balance::RoundRobin);
    configured.settings.mode = Mode::Reencrypt;
    configured.settings.backend_tls = Some(BackendTls { ca: Some(ca), ..BackendTls::default() });
    let route = active(&configured, None);
    let mut info = client("198.51.100.7:4711");
    info.server_name = Some("a.example".into());
    for (alpn, serves) in [("http/1.1", true), ("h2", false)] {
        info.tls = Some(TlsInfo { alpn: Some(alpn.into()), ..TlsInfo::default() });
        assert_eq!(connect(&route, &info).await.is_ok(), serves, "{alpn}");
    }
}

/// A name server that answers every A question with `addresses` and TTL 1, and counts; silent while there are none.
async fn name_server(addresses: Arc<Mutex<Vec<Ipv4Addr>>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut query = [0; 1500];
        loop {
            let (len, from) = socket.recv_from(&mut query).await.unwrap();
            let addresses = addresses.lock().unwrap().clone();
            if addresses.is_empty() {
                continue;
            }
            // The question: labels up to the root, type, class.
            let name_end = 12 + query[12..len].iter().position(|byte| *byte == 0).unwrap() + 1;
            let question = &query[12..name_end + 4];
            let is_a = query[name_end..name_end + 2] == [0, 1];
            let answers = if is_a { addresses } else { Vec::new() };
            if is_a {
                count.fetch_add(1, Ordering::Relaxed);
            }
            let count = u8::try_from(answers.len()).unwrap();
            let mut reply =
                [&query[..2], &[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
            for ip in answers {
                reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                reply.extend_from_slice(&ip.octets());
            }
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    (address, asked)
}

#[tokio::test]
async fn names_are_resolved_again_and_outlive_their_name_server() {
    let addresses = Arc::new(Mutex::new(vec![Ipv4Addr::new(127, 0, 0, 1)]));
    let (server, asked) = name_server(Arc::clone(&addresses)).await;
    let resolver = Resolver::new(ResolverOptions { name_servers: vec![server] });
    let name = "backend.example";
    let (first, second) = tokio::join!(resolver.resolve(name), resolver.resolve(name));
    assert_eq!(first.unwrap(), [Ipv4Addr::new(127, 0, 0, 1)]);
    assert_eq!(second.unwrap(), [Ipv4Addr::new(127, 0, 0, 1)]);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one question for all who wait");

    *addresses.lock().unwrap() = vec![Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(127, 0, 0, 2)];
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(resolver.resolve(name).await.unwrap(), [Ipv4Addr::new(127, 0, 0, 2)]);

    addresses.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(resolver.resolve(name).await.unwrap(), [Ipv4Addr::new(127, 0, 0, 2)]);
}

#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    let (listening, _) = listener().await;
    let port = listening.local_addr().unwrap().port();
    // Nobody listens on the first.
    let addresses = vec![Ipv4Addr::new(127, 0, 0, 77), Ipv4Addr::new(127, 0, 0, 1)];
    let (server, _) = name_server(Arc::new(Mutex::new(addresses))).await;
    let resolver = Resolver::new(ResolverOptions { name_servers: vec![server] });
    let address = format!("backend.example:{port}").parse().unwrap();
    let route = active(&route(&[address], Balance::RoundRobin), None);
    for _ in 0..3 {
        let info = client("198.51.100.7:4711");
        let connection = route.backends.connect(&resolver, &info, &route.limits).await.unwrap();
        assert_eq!(connection.address, SocketAddr::from(([127, 0, 0, 1], port)));
    }
    assert_eq!(summary_of(&route, 0).failures, 0);
}

#[tokio::test]
async fn localhost_needs_no_name_server_and_a_missing_answer_is_explained() {
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let resolver = Resolver::new(ResolverOptions { name_servers: vec![nobody] });
    for name in ["localhost", "a.b.localhost"] {
        assert!(resolver.resolve(name).await.unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
    }
    let error = resolver.resolve("backend.example").await.unwrap_err();
    assert!(
        matches!(&error, ResolveError::Failed(name, _) if name == "backend.example"),
        "{error}"
    );
}

#[test]
fn one_route_serves_several_single_threaded_runtimes() {
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: BackendAddress = listening.local_addr().unwrap().into();
    let route = Arc::new(active(&route(&[address], Balance::Least), None));
    let resolver = Resolver::default();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (route, resolver) = (Arc::clone(&route), resolver.clone());
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..20 {
                        let info = client("198.51.100.7:4711");
                        route.backends.connect(&resolver, &info, &route.limits).await.unwrap();
                    }
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((summary_of(&route, 0).total, summary_of(&route, 0).open), (80, 0));
}

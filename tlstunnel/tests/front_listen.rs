//! Accepting: caps, PROXY headers, running out of descriptors, stopping without losing anybody.
#![allow(clippy::unwrap_used, clippy::panic)]

mod front_common;

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use front_common::{Setup, World, backend, echo, greeting, read_all, tcp, tls};
use tlstunnel::gateway::{Gateway, Phase};
use tlstunnel::limits::Limits;
use tlstunnel::listen::{self, HttpSettings, HttpsSettings};

fn limited(connections: usize, connections_per_client: usize) -> Setup {
    let limits = Limits { connections, connections_per_client, ..Limits::default() };
    Setup { limits, ..Setup::default() }
}

fn trusting(setup: Setup) -> Setup {
    Setup {
        https: HttpsSettings { proxy_from: Arc::new(["127.0.0.0/8".parse().unwrap()]) },
        ..setup
    }
}

#[test]
fn the_total_cap_holds_over_both_ports_and_places_come_back() {
    let world = World::with(limited(3, 0));
    let held = [world.tcp(), tcp(world.http), world.tcp()];
    world.wait("three open", |world| (world.gateway.live.oldest(9).len() == 3).then_some(()));
    for address in [world.https, world.http] {
        assert_eq!(read_all(&mut tcp(address)), b"", "refused at once");
    }
    assert_eq!(world.gateway.counters.refused_over_cap.value(), 2);
    drop(held);
    world.wait("none open", |world| (world.gateway.live.open() == 0).then_some(()));
    assert!(world.tls("x.example.org", &["http/1.1"]).is_ok());
}

#[test]
fn the_cap_per_client_counts_who_the_proxy_header_names() {
    let world = World::with(trusting(limited(100, 1)));
    world.route("a.example.org", &[backend("a")], config_proto::model::RouteSettings::default());
    let connect = |header: &[u8]| {
        let mut stream: TcpStream = world.tcp();
        stream.write_all(header).unwrap();
        tls(world.client(&[]), "a.example.org", stream)
    };
    let v1 = |client: &str| format!("PROXY TCP4 {client} 192.0.2.9 40000 443\r\n").into_bytes();
    let mut first = connect(&v1("192.0.2.1")).unwrap();
    assert!(connect(&v1("192.0.2.1")).is_err(), "the same client");
    let mut second = connect(&v1("192.0.2.2")).unwrap();
    for client in [&mut first, &mut second] {
        assert_eq!(greeting(client), "hello from a\n");
    }
    let mut clients: Vec<_> = world.gateway.live.oldest(9).into_iter().map(|c| c.client).collect();
    clients.sort();
    assert_eq!(clients, ["192.0.2.1:40000", "192.0.2.2:40000"]);
    world.outcome("over cap");
    // A trusted peer must send a header; TLS in its place is refused.
    assert!(tls(world.client(&[]), "a.example.org", world.tcp()).is_err());
    world.outcome("bad PROXY header");
}

#[test]
fn headers_of_strangers_are_no_headers() {
    let world = World::new();
    let mut stream = world.tcp();
    stream.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.9 40000 443\r\n").unwrap();
    assert_eq!(read_all(&mut stream)[..5], [21, 3, 3, 0, 2], "an alert");
    world.outcome("bad ClientHello");
}

/// What waits in the queues when the gateway stops is still served.
#[test]
fn a_stop_accepts_what_is_in_the_queue() {
    let gateway = Gateway::new(Limits::default());
    let bind = || listen::bind(([127, 0, 0, 1], 0).into(), true).unwrap();
    let (https, http) = (bind(), bind());
    let addresses = [https.local_addr().unwrap(), http.local_addr().unwrap()];
    let mut clients: Vec<TcpStream> = addresses.iter().cycle().take(50).map(|&a| tcp(a)).collect();
    gateway.phase.send_replace(Phase::Draining);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (a, b) = tokio::join!(
            listen::run_https(Arc::clone(&gateway), https, HttpsSettings::default()),
            listen::run_http(Arc::clone(&gateway), http, HttpSettings::default()),
        );
        a.and(b).unwrap();
        // The loops are over and the sockets closed; the connections are open.
        assert_eq!(gateway.live.open(), 50);
        for address in addresses {
            TcpStream::connect(address).unwrap_err();
        }
        let served = tokio::task::spawn_blocking(move || {
            for (i, client) in clients.iter_mut().enumerate() {
                client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                let expected = if i % 2 == 0 { b"HTTP/1.1 400" } else { b"HTTP/1.1 301" };
                assert_eq!(&read_all(client)[..12], expected);
            }
        });
        served.await.unwrap();
    });
}

#[test]
fn workers_share_one_socket_and_a_successor_takes_over() {
    let gateway = Gateway::new(Limits::default());
    let listener = listen::bind(([127, 0, 0, 1], 0).into(), true).unwrap();
    let address = listener.local_addr().unwrap();
    let worker = |gateway: Arc<Gateway>, listener: std::net::TcpListener| {
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listen::run_http(Arc::clone(&gateway), listener, HttpSettings::default())
                    .await
                    .unwrap();
                while gateway.live.open() > 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            });
        })
    };
    let mut threads = vec![
        worker(Arc::clone(&gateway), listen::clone_for_worker(&listener).unwrap()),
        worker(Arc::clone(&gateway), listener),
    ];
    let successor = Gateway::new(Limits::default());
    let ask = || {
        let mut stream = tcp(address);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(&read_all(&mut stream)[..12], b"HTTP/1.1 301");
    };
    for round in 0..300 {
        match round {
            100 => {
                threads.push(worker(Arc::clone(&successor), listen::bind(address, true).unwrap()))
            }
            200 => {
                gateway.phase.send_replace(Phase::Draining);
            }
            _ => {}
        }
        ask();
    }
    successor.phase.send_replace(Phase::Draining);
    for thread in threads {
        thread.join().unwrap();
    }
    let (old, new) = (&gateway.counters.redirects, &successor.counters.redirects);
    assert_eq!(old.value() + new.value(), 300);
    assert!(old.value() >= 100 && new.value() >= 90, "{} and {}", old.value(), new.value());
}

/// The gateway is stopped at once: open connections end, and nothing waits for their clients.
#[test]
fn the_end_ends_open_connections() {
    let world = World::new();
    world.route("a.example.org", &[backend("a")], config_proto::model::RouteSettings::default());
    let mut open = world.tls("a.example.org", &[]).unwrap();
    assert_eq!(greeting(&mut open), "hello from a\n");
    let mut in_handshake = world.tcp();
    let mut http = tcp(world.http);
    world.gateway.phase.send_replace(Phase::Draining);
    echo(&mut open, "draining lets it live");
    world.gateway.phase.send_replace(Phase::Ended);
    read_all(&mut open);
    read_all(&mut in_handshake);
    read_all(&mut http);
}

/// Set in the process that runs short of descriptors.
const SCARCE: &str = "FRONT_SCARCE_DESCRIPTORS";

/// Runs itself again with few file descriptors.
#[test]
fn running_out_of_descriptors_is_survived() {
    if std::env::var_os(SCARCE).is_some() {
        return run_out_of_descriptors();
    }
    let status = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "running_out_of_descriptors_is_survived", "--nocapture"])
        .env(SCARCE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn run_out_of_descriptors() {
    let world = World::new();
    let mut held = Vec::new();
    // Ends when connecting fails too: then accepting fails as well.
    while let Ok(stream) = TcpStream::connect(world.http) {
        held.push(stream);
    }
    held.pop();
    // One descriptor is free. Either side may get it, so several are queued while the other side has none.
    world.wait("the complaint", |world| world.complaint("accepting a connection failed"));
    drop(held);
    let mut stream = world.wait("descriptors", |world| TcpStream::connect(world.http).ok());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(&read_all(&mut stream)[..12], b"HTTP/1.1 301");
}

/// Set in the process that inherits its listener.
const INHERITS: &str = "FRONT_INHERITS";

/// Runs itself again with a listening socket as descriptors 3 and 4, as systemd would.
#[test]
fn inherited_listeners_are_taken_over() {
    if std::env::var_os(INHERITS).is_some() {
        return serve_inherited();
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = "exec 3<&0 4<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inherited_listeners_are_taken_over", "--nocapture"])
        .env(INHERITS, "1")
        .env("LISTEN_FDNAMES", "https:http")
        .stdin(std::os::fd::OwnedFd::from(listener))
        .spawn()
        .unwrap();
    let mut stream = tcp(address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(&read_all(&mut stream)[..12], b"HTTP/1.1 400");
    assert!(child.wait().unwrap().success());
}

/// Takes the listeners over and serves TLS until the first connection was told that it should speak TLS.
fn serve_inherited() {
    let mut inherited = listen::Inherited::take().unwrap();
    let sizes = (inherited.https.len(), inherited.http.len(), inherited.control.len());
    assert_eq!(sizes, (1, 1, 0));
    let gateway = Gateway::new(Limits::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let serving = listen::run_https(
            Arc::clone(&gateway),
            inherited.https.remove(0),
            HttpsSettings::default(),
        );
        let stop = async {
            while gateway.counters.hello_malformed.value() == 0 || gateway.live.open() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            gateway.phase.send_replace(Phase::Draining);
        };
        let (served, ()) = tokio::join!(serving, stop);
        served.unwrap();
    });
}

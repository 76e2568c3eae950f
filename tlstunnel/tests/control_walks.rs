//! Walks over all routes do not hold up the event loop: while the one thread for them is busy, everything else goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod control_common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use blockdev::MemoryDevice;
use config_proto::message::{KeyList, Request};
use control_common::{KEY, Session, http_get};
use serde_json::Value;
use tlstunnel::config::{Configuration, Settings, Start, open};
use tlstunnel::control::{self, Control};
use tlstunnel::gateway::{Gateway, Phase};
use tlstunnel::limits::Limits;
use tlstunnel::observe::{http, metrics::Metrics};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// Whatever is a request's answer, it must come after `release` and not before.
fn waits(stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silent = stream.peek(&mut [0]).unwrap_err();
    assert!(matches!(silent.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
}

fn listener() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn questions_about_all_routes_hold_nobody_else_up() {
    let (control_listener, control_address) = listener();
    let (metrics_listener, metrics_address) = listener();
    let (block, blocked) = mpsc::channel::<()>();
    let (send, receive) = mpsc::channel();
    let gateway_thread = std::thread::spawn(move || {
        let runtime =
            Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        let gateway = Gateway::new(Limits::default());
        let store = open::on_device(Arc::new(MemoryDevice::new(4 << 20)), false).unwrap();
        let settings = Settings { domains: Vec::new(), history: 10, route_memory: u64::MAX };
        let start = Start { administrator: Some(KEY.parse().unwrap()), ..Start::default() };
        let handle = runtime.handle().clone();
        let (configuration, _) =
            Configuration::open(Arc::clone(&gateway), store, settings, start, handle).unwrap();
        let settings = control::Settings {
            name: "test".to_owned(),
            connections: 10,
            frame_time: Duration::from_secs(60),
            max_frame: config_proto::v2::GATEWAY_FRAME_BYTES,
            v1_key: None,
            keeper: None,
            certificate_alert: 21 * 86_400,
        };
        let control = Control::new(Arc::clone(&gateway), configuration, settings);
        let metrics = Metrics::new(Arc::clone(&gateway), Arc::clone(control.refusals()), None);
        runtime.block_on(async {
            // The one blocking thread waits until the test lets it go.
            tokio::task::spawn_blocking(move || blocked.recv());
            let monitoring = TcpListener::from_std(metrics_listener).unwrap();
            tokio::spawn(http::serve(monitoring, Arc::clone(&gateway), Arc::new(metrics)));
            send.send(Arc::clone(&gateway)).unwrap();
            control::serve(control.port(), TcpListener::from_std(control_listener).unwrap()).await;
        });
    });
    let gateway = receive.recv().unwrap();

    let key = KEY.parse().unwrap();
    let list = Request::List { filter: None, after: None, limit: 10 };
    let certificates = Request::CertList { after: None, limit: 10 };
    let walks = [Request::Status, Request::Check, Request::Top { limit: 10 }, list, certificates];
    let asked: Vec<Session> = walks
        .iter()
        .map(|request| {
            let mut session = Session::open(control_address, &key).unwrap();
            session.start(request);
            session
        })
        .collect();
    let mut scrape = TcpStream::connect(metrics_address).unwrap();
    write!(scrape, "GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").unwrap();

    // Others are served.
    assert!(http_get(metrics_address, "/health/live").contains("200 OK"));
    let mut other = Session::open(control_address, &key).unwrap();
    let _: KeyList = other.ask(&Request::KeyList).unwrap();
    waits(&scrape);
    for session in &asked {
        waits(session.stream());
    }

    block.send(()).unwrap();
    for mut session in asked {
        let _: Value = session.answer().unwrap();
    }
    let mut text = String::new();
    scrape.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    gateway.phase.send_replace(Phase::Ended);
    gateway_thread.join().unwrap();
}

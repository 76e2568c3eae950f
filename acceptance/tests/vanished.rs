//! Clients and backends that vanish, without an end or a reset, while they are idle or owe an acknowledgement: the gateway
//! notices within its options, and whoever is only silent stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use acceptance::backend::Backend;
use acceptance::client::{self, Tls};
use acceptance::gateway::DOMAIN;
use acceptance::{Gateway, peer};
use socket2::{SockFilter, SockRef};

/// A probe after a second of silence; two seconds for any answer.
const IMPATIENT: [&str; 4] = ["--keepalive", "1s", "--peer-timeout", "2s"];
/// A bound against hanging. Without the option under test a system takes 15 minutes.
const HANGS: Duration = Duration::from_secs(120);

/// A backend's side of a connection: it answers what it gets, says when that ended, and can be had to write on.
struct Accepted {
    stream: TcpStream,
    ended: Receiver<()>,
}

/// A backend that hands every connection over.
fn echo() -> (Backend, Receiver<Accepted>) {
    let (accepted, connections) = channel::<Accepted>();
    let accepted: Mutex<Sender<Accepted>> = Mutex::new(accepted);
    let backend = Backend::serve(move |mut stream| {
        let (end, ended) = channel();
        let handle = stream.try_clone().unwrap();
        accepted.lock().unwrap().send(Accepted { stream: handle, ended }).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut stream);
        let _ = end.send(());
    });
    (backend, connections)
}

/// From now on the system drops whatever comes for this socket, as if its machine were gone: nothing is acknowledged, no
/// probe is answered, nothing is reset.
fn vanish(stream: &TcpStream) {
    // Classic BPF: return 0, of each packet keep nothing.
    SockRef::from(stream).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
}

/// Connects and makes sure that the backend answers.
fn connect(gateway: &Gateway, connections: &Receiver<Accepted>) -> (Tls, Accepted) {
    let config = client::config(&gateway.ca_file(), &[]);
    let mut tls = client::connect(gateway.https, &format!("echo.{DOMAIN}"), &config).unwrap();
    answers(&mut tls);
    (tls, connections.recv().unwrap())
}

fn answers(tls: &mut Tls) {
    tls.write_all(b"there?").unwrap();
    let mut answer = [0; 6];
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"there?");
}

fn open(gateway: &Gateway) -> usize {
    gateway
        .ctl(&["status", "--json"])
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"open\": ")?.trim_end_matches(',').parse().ok())
        .unwrap()
}

#[test]
fn a_vanished_client_is_noticed_and_a_silent_one_stays() {
    let gateway = Gateway::start_with(&IMPATIENT);
    let (backend, connections) = echo();
    gateway.ctl(&["add", "echo", &backend.to_arg()]);
    let (mut silent, _silent_side) = connect(&gateway, &connections);

    let (idle, side) = connect(&gateway, &connections);
    vanish(&idle.sock);
    side.ended.recv_timeout(HANGS).expect("the end of an idle client that vanished");

    let (owing, mut side) = connect(&gateway, &connections);
    vanish(&owing.sock);
    side.stream.write_all(b"what nobody acknowledges").unwrap();
    side.ended.recv_timeout(HANGS).expect("the end of a client that vanished with data under way");

    answers(&mut silent);
    peer::eventually("only the silent client counts", || open(&gateway) == 1);
}

#[test]
fn a_vanished_backend_is_noticed() {
    let gateway = Gateway::start_with(&IMPATIENT);
    let (backend, connections) = echo();
    gateway.ctl(&["add", "echo", &backend.to_arg()]);

    for owes in [false, true] {
        let (mut tls, side) = connect(&gateway, &connections);
        tls.sock.set_read_timeout(Some(HANGS)).unwrap();
        vanish(&side.stream);
        if owes {
            tls.write_all(b"what nobody acknowledges").unwrap();
        }
        match tls.read(&mut [0; 16]) {
            Ok(n) => assert_eq!(n, 0, "nobody is there who could answer"),
            Err(error) => assert!(
                !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ),
                "{error}"
            ),
        }
    }
}

//! A gateway in this process, and a client that speaks protocol v2 to it over loopback. Plain blocking code.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Parser;
use config_proto::key::Key;
use config_proto::message::{Refusal, RefusalCode, Reply, Request};
use config_proto::model::RouteSettings;
use config_proto::v2::GATEWAY_FRAME_BYTES;
use config_proto::v2::client::{Client, ClientError, Event};
use serde::de::DeserializeOwned;
use tlstunnel::options::{CommandLine, Options};
use tlstunnel::run::{Addresses, StopHandle, run, stop_channel};

/// The administrator's key of the tests; also the key of the v1 vectors.
pub const KEY: &str = "9Fe92fogykIAPBJZU4FUsmpRsAy6YDajIkdSRs650zM=";

/// A gateway in a thread of this process.
pub struct InProcess {
    pub addresses: Addresses,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<(), tlstunnel::run::RunError>>>,
}

/// Options for ports that the system chooses, in memory, with [`KEY`], and then `more`.
pub fn options(more: &[&str]) -> Options {
    let own = [
        "tlstunnel",
        "--listen-https",
        "127.0.0.1:0",
        "--listen-http",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--key",
        KEY,
        "--domains",
        "example.org",
        "--storage-size",
        "16MiB",
        "--workers",
        "1",
    ];
    CommandLine::try_parse_from(own.iter().chain(more)).unwrap().options
}

impl InProcess {
    pub fn start(more: &[&str]) -> Self {
        let options = options(more);
        let (stop, stops) = stop_channel();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            run(&options, stops, None, |addresses| sender.send(addresses.clone()).unwrap())
        });
        let addresses = receiver.recv().expect("the gateway did not start");
        Self { addresses, stop, thread: Some(thread) }
    }

    pub fn control(&self) -> SocketAddr {
        self.addresses.control[0]
    }

    pub fn admin(&self) -> Session {
        Session::open(self.control(), &KEY.parse().unwrap()).unwrap()
    }

    pub fn metrics(&self) -> String {
        let answer = http_get(self.addresses.metrics[0], "/metrics");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        body.to_owned()
    }

    /// The value of the first sample that begins with this text.
    pub fn sample(&self, start: &str) -> Option<f64> {
        let text = self.metrics();
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn stop(mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.stop.stop();
        self.stop.stop();
    }
}

/// An authenticated connection.
pub struct Session {
    stream: TcpStream,
    client: Client,
    /// Everything that was sent.
    pub sent: Vec<u8>,
}

impl Session {
    pub fn open(address: SocketAddr, key: &Key) -> Result<Self, ClientError> {
        Self::open_with(address, key, GATEWAY_FRAME_BYTES)
    }

    /// A client that takes frames of this length at most.
    pub fn open_with(
        address: SocketAddr,
        key: &Key,
        max_frame: usize,
    ) -> Result<Self, ClientError> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (client, hello) = Client::with_max_frame(key, nonce, max_frame);
        let mut session = Self { stream, client, sent: Vec::new() };
        session.send(&hello);
        loop {
            for event in session.receive()? {
                if matches!(event, Event::Ready) {
                    return Ok(session);
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        self.stream.write_all(bytes).unwrap();
    }

    fn receive(&mut self) -> Result<Vec<Event>, ClientError> {
        let mut buffer = [0; 16 * 1024];
        let n = self.stream.read(&mut buffer).unwrap_or(0);
        if n == 0 {
            self.client.end()?;
            panic!("the gateway closed the connection");
        }
        let events = self.client.feed(&buffer[..n])?;
        for event in &events {
            if let Event::Send(bytes) = event {
                self.send(bytes);
            }
        }
        Ok(events)
    }

    /// Whether the gateway has closed the connection, within its reading time.
    pub fn is_closed(&mut self) -> bool {
        self.stream.read(&mut [0; 1]).is_ok_and(|n| n == 0)
    }

    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Refusal> {
        self.start(request);
        self.answer()
    }

    /// Sends a request and does not wait for its answer.
    pub fn start(&mut self, request: &Request) {
        let (_, bytes) = self.client.request(request).unwrap();
        self.send(&bytes);
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The answer to the oldest request that has none yet.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T, Refusal> {
        loop {
            for event in self.receive().unwrap() {
                if let Event::Reply(reply) = event {
                    return match reply.into_reply().unwrap() {
                        Reply::Ok(value) => Ok(value),
                        Reply::Error(refusal) => Err(refusal),
                    };
                }
            }
        }
    }

    pub fn refused(&mut self, request: &Request) -> Refusal {
        self.ask::<serde_json::Value>(request).unwrap_err()
    }
}

pub fn add(name: &str, backend: &str) -> Request {
    Request::Add { name: name.to_owned(), settings: to(backend), replace: false }
}

pub fn to(backend: &str) -> RouteSettings {
    RouteSettings { backends: vec![backend.parse().unwrap()], ..RouteSettings::default() }
}

pub fn assert_code(refusal: &Refusal, code: RefusalCode) {
    assert_eq!(refusal.code, code, "{refusal:?}");
}

pub fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Waits until `condition` holds; fails after a minute.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what} did not happen");
}

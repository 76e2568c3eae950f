//! Two sides of v2 without a network between them.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::time::Instant;

use config_proto::key::{Key, KeyId, KnownKey};
use config_proto::message::{Changed, Reply, Request, Role};
use config_proto::v2::client::{Client, ClientError, Event as ClientEvent, ReceivedReply};
use config_proto::v2::server::{Event, Limits, ReceivedRequest, Refused, Server};

pub(crate) const CLIENT_NONCE: [u8; 32] = [0xc1; 32];
pub(crate) const SERVER_NONCE: [u8; 32] = [0x5e; 32];

pub(crate) fn key(id: &str, byte: u8) -> Key {
    Key::new(id.parse().unwrap(), &[byte; 32]).unwrap()
}

/// The server's keys: `admin` and `viewer`.
pub(crate) fn lookup(id: &KeyId) -> Option<KnownKey> {
    match id.as_str() {
        "admin" => Some(KnownKey { key: key("admin", 7), role: Role::Admin }),
        "viewer" => Some(KnownKey { key: key("viewer", 8), role: Role::Viewer }),
        _ => None,
    }
}

pub(crate) fn new_server() -> Server {
    new_server_with(SERVER_NONCE)
}

pub(crate) fn new_server_with(nonce: [u8; 32]) -> Server {
    Server::new(nonce, Instant::now(), Limits::default())
}

/// What a server did with some bytes.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: Vec<u8>,
    pub(crate) requests: Vec<ReceivedRequest>,
    pub(crate) malformed: Vec<u64>,
    pub(crate) refused: Option<Refused>,
}

pub(crate) fn feed(server: &mut Server, bytes: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    collect(&mut outcome, server.feed(bytes, Instant::now(), &lookup));
    outcome
}

pub(crate) fn collect(outcome: &mut Outcome, events: Vec<Event>) {
    for event in events {
        assert_eq!(outcome.refused, None, "an event after a refusal: {event:?}");
        match event {
            Event::Send(bytes) => outcome.sent.extend(bytes),
            Event::Request(request) => outcome.requests.push(*request),
            Event::Malformed { seq, .. } => outcome.malformed.push(seq),
            Event::Refused { reason, answer } => {
                outcome.refused = Some(reason);
                outcome.sent.extend(answer.unwrap_or_default());
            }
        }
    }
}

/// What a client did with some bytes.
#[derive(Debug, Default)]
pub(crate) struct ClientOutcome {
    pub(crate) sent: Vec<u8>,
    pub(crate) replies: Vec<ReceivedReply>,
    pub(crate) ready: bool,
    pub(crate) error: Option<ClientError>,
}

pub(crate) fn feed_client(client: &mut Client, bytes: &[u8]) -> ClientOutcome {
    let mut outcome = ClientOutcome::default();
    match client.feed(bytes) {
        Ok(events) => {
            for event in events {
                match event {
                    ClientEvent::Send(bytes) => outcome.sent.extend(bytes),
                    ClientEvent::Ready => outcome.ready = true,
                    ClientEvent::Reply(reply) => outcome.replies.push(reply),
                }
            }
        }
        Err(error) => outcome.error = Some(error),
    }
    outcome
}

/// The four messages of a handshake.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    pub(crate) client_hello: Vec<u8>,
    pub(crate) server_hello: Vec<u8>,
    pub(crate) client_proof: Vec<u8>,
    pub(crate) server_proof: Vec<u8>,
}

/// A connection whose handshake is over.
pub(crate) fn connected() -> (Client, Server, Handshake) {
    connected_with(&key("admin", 7), CLIENT_NONCE, SERVER_NONCE)
}

pub(crate) fn connected_with(
    key: &Key,
    client_nonce: [u8; 32],
    server_nonce: [u8; 32],
) -> (Client, Server, Handshake) {
    let (mut client, client_hello) = Client::new(key, client_nonce);
    let mut server = new_server_with(server_nonce);
    let server_hello = feed(&mut server, &client_hello).sent;
    let client_proof = feed_client(&mut client, &server_hello).sent;
    let server_proof = feed(&mut server, &client_proof).sent;
    assert!(feed_client(&mut client, &server_proof).ready);
    (client, server, Handshake { client_hello, server_hello, client_proof, server_proof })
}

pub(crate) fn remove(name: &str) -> Request {
    Request::Remove { name: name.to_owned() }
}

pub(crate) fn changed(generation: u64) -> Reply<Changed> {
    Reply::Ok(Changed { generation, message: "done".to_owned(), name: None, warnings: vec![] })
}

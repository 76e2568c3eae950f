//! v2 against vectors that the Python client's code wrote (`vectors/make-control-v2.py`).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Instant;

use config_proto::key::{Key, KeyId, KnownKey};
use config_proto::message::{Reply, Request, Role};
use config_proto::v2::client::{Client, Event as ClientEvent};
use config_proto::v2::server::{Event, Limits, Server};
use serde_json::Value;

struct Vectors(Value);

impl Vectors {
    fn load() -> Self {
        Self(serde_json::from_str(include_str!("vectors/control-v2.json")).unwrap())
    }

    fn bytes(&self, pointer: &str) -> Vec<u8> {
        hex::decode(self.0.pointer(pointer).unwrap().as_str().unwrap()).unwrap()
    }

    fn list(&self, name: &str) -> &Vec<Value> {
        self.0[name].as_array().unwrap()
    }

    fn key(&self) -> Key {
        let id = self.0["key_id"].as_str().unwrap().parse().unwrap();
        Key::new(id, &self.bytes("/secret")).unwrap()
    }

    /// A server and a client that have exchanged the vectors' handshake; each message is compared on the way.
    fn connect(&self) -> (Server, Client) {
        let nonce = |name: &str| self.bytes(name).try_into().unwrap();
        let (mut client, hello) = Client::new(&self.key(), nonce("/client_nonce"));
        assert_eq!(hex::encode(&hello), self.0["client_hello"]);
        let mut server = Server::new(nonce("/server_nonce"), Instant::now(), Limits::default());
        let server_hello = sent(server_events(self, &mut server, &hello));
        assert_eq!(hex::encode(&server_hello), self.0["server_hello"]);
        let proof = match &client.feed(&server_hello).unwrap()[..] {
            [ClientEvent::Send(bytes)] => bytes.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(hex::encode(&proof), self.0["client_proof"]);
        let server_proof = sent(server_events(self, &mut server, &proof));
        assert_eq!(hex::encode(&server_proof), self.0["server_proof"]);
        assert!(matches!(client.feed(&server_proof).unwrap()[..], [ClientEvent::Ready]));
        (server, client)
    }
}

fn server_events(vectors: &Vectors, server: &mut Server, bytes: &[u8]) -> Vec<Event> {
    let lookup = |id: &KeyId| {
        let key = vectors.key();
        (id == key.id()).then_some(KnownKey { key, role: Role::Admin })
    };
    server.feed(bytes, Instant::now(), &lookup)
}

fn sent(events: Vec<Event>) -> Vec<u8> {
    match &events[..] {
        [Event::Send(bytes)] => bytes.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_and_replies_byte_for_byte() {
    let vectors = Vectors::load();
    let (mut server, mut client) = vectors.connect();
    assert_eq!(vectors.list("requests").len(), vectors.list("replies").len());
    for (request, reply) in vectors.list("requests").iter().zip(vectors.list("replies")) {
        let (seq, frame) = client.request_json(&request["message"]).unwrap();
        assert_eq!(
            (seq, hex::encode(&frame).into()),
            (request["sequence"].as_u64().unwrap(), request["frame"].clone())
        );
        let received = match &server_events(&vectors, &mut server, &frame)[..] {
            [Event::Request(received)] => received.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(received.seq, seq);
        assert_eq!(received.request, Request::from_json(request["message"].clone()).unwrap());

        let plain: Reply<Value> = serde_json::from_value(reply["message"].clone()).unwrap();
        let frame = server.reply(seq, &plain).unwrap();
        assert_eq!(Value::from(hex::encode(&frame)), reply["frame"]);
        match &client.feed(&frame).unwrap()[..] {
            [ClientEvent::Reply(reply)] if reply.seq == seq => {
                assert_eq!(reply.clone().into_reply::<Value>().unwrap(), plain);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_fixed_refusal() {
    assert_eq!(
        hex::encode(config_proto::v2::UNAUTHENTICATED),
        Vectors::load().0["unauthenticated"]
    );
}

#[test]
fn authentic_frames_that_are_no_request_are_answered_and_the_connection_goes_on() {
    let vectors = Vectors::load();
    for vector in vectors.list("malformed_requests") {
        let (mut server, mut client) = vectors.connect();
        let status = client.request_json(&serde_json::json!({"op": "status"})).unwrap().0;
        let frame = hex::decode(vector["frame"].as_str().unwrap()).unwrap();
        let refusal = match &server_events(&vectors, &mut server, &frame)[..] {
            [Event::Malformed { seq: 1, refusal }] => refusal.clone(),
            other => panic!("{}: {other:?}", vector["why"]),
        };
        assert!(!refusal.message.contains("the key\""), "{refusal:?}");
        let frame = server.reply::<()>(1, &Reply::Error(refusal.clone())).unwrap();
        match &client.feed(&frame).unwrap()[..] {
            [ClientEvent::Reply(reply)] if reply.seq == status => {
                assert_eq!(reply.clone().into_reply::<()>().unwrap(), Reply::Error(refusal));
            }
            other => panic!("{}: {other:?}", vector["why"]),
        }
        let (_, next) = client.request(&Request::Check).unwrap();
        assert!(matches!(server_events(&vectors, &mut server, &next)[..], [Event::Request(_)]));
    }
}

/// The bytes in `PROTOCOL.md` are those of the file, so that neither can drift from the other.
#[test]
fn the_specification_shows_these_vectors() {
    let vectors = Vectors::load();
    let text: String =
        include_str!("../PROTOCOL.md").chars().filter(|c| !c.is_whitespace()).collect();
    let mut shown = vec![];
    for pointer in [
        "/client_hello",
        "/server_hello",
        "/client_proof",
        "/server_proof",
        "/unauthenticated",
        "/secret",
        "/requests/0/frame",
        "/requests/2/frame",
        "/replies/0/frame",
        "/replies/3/frame",
    ] {
        shown.push(vectors.0.pointer(pointer).unwrap().as_str().unwrap());
    }
    shown.extend(vectors.0["keys"].as_object().unwrap().values().map(|key| key.as_str().unwrap()));
    for hex in shown {
        assert!(text.contains(hex), "PROTOCOL.md does not show {hex}");
    }
}

//! v2 under random pieces, random damage and random bytes: nothing panics, nothing grows, nothing slips through.
#![allow(clippy::unwrap_used)]

mod common;

use common::{CLIENT_NONCE, connected, feed, feed_client, key, new_server, remove};
use config_proto::message::Request;
use config_proto::v2::client::Client;
use config_proto::v2::{MAX_CLIENT_HELLO_LEN, MAX_FRAME_BYTES};
use proptest::prelude::*;

/// All that a client sends in one session, and its requests.
fn session() -> (Vec<u8>, Vec<Request>) {
    let (mut client, _, handshake) = connected();
    let requests = vec![remove("a"), Request::Status, remove(&"long".repeat(200)), Request::Check];
    let mut stream = [handshake.client_hello, handshake.client_proof].concat();
    for request in &requests {
        stream.extend(client.request(request).unwrap().1);
    }
    (stream, requests)
}

/// Bounded by what has arrived, by the longest frame, and from below by the smallest allocation.
fn bound(arrived: usize) -> usize {
    (2 * arrived).clamp(512, MAX_FRAME_BYTES)
}

proptest! {
    #[test]
    fn pieces_do_not_matter(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let (stream, requests) = session();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        cuts.push(stream.len());
        let mut server = new_server();
        let (mut from, mut received) = (0, vec![]);
        for to in cuts {
            let outcome = feed(&mut server, &stream[from..to]);
            prop_assert_eq!(outcome.refused, None);
            received.extend(outcome.requests.into_iter().map(|received| received.request));
            prop_assert!(server.buffered() <= bound(to));
            from = to;
        }
        prop_assert_eq!(received, requests);
    }

    /// Whatever is changed in a session, the server acts only on the requests before the change.
    #[test]
    fn damage_stops_the_session_where_it_is(
        at in any::<prop::sample::Index>(),
        damage in prop_oneof![
            any::<u8>().prop_map(|byte| (1, vec![byte])),
            (0..50_usize).prop_map(|n| (n, vec![])),
            proptest::collection::vec(any::<u8>(), 1..50).prop_map(|bytes| (0, bytes)),
        ],
    ) {
        let (stream, requests) = session();
        let at = at.index(stream.len());
        let end = (at + damage.0).min(stream.len());
        let changed = [&stream[..at], &damage.1, &stream[end..]].concat();
        let outcome = feed(&mut new_server(), &changed);
        let untouched = feed(&mut new_server(), &stream[..at]).requests.len();
        // Bytes can be replaced by equal ones.
        let same = stream.iter().zip(&changed).take_while(|(a, b)| a == b).count();
        let untouched = untouched.max(feed(&mut new_server(), &stream[..same]).requests.len());
        prop_assert_eq!(outcome.requests.len(), untouched);
        for (received, request) in outcome.requests.into_iter().zip(requests) {
            prop_assert_eq!(received.request, request);
        }
    }

    #[test]
    fn random_bytes_to_a_server_at_every_stage(
        stage in 0..3_usize,
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8),
        announced in any::<Option<u32>>(),
    ) {
        let (_, _, handshake) = connected();
        let mut server = new_server();
        let before = [&[][..], &handshake.client_hello, &handshake.client_proof];
        for bytes in &before[..=stage] {
            feed(&mut server, bytes);
        }
        let mut arrived = 0;
        let announced = announced.map(|length| length.to_be_bytes().to_vec());
        for piece in announced.into_iter().chain(pieces) {
            arrived += piece.len();
            let outcome = feed(&mut server, &piece);
            prop_assert!(outcome.requests.is_empty() && outcome.malformed.is_empty());
            let limit = if stage < 2 { MAX_CLIENT_HELLO_LEN } else { bound(arrived) };
            prop_assert!(server.buffered() <= limit);
        }
    }

    #[test]
    fn random_bytes_to_a_client_at_every_stage(
        stage in 0..3_usize,
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8),
        announced in any::<Option<u32>>(),
    ) {
        let (_, _, handshake) = connected();
        let (mut client, _) = Client::new(&key("admin", 7), CLIENT_NONCE);
        let before = [&[][..], &handshake.server_hello, &handshake.server_proof];
        for bytes in &before[..=stage] {
            feed_client(&mut client, bytes);
        }
        prop_assert_eq!(client.is_ready(), stage == 2);
        let mut arrived = 0;
        let announced = announced.map(|length| length.to_be_bytes().to_vec());
        for piece in announced.into_iter().chain(pieces) {
            arrived += piece.len();
            let outcome = feed_client(&mut client, &piece);
            prop_assert!(outcome.replies.is_empty() && !outcome.ready);
            prop_assert!(client.buffered() <= bound(arrived));
        }
    }

    /// A holder of a key can send any body; it is a request or it is answered as malformed, and the next one counts.
    #[test]
    fn any_authentic_body_is_answered(body in arbitrary_json()) {
        let (mut client, mut server, _) = connected();
        let (seq, frame) = client.request_json(&body).unwrap();
        let outcome = feed(&mut server, &frame);
        prop_assert_eq!(outcome.refused, None);
        prop_assert_eq!(outcome.requests.len() + outcome.malformed.len(), 1);
        let reply = server.reply(seq, &common::changed(1)).unwrap();
        prop_assert_eq!(feed_client(&mut client, &reply).replies.len(), 1);
        let (_, next) = client.request(&Request::Status).unwrap();
        prop_assert_eq!(feed(&mut server, &next).requests.len(), 1);
    }
}

fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![".{0,10}", "add|remove|status|cert-set|list"].prop_map(Value::from),
    ];
    let name = prop_oneof!["op|name|key_pem|settings|ok|secret|sealed|limit", ".{0,5}"];
    leaf.prop_recursive(3, 20, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map(name.clone(), inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

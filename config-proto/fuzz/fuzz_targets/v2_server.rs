//! The v2 server under arbitrary bytes at every stage, and under arbitrary bodies of a client that holds the key.
#![no_main]

use std::time::Instant;

use config_proto::key::{Key, KeyId, KnownKey};
use config_proto::message::Role;
use config_proto::v2::client::{Client, Event as ClientEvent};
use config_proto::v2::server::{Event, Limits, Server};
use libfuzzer_sys::fuzz_target;

fn key() -> Key {
    Key::generate("admin".parse().unwrap(), &[7; 32])
}

fn lookup(id: &KeyId) -> Option<KnownKey> {
    let key = key();
    (id == key.id()).then_some(KnownKey { key, role: Role::Admin })
}

fn feed(server: &mut Server, bytes: &[u8]) -> Vec<Event> {
    server.feed(bytes, Instant::now(), &lookup)
}

fn sent(events: &[Event]) -> &[u8] {
    match events {
        [Event::Send(bytes)] => bytes,
        _ => &[],
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((stage, data)) = data.split_first() else { return };
    let now = Instant::now();
    let mut server = Server::new([2; 32], now, Limits::default());
    let (mut client, hello) = Client::new(&key(), [1; 32]);
    if stage % 4 > 0 {
        let server_hello = sent(&feed(&mut server, &hello)).to_vec();
        let proof = client.feed(&server_hello).unwrap();
        if stage % 4 > 1 {
            let [ClientEvent::Send(proof)] = &proof[..] else { unreachable!() };
            let server_proof = sent(&feed(&mut server, proof)).to_vec();
            client.feed(&server_proof).unwrap();
        }
    }
    if stage % 4 == 3 {
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(data) else { return };
        let Ok((seq, frame)) = client.request_json(&body) else { return };
        let events = feed(&mut server, &frame);
        assert!(matches!(events[..], [Event::Request(_) | Event::Malformed { .. }]));
        let reply = config_proto::message::Reply::Ok(&body);
        if let Ok(reply) = server.reply(seq, &reply) {
            assert!(matches!(client.feed(&reply).unwrap()[..], [ClientEvent::Reply(_)]));
        }
        return;
    }
    let (first, second) = data.split_at(data.len() / 2);
    for bytes in [first, second] {
        for event in feed(&mut server, bytes) {
            assert!(
                !matches!(event, Event::Request(_) | Event::Malformed { .. }),
                "a tag was guessed"
            );
        }
    }
    assert!(server.buffered() <= 512.max(2 * data.len()));
});

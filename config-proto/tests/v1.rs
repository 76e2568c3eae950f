//! v1 against the vectors of an independent encoder, and against what an attacker can do to a request.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use config_proto::v1::message::{DONE, NOT_AUTHENTICATED};
use config_proto::v1::server::{Decoder, Refused};
use config_proto::v1::{DerError, MAX_REQUEST_BYTES, Reply, Request, Sni, client, server, store};
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/control-v1.json")).unwrap()
}

fn key() -> Vec<u8> {
    vectors()["hmac_key_is_the_argument_string_itself"].as_str().unwrap().as_bytes().to_vec()
}

fn sni(name: &str, host: &str, port: u16) -> Sni {
    Sni { name: name.to_owned(), host: host.parse().unwrap(), port }
}

fn requests() -> Vec<(&'static str, Request)> {
    vec![
        ("add_v4", Request::Add(sni("test.example.org", "192.168.0.42", 80))),
        ("add_v4_low", Request::Add(sni("low.example.org", "10.0.0.7", 8080))),
        ("add_v6", Request::Add(sni("six.example.org", "2001:db8::8000:1", 443))),
        ("remove", Request::Remove("test.example.org".to_owned())),
        ("list", Request::List),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let result = |exit, message: &str| Reply::Result { exit, message: message.to_owned() };
    vec![
        ("snis_empty", Reply::Snis(vec![])),
        (
            "snis_two",
            Reply::Snis(vec![
                sni("a.example.org", "192.168.0.42", 80),
                sni("default", "10.0.0.1", 8080),
            ]),
        ),
        ("result_ok", result(DONE, "test.example.org was successfully added")),
        ("result_auth", result(NOT_AUTHENTICATED, "authentication failure")),
    ]
}

fn bytes(vectors: &Value, name: &str, part: &str) -> Vec<u8> {
    hex::decode(vectors["commands"][name][part].as_str().unwrap()).unwrap()
}

#[test]
fn every_vector_in_both_directions() {
    let vectors = vectors();
    let mut seen = 0;
    for (name, request) in requests() {
        let (der, frame) = (bytes(&vectors, name, "der"), bytes(&vectors, name, "request_frame"));
        assert_eq!(Request::decode(&der), Ok(request.clone()), "{name}");
        assert_eq!(hex::encode(request.encode()), hex::encode(der), "{name}");
        assert_eq!(hex::encode(client::request(&request, &key())), hex::encode(&frame), "{name}");
        assert_eq!(Decoder::new().feed(&frame, &key()), Ok(Some(request)), "{name}");
        seen += 1;
    }
    for (name, reply) in replies() {
        let (der, frame) = (bytes(&vectors, name, "der"), bytes(&vectors, name, "reply_frame"));
        assert_eq!(Reply::decode(&der), Ok(reply.clone()), "{name}");
        assert_eq!(hex::encode(server::reply(&reply)), hex::encode(&frame), "{name}");
        assert_eq!(client::Decoder::new().feed(&frame), Ok(Some(reply)), "{name}");
        seen += 1;
    }
    assert_eq!(seen, vectors["commands"].as_object().unwrap().len(), "a vector without a test");
}

#[test]
fn requests_and_replies_arrive_byte_by_byte() {
    for (name, request) in requests() {
        let frame = client::request(&request, &key());
        let mut decoder = Decoder::new();
        let (last, start) = frame.split_last().unwrap();
        for byte in start {
            assert_eq!(decoder.feed(&[*byte], &key()), Ok(None), "{name}");
            assert_eq!(decoder.end(), Err(Refused::Truncated), "{name}");
        }
        assert_eq!(decoder.feed(&[*last], &key()), Ok(Some(request)), "{name}");
    }
    for (name, reply) in replies() {
        let frame = server::reply(&reply);
        let mut decoder = client::Decoder::new();
        let (last, start) = frame.split_last().unwrap();
        for byte in start {
            assert_eq!(decoder.feed(&[*byte]), Ok(None), "{name}");
        }
        assert_eq!(decoder.feed(&[*last]), Ok(Some(reply)), "{name}");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_request_is_refused() {
    for (name, request) in requests() {
        let frame = client::request(&request, &key());
        for bit in 0..frame.len() * 8 {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let outcome = Decoder::new().feed(&changed, &key());
            assert!(matches!(outcome, Err(_) | Ok(None)), "{name} bit {bit}: {outcome:?}");
            if bit >= 64 {
                assert_eq!(outcome, Err(Refused::BadTag), "{name} bit {bit}");
            }
        }
    }
}

#[test]
fn a_wrong_key_is_answered_as_the_original_does() {
    let frame = client::request(&Request::List, b"another key");
    let refused = Decoder::new().feed(&frame, &key()).unwrap_err();
    let reply = server::reply(&refused.reply().unwrap());
    assert_eq!(reply, bytes(&vectors(), "result_auth", "reply_frame"));
}

#[test]
fn an_over_long_announcement_costs_nothing() {
    for length in [MAX_REQUEST_BYTES as u64 + 1, u64::from(u32::MAX), u64::MAX] {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.feed(&length.to_be_bytes(), &key()), Err(Refused::TooLong(length)));
        assert!(decoder.buffered() <= 512);
    }
    let mut decoder = Decoder::new();
    decoder.feed(&(MAX_REQUEST_BYTES as u64).to_be_bytes(), &key()).unwrap();
    assert!(decoder.buffered() <= 512, "memory follows what arrives: {}", decoder.buffered());
}

#[test]
fn what_is_authentic_and_no_request_is_undecodable() {
    // A list of replies, a request with a byte after it, nothing at all.
    let mut trailing = Request::List.encode();
    trailing.push(0);
    for (der, error) in [
        (Reply::Snis(vec![]).encode(), DerError::UnexpectedTag(0xa3)),
        (trailing, DerError::Trailing),
        (vec![], DerError::Truncated),
        (hex::decode("a2030501ff").unwrap(), DerError::Trailing),
        // Ports 65536 and -1, and an IPv4 address of 33 bits.
        (hex::decode("a00f300d0c0161a0030201010203010000").unwrap(), DerError::BadInteger),
        (hex::decode("a00d300b0c0161a0030201010201ff").unwrap(), DerError::BadInteger),
        (hex::decode("a011300f0c0161a00702050100000000020150").unwrap(), DerError::BadInteger),
    ] {
        assert_eq!(Request::decode(&der), Err(error), "{}", hex::encode(&der));
    }
    let frame = client::request(&Request::List, &key());
    let mut longer = frame;
    longer.push(0);
    assert_eq!(Decoder::new().feed(&longer, &key()), Err(Refused::Malformed));
    assert_eq!(Decoder::new().feed(&[0, 0, 0, 0, 0, 0, 0, 0], &key()), Err(Refused::Malformed));
}

#[test]
fn the_disk_has_its_own_choice() {
    assert_eq!(store::decode(&[]), Ok(vec![]));
    assert_eq!(hex::encode(store::encode(&[])), "a1020500");
    assert_eq!(store::decode(&[0xa1, 2, 5, 0]), Ok(vec![]));
    // The same list as in a reply, under the disk's own tag.
    let mut disk = bytes(&vectors(), "snis_two", "der");
    disk[0] = 0xa0;
    let names = store::decode(&disk).unwrap();
    assert_eq!(
        names.iter().map(|sni| sni.name.as_str()).collect::<Vec<_>>(),
        ["a.example.org", "default"]
    );
    assert_eq!(store::encode(&names), disk);
    disk.push(0);
    assert_eq!(store::decode(&disk), Err(DerError::Trailing));
}

#[test]
fn names_become_routes_and_come_back() {
    for (name, port) in [("a.example.org", 80), ("default", 8080)] {
        let before = sni(name, "10.0.0.1", port);
        let route = before.to_route().unwrap();
        assert_eq!(Sni::from_route(&route), Some(before));
    }
    assert!(sni("10.0.0.1", "10.0.0.1", 80).to_route().is_err());
    let mut route = sni("a.example.org", "10.0.0.1", 80).to_route().unwrap();
    route.name = "*.example.org".parse().unwrap();
    assert_eq!(Sni::from_route(&route), None);
}

fn any_sni() -> impl Strategy<Value = Sni> {
    (".{0,40}", any::<IpAddr>(), any::<u16>()).prop_map(|(name, host, port)| Sni {
        name,
        host,
        port,
    })
}

proptest! {
    #[test]
    fn any_request_survives_the_way(sni in any_sni(), key in proptest::collection::vec(any::<u8>(), 0..100)) {
        for request in [Request::Add(sni.clone()), Request::Remove(sni.name.clone())] {
            let frame = client::request(&request, &key);
            prop_assert_eq!(Decoder::new().feed(&frame, &key), Ok(Some(request)));
        }
    }

    #[test]
    fn any_list_survives_the_way(snis in proptest::collection::vec(any_sni(), 0..20)) {
        prop_assert_eq!(store::decode(&store::encode(&snis)), Ok(snis.clone()));
        let frame = server::reply(&Reply::Snis(snis.clone()));
        prop_assert_eq!(client::Decoder::new().feed(&frame), Ok(Some(Reply::Snis(snis))));
    }

    /// DER has one form for each value: what decodes encodes to the same bytes.
    #[test]
    fn any_bytes_decode_to_an_error_or_come_back(
        seed in prop_oneof![Just(Request::List.encode()), any_sni().prop_map(|s| Request::Add(s).encode())],
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        raw in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut changed = seed;
        let at = at.index(changed.len());
        changed[at] = byte;
        for bytes in [changed, raw] {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            if let Ok(reply) = Reply::decode(&bytes) {
                prop_assert_eq!(reply.encode(), bytes.clone());
            }
            let _ = store::decode(&bytes);
            let mut decoder = Decoder::new();
            let _ = decoder.feed(&bytes, b"key");
            prop_assert!(decoder.buffered() <= 512.max(2 * bytes.len()));
        }
    }
}

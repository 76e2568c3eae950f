//! What someone on the way can do to a v2 connection, each of it refused in bounded memory.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::{
    CLIENT_NONCE, changed, connected, connected_with, feed, feed_client, key, lookup, new_server,
    new_server_with, remove,
};
use config_proto::message::{Changed, MAX_REFUSAL_TEXT, Reply, Request};
use config_proto::v2::client::{Client, ClientError, RequestError};
use config_proto::v2::server::{Event, Limits, Refused, ReplyError, Server};
use config_proto::v2::{
    FRAME_OVERHEAD, MAGIC, MAX_CLIENT_HELLO_LEN, MAX_FRAME_BYTES, UNAUTHENTICATED,
};

/// Most memory that the unfinished input of a peer without a key may hold.
const UNPROVEN: usize = 512;

fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..bytes.len() * 8).map(|bit| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        changed
    })
}

#[test]
fn a_flipped_bit_of_the_client_hello_ends_in_no_connection() {
    let (_, hello) = Client::new(&key("admin", 7), CLIENT_NONCE);
    for changed in flips(&hello) {
        let (mut client, _) = Client::new(&key("admin", 7), CLIENT_NONCE);
        let mut server = new_server();
        let first = feed(&mut server, &changed);
        let proof = feed_client(&mut client, &first.sent).sent;
        let second = feed(&mut server, &proof);
        assert!(
            first.refused.or(second.refused).is_some() || server.end().is_err(),
            "{}",
            hex::encode(&changed)
        );
        assert!(server.peer().is_none());
        let last = feed_client(&mut client, &second.sent);
        assert!(!last.ready && !client.is_ready());
    }
}

#[test]
fn a_flipped_bit_of_the_server_hello_ends_in_no_connection() {
    let (_, _, handshake) = connected();
    for changed in flips(&handshake.server_hello) {
        let (mut client, hello) = Client::new(&key("admin", 7), CLIENT_NONCE);
        let mut server = new_server();
        feed(&mut server, &hello);
        let first = feed_client(&mut client, &changed);
        let outcome = feed(&mut server, &first.sent);
        let last = feed_client(&mut client, &outcome.sent);
        match first.error {
            Some(error) => {
                assert!(matches!(error, ClientError::BadMagic | ClientError::BadVersion(_)))
            }
            None => {
                assert_eq!(outcome.refused, Some(Refused::BadTag));
                assert_eq!(outcome.sent, UNAUTHENTICATED);
                assert_eq!(last.error, Some(ClientError::NotAuthenticated));
            }
        }
        assert!(server.peer().is_none());
        assert!(!client.is_ready());
    }
}

#[test]
fn a_flipped_bit_of_a_proof_ends_in_no_connection() {
    let (_, _, handshake) = connected();
    for changed in flips(&handshake.client_proof) {
        let mut server = new_server();
        feed(&mut server, &handshake.client_hello);
        let outcome = feed(&mut server, &changed);
        assert!(outcome.refused.is_some(), "{}", hex::encode(&changed));
        assert!(outcome.sent.is_empty() || outcome.sent == UNAUTHENTICATED);
        assert!(server.peer().is_none());
    }
    for changed in flips(&handshake.server_proof) {
        let (mut client, _) = Client::new(&key("admin", 7), CLIENT_NONCE);
        feed_client(&mut client, &handshake.server_hello);
        let outcome = feed_client(&mut client, &changed);
        assert!(outcome.error.is_some() && !client.is_ready(), "{}", hex::encode(&changed));
    }
}

#[test]
fn a_flipped_bit_of_a_request_or_reply_is_never_acted_upon() {
    let (mut client, mut server, _) = connected();
    let (seq, request) = client.request(&remove("blog")).unwrap();
    feed(&mut server, &request);
    let reply = server.reply(seq, &changed(2)).unwrap();
    for changed in flips(&request) {
        let (_, mut server, _) = connected();
        let outcome = feed(&mut server, &changed);
        assert!(outcome.requests.is_empty() && outcome.malformed.is_empty());
        // A greater length waits for bytes that will not come; what comes instead is refused with it.
        assert!(outcome.refused.is_some() || server.end() == Err(Refused::Truncated));
        if outcome.refused.is_none() {
            assert!(server.buffered() <= UNPROVEN);
        }
    }
    for changed in flips(&reply) {
        let (mut client, _, _) = connected();
        client.request(&remove("blog")).unwrap();
        let outcome = feed_client(&mut client, &changed);
        assert!(outcome.replies.is_empty());
        assert!(outcome.error.is_some() || client.end() == Err(ClientError::Truncated));
    }
}

#[test]
fn replayed_repeated_exchanged_and_missing_frames() {
    let frames: Vec<Vec<u8>> = {
        let (mut client, _, _) = connected();
        ["a", "b", "c"].map(|name| client.request(&remove(name)).unwrap().1).into()
    };
    for (order, accepted) in
        [(&[0, 0][..], 1), (&[0, 1, 0], 2), (&[1, 0], 0), (&[0, 2], 1), (&[0, 1, 2, 2], 3)]
    {
        let (_, mut server, _) = connected();
        let stream: Vec<u8> = order.iter().flat_map(|i| frames[*i].clone()).collect();
        let outcome = feed(&mut server, &stream);
        assert_eq!(outcome.requests.len(), accepted, "{order:?}");
        assert_eq!(outcome.refused, Some(Refused::BadSequence), "{order:?}");
    }
    // The proof again, in the place of a request.
    let (_, mut server, handshake) = connected();
    assert_eq!(feed(&mut server, &handshake.client_proof).refused, Some(Refused::BadSequence));
}

#[test]
fn replies_repeated_exchanged_or_unasked_for() {
    let replies: Vec<Vec<u8>> = {
        let (mut client, mut server, _) = connected();
        (1..=2)
            .map(|generation| {
                let (seq, frame) = client.request(&remove("a")).unwrap();
                feed(&mut server, &frame);
                server.reply(seq, &changed(generation)).unwrap()
            })
            .collect()
    };
    for (asked, order, accepted) in
        [(1, &[0, 0][..], 1), (2, &[1], 0), (0, &[0], 0), (1, &[0, 1], 1)]
    {
        let (mut client, _, _) = connected();
        for _ in 0..asked {
            client.request(&remove("a")).unwrap();
        }
        for (position, reply) in order.iter().enumerate() {
            let outcome = feed_client(&mut client, &replies[*reply]);
            if position < accepted {
                assert_eq!(outcome.replies.len(), 1);
            } else {
                assert_eq!(outcome.error, Some(ClientError::BadSequence), "{asked} {order:?}");
            }
        }
    }
}

#[test]
fn reflected_frames() {
    let (mut client, mut server, handshake) = connected();
    let (seq, request) = client.request(&Request::Status).unwrap();
    feed(&mut server, &request);
    let reply = server.reply(seq, &changed(1)).unwrap();
    assert_eq!(feed_client(&mut client, &request).error, Some(ClientError::BadTag));
    assert_eq!(feed(&mut server, &reply).refused, Some(Refused::BadTag));

    let (mut client, hello) = Client::new(&key("admin", 7), CLIENT_NONCE);
    // A client's own hello starts like a server's; what follows it is then no proof.
    let error = feed_client(&mut client, &hello).error;
    assert!(matches!(error, Some(ClientError::TooLong(_))), "{error:?}");
    let (mut client, _) = Client::new(&key("admin", 7), CLIENT_NONCE);
    let proof = feed_client(&mut client, &handshake.server_hello).sent;
    assert_eq!(feed_client(&mut client, &proof).error, Some(ClientError::NotAuthenticated));
    let mut server = new_server();
    feed(&mut server, &handshake.client_hello);
    assert_eq!(feed(&mut server, &handshake.server_proof).refused, Some(Refused::BadTag));
}

#[test]
fn frames_of_a_second_connection() {
    let (mut recorded, mut recorded_server, first) = connected();
    let (seq, request) = recorded.request(&remove("blog")).unwrap();
    feed(&mut recorded_server, &request);
    let reply = recorded_server.reply(seq, &changed(2)).unwrap();

    // Into a connection of the same key whose nonces differ, on either side alone and on both.
    for (client_nonce, server_nonce) in
        [([1; 32], [0x5e; 32]), (CLIENT_NONCE, [2; 32]), ([1; 32], [2; 32])]
    {
        let (mut client, mut server, _) =
            connected_with(&key("admin", 7), client_nonce, server_nonce);
        client.request(&remove("blog")).unwrap();
        assert_eq!(feed(&mut server, &request).refused, Some(Refused::BadTag));
        assert_eq!(feed_client(&mut client, &reply).error, Some(ClientError::BadTag));
    }
    // A whole recording, played to a new server and to a new client.
    let mut server = new_server_with([2; 32]);
    feed(&mut server, &first.client_hello);
    let outcome = feed(&mut server, &[&first.client_proof[..], &request].concat());
    assert_eq!(outcome.refused, Some(Refused::BadTag));
    assert!(outcome.requests.is_empty());
    let (mut client, _) = Client::new(&key("admin", 7), [1; 32]);
    feed_client(&mut client, &first.server_hello);
    assert_eq!(
        feed_client(&mut client, &first.server_proof).error,
        Some(ClientError::NotAuthenticated)
    );
}

#[test]
fn a_stream_cut_at_every_byte() {
    let (mut client, _, handshake) = connected();
    let (_, request) = client.request(&remove("blog")).unwrap();
    let stream = [&handshake.client_hello[..], &handshake.client_proof, &request].concat();
    let hello_end = handshake.client_hello.len();
    let proof_end = hello_end + handshake.client_proof.len();
    for cut in 0..=stream.len() {
        let mut server = new_server();
        let outcome = feed(&mut server, &stream[..cut]);
        assert_eq!(outcome.refused, None);
        assert_eq!(outcome.requests.len(), usize::from(cut == stream.len()));
        let clean = [0, proof_end, stream.len()].contains(&cut);
        assert_eq!(server.end(), if clean { Ok(()) } else { Err(Refused::Truncated) }, "{cut}");
        assert!(feed(&mut server, &stream[cut..]).requests.is_empty(), "nothing after the end");
    }
}

#[test]
fn byte_by_byte() {
    let (mut client, mut server) = (Client::new(&key("admin", 7), CLIENT_NONCE), new_server());
    let (client, mut to_server) = (&mut client.0, client.1);
    let mut replies = vec![];
    let mut asked = 0;
    while !to_server.is_empty() {
        let mut to_client = vec![];
        for byte in std::mem::take(&mut to_server) {
            let outcome = feed(&mut server, &[byte]);
            assert_eq!(outcome.refused, None);
            to_client.extend(outcome.sent);
            for request in outcome.requests {
                to_client.extend(server.reply(request.seq, &changed(request.seq)).unwrap());
            }
        }
        for byte in to_client {
            let outcome = feed_client(client, &[byte]);
            assert_eq!(outcome.error, None);
            to_server.extend(outcome.sent);
            replies.extend(outcome.replies);
        }
        if client.is_ready() && asked < 3 {
            asked += 1;
            to_server.extend(client.request(&remove("blog")).unwrap().1);
        }
    }
    assert_eq!(replies.len(), 3);
    for (number, reply) in (1..).zip(replies) {
        assert_eq!(reply.into_reply::<Changed>().unwrap(), changed(number));
    }
    assert_eq!((client.end(), server.end()), (Ok(()), Ok(())));
}

#[test]
fn a_wrong_secret_and_an_unknown_id_look_the_same_from_outside() {
    let mut answers = vec![];
    for (key, reason) in
        [(key("admin", 9), Refused::BadTag), (key("nobody", 7), Refused::UnknownKey)]
    {
        let (mut client, hello) = Client::new(&key, CLIENT_NONCE);
        let mut server = new_server();
        let server_hello = feed(&mut server, &hello).sent;
        let proof = feed_client(&mut client, &server_hello).sent;
        let outcome = feed(&mut server, &proof);
        assert_eq!(outcome.refused, Some(reason));
        assert_eq!(
            feed_client(&mut client, &outcome.sent).error,
            Some(ClientError::NotAuthenticated)
        );
        assert!(matches!(client.request(&Request::Status), Err(RequestError::NotReady)));
        answers.push((server_hello, outcome.sent));
    }
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn an_unknown_id_is_refused_even_with_the_secret_that_stands_in_for_it() {
    let decoy = config_proto::key::Key::new("nobody".parse().unwrap(), &[0; 16]).unwrap();
    let (mut client, hello) = Client::new(&decoy, CLIENT_NONCE);
    let mut server = new_server();
    let server_hello = feed(&mut server, &hello).sent;
    let proof = feed_client(&mut client, &server_hello).sent;
    let outcome = feed(&mut server, &proof);
    assert_eq!(
        (outcome.refused, &outcome.sent[..]),
        (Some(Refused::UnknownKey), &UNAUTHENTICATED[..])
    );
}

#[test]
fn one_key_does_not_speak_for_another() {
    let (_, _, handshake) = connected_with(&key("viewer", 8), CLIENT_NONCE, common::SERVER_NONCE);
    let mut server = new_server();
    let (_, hello) = Client::new(&key("admin", 7), CLIENT_NONCE);
    feed(&mut server, &hello);
    assert_eq!(feed(&mut server, &handshake.client_proof).refused, Some(Refused::BadTag));
}

#[test]
fn an_over_long_frame_is_refused_at_its_length() {
    for length in [0_u32, 40, 42, 4096, u32::MAX] {
        let (_, _, handshake) = connected();
        let mut server = new_server();
        feed(&mut server, &handshake.client_hello);
        let outcome = feed(&mut server, &length.to_be_bytes());
        let reason = if length < 41 { Refused::Malformed } else { Refused::TooLong };
        assert_eq!(outcome.refused, Some(reason), "{length}");
        assert!(server.buffered() <= UNPROVEN);

        let (mut client, _) = Client::new(&key("admin", 7), CLIENT_NONCE);
        feed_client(&mut client, &handshake.server_hello);
        assert!(feed_client(&mut client, &length.to_be_bytes()).error.is_some());
    }
    let above = u32::try_from(MAX_FRAME_BYTES - 4 + 1).unwrap();
    let (mut client, mut server, _) = connected();
    assert_eq!(feed(&mut server, &above.to_be_bytes()).refused, Some(Refused::TooLong));
    assert_eq!(
        feed_client(&mut client, &above.to_be_bytes()).error,
        Some(ClientError::TooLong(MAX_FRAME_BYTES as u64 + 1))
    );
    // The longest that is allowed costs only what has arrived of it.
    let (mut client, mut server, _) = connected();
    let longest = (above - 1).to_be_bytes();
    assert_eq!(feed(&mut server, &longest).refused, None);
    assert!(server.buffered() <= UNPROVEN);
    feed(&mut server, &[0; 10_000]);
    assert!(server.buffered() <= 20_100, "{}", server.buffered());
    feed_client(&mut client, &longest);
    assert!(client.buffered() <= UNPROVEN);
}

#[test]
fn other_protocols_are_turned_away_at_the_first_wrong_byte() {
    for (bytes, reason) in [
        (&b"G"[..], Refused::BadMagic),
        (b"tlsctl\n", Refused::BadMagic),
        (b"\x16\x03\x01", Refused::BadMagic),
        (b"tlsctl\r\n\x02\x00", Refused::Malformed),
        (b"tlsctl\r\n\x02\x41", Refused::Malformed),
        (b"tlsctl\r\n\x03", Refused::BadVersion),
    ] {
        let mut server = new_server();
        let outcome = feed(&mut server, bytes);
        assert_eq!(outcome.refused, Some(reason));
        if reason == Refused::BadVersion {
            let (mut client, _) = Client::new(&key("admin", 7), CLIENT_NONCE);
            assert_eq!(
                feed_client(&mut client, &outcome.sent).error,
                None,
                "the answer is our hello"
            );
        } else {
            assert!(outcome.sent.is_empty());
        }
        assert!(server.buffered() <= UNPROVEN);
    }
    let bad_id = [&MAGIC[..], &[2, 3], b"a b", &[0; 32]].concat();
    assert_eq!(feed(&mut new_server(), &bad_id).refused, Some(Refused::Malformed));
    let (mut client, _) = Client::new(&key("admin", 7), CLIENT_NONCE);
    assert_eq!(feed_client(&mut client, b"HTTP/1.1 400").error, Some(ClientError::BadMagic));
    let (mut client, _) = Client::new(&key("admin", 7), CLIENT_NONCE);
    assert_eq!(feed_client(&mut client, b"tlsctl\r\n\x07").error, Some(ClientError::BadVersion(7)));
}

#[test]
fn a_peer_without_a_key_never_holds_more_than_a_hello() {
    let (_, hello) = Client::new(&key(&"x".repeat(64), 7), CLIENT_NONCE);
    assert_eq!(hello.len(), MAX_CLIENT_HELLO_LEN);
    let mut server = new_server();
    for piece in [&hello[..], &[0, 0, 0, 41], &[0; FRAME_OVERHEAD - 5]] {
        for byte in piece {
            assert_eq!(feed(&mut server, &[*byte]).refused, None);
            assert!(server.buffered() <= MAX_CLIENT_HELLO_LEN, "{}", server.buffered());
        }
    }
    assert_eq!(feed(&mut server, &[0]).refused, Some(Refused::UnknownKey));
}

#[test]
fn a_slow_sender_gains_no_time_by_sending_a_little() {
    let limits = Limits::default();
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let (mut client, hello) = Client::new(&key("admin", 7), CLIENT_NONCE);
    let mut server = Server::new(common::SERVER_NONCE, start, limits);
    for (second, byte) in (0..).zip(&hello[..9]) {
        server.feed(&[*byte], at(second), &lookup);
        assert_eq!(server.deadline(), Some(start + limits.handshake));
        assert_eq!(server.expire(at(second)), None);
    }
    let mut outcome = common::Outcome::default();
    common::collect(&mut outcome, server.feed(&hello[9..], at(9), &lookup));
    assert_eq!(server.deadline(), Some(start + limits.handshake), "the proof is due as well");
    let mut late = Server::new(common::SERVER_NONCE, start, limits);
    assert_eq!(late.expire(start + limits.handshake), Some(Refused::TooSlow));
    assert_eq!(late.expire(start + limits.handshake), None, "it ends once");
    assert!(late.feed(&hello, at(11), &lookup).is_empty());

    let proof = feed_client(&mut client, &outcome.sent).sent;
    let mut outcome = common::Outcome::default();
    common::collect(&mut outcome, server.feed(&proof, at(9), &lookup));
    assert!(feed_client(&mut client, &outcome.sent).ready);
    assert_eq!(server.deadline(), Some(at(9) + limits.idle));
    let (_, first) = client.request(&remove("a")).unwrap();
    let (_, second) = client.request(&remove("b")).unwrap();
    server.feed(&first[..1], at(20), &lookup);
    server.feed(&first[1..2], at(40), &lookup);
    assert_eq!(server.deadline(), Some(at(20) + limits.frame), "from the first byte");
    // The rest of one frame with the start of the next: the clock of the next starts now.
    let both = [&first[2..], &second[..5]].concat();
    assert_eq!(server.feed(&both, at(49), &lookup).len(), 1);
    assert_eq!(server.deadline(), Some(at(49) + limits.frame));
    assert_eq!(server.feed(&second[5..], at(50), &lookup).len(), 1);
    assert_eq!(server.deadline(), Some(at(50) + limits.idle));
    assert_eq!(server.expire(at(50) + limits.idle), Some(Refused::Idle));
}

#[test]
fn replies_are_written_in_their_turn_and_within_the_limit() {
    let (mut client, mut server, _) = connected();
    assert!(matches!(
        server.reply(1, &changed(1)),
        Err(ReplyError::OutOfOrder { given: 1, expected: None })
    ));
    let (_, a) = client.request(&remove("a")).unwrap();
    let (_, b) = client.request(&remove("b")).unwrap();
    feed(&mut server, &[a, b].concat());
    assert!(matches!(
        server.reply(2, &changed(1)),
        Err(ReplyError::OutOfOrder { given: 2, expected: Some(1) })
    ));
    let long = Reply::Ok("x".repeat(MAX_FRAME_BYTES - FRAME_OVERHEAD - br#"{"ok":""}"#.len() + 1));
    match server.reply(1, &long) {
        Err(ReplyError::TooLong { bytes, max }) => {
            assert_eq!((bytes, max), (max + 1, MAX_FRAME_BYTES))
        }
        other => panic!("{other:?}"),
    }
    let Reply::Ok(mut longest) = long else { unreachable!() };
    longest.pop();
    let frame = server.reply(1, &Reply::Ok(&longest)).unwrap();
    assert_eq!(frame.len(), MAX_FRAME_BYTES);
    let replies = feed_client(&mut client, &frame).replies;
    assert_eq!(replies[0].clone().into_reply::<String>().unwrap(), Reply::Ok(longest));
    assert!(
        matches!(server.reply(1, &changed(1)), Err(ReplyError::OutOfOrder { .. })),
        "not twice"
    );
    assert!(matches!(
        client.request(&remove(&"x".repeat(MAX_FRAME_BYTES))),
        Err(RequestError::TooLong { .. })
    ));
    let (seq, _) = client.request(&remove("c")).unwrap();
    assert_eq!(seq, 3, "a request that was not written takes no number");
}

#[test]
fn a_refusal_that_quotes_a_huge_request_fits_into_a_frame() {
    let (mut client, mut server, _) = connected();
    let huge = "\u{1}ü".repeat(100_000);
    for request in
        [serde_json::json!({"op": huge}), serde_json::json!({"op": "remove", "name": huge})]
    {
        let (seq, frame) = client.request_json(&request).unwrap();
        let mut events = server.feed(&frame, Instant::now(), &lookup);
        let refusal = match events.pop().unwrap() {
            Event::Malformed { refusal, .. } => refusal,
            Event::Request(received) => {
                let scoped = "names:*.a.b".parse().unwrap();
                config_proto::access::permits(&scoped, &received.request, None).unwrap_err()
            }
            other => panic!("{other:?}"),
        };
        assert!(refusal.message.len() > MAX_REFUSAL_TEXT);
        let frame = server.reply::<()>(seq, &Reply::Error(refusal)).unwrap();
        assert!(frame.len() < 16 << 10, "{}", frame.len());
        let reply = feed_client(&mut client, &frame).replies.remove(0);
        match reply.into_reply::<()>().unwrap() {
            Reply::Error(refusal) => {
                assert!(
                    refusal.message.len() <= MAX_REFUSAL_TEXT && refusal.message.ends_with('…')
                );
            }
            Reply::Ok(()) => panic!("not refused"),
        }
    }
}

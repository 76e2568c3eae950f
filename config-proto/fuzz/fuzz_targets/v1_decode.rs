//! v1: DER has one form for each value, so whatever decodes must encode to the same bytes; frames may come in pieces.
#![no_main]

use config_proto::v1::{Reply, Request, client, server, store};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode(), data);
        let frame = client::request(&request, b"key");
        let (start, end) = frame.split_at(data.len() % frame.len());
        let mut decoder = server::Decoder::new();
        // A request beyond the decoder's bound is refused at its length.
        if let Ok(None) = decoder.feed(start, b"key") {
            if let Ok(received) = decoder.feed(end, b"key") {
                assert_eq!(received, Some(request));
            }
        }
    }
    if let Ok(reply) = Reply::decode(data) {
        assert_eq!(reply.encode(), data);
    }
    if let Ok(names) = store::decode(data) {
        assert_eq!(store::decode(&store::encode(&names)), Ok(names));
    }
    let mut decoder = server::Decoder::new();
    let outcome = decoder.feed(data, b"key");
    assert!(!matches!(outcome, Ok(Some(_))), "a tag was guessed");
    assert!(decoder.buffered() <= 512.max(2 * data.len()));
    let _ = client::Decoder::new().feed(data);
});
